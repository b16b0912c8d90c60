//! The auditor over a real coordinator: what is not conserved is named, and nothing else is.

use std::time::{Duration, Instant};

use sqlx::{Pool, Sqlite};
use tempfile::TempDir;
use tercet::fence::Dialect as _;
use tercet_proto::admin::v1::Invariant;
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::stock::v1::Reserve;
use tokio::task::JoinHandle;

use super::world::{Coordinator, tcc, until};

/// The stock service: one database, and as many instances as a test starts.
struct Stock {
    pool: Pool<Sqlite>,
    instances: Vec<JoinHandle<()>>,
    _folder: TempDir,
}

impl Stock {
    async fn with(coordinator: &Coordinator, items: &[(i64, i64)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let url = format!("sqlite://{}/stock.db", folder.path().display());
        let pool = Sqlite::open(&url).await.expect("a database can be made");
        let mut stock = Self { pool, instances: Vec::new(), _folder: folder };
        stock.come(coordinator).await;
        tercet_stock::seed(&stock.pool, items).await.expect("the items are sound");
        stock
    }

    async fn come(&mut self, coordinator: &Coordinator) {
        let service = tercet_stock::service(self.pool.clone(), None).await.expect("the tables can be made");
        let run = service.coordinator(coordinator.url()).run(std::future::pending());
        self.instances.push(tokio::spawn(async { run.await.expect("the service is sound") }));
        coordinator.connected("stock", self.instances.len()).await;
    }

    async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.expect(sql);
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.instances.iter().for_each(JoinHandle::abort);
    }
}

async fn reserve(coordinator: &Coordinator, item: i64, count: u32) -> pb::TransactionView {
    use prost::Message as _;
    let request = Reserve { item, count }.encode_to_vec().into();
    let branch = pb::Branch { service: "stock".into(), action: "reserve".into(), request, ..Default::default() };
    coordinator.submit(tcc(vec![branch]), pb::Wait::Ended).await.expect("it is accepted")
}

async fn units(coordinator: &Coordinator) -> Option<Invariant> {
    coordinator.statistics().await.invariants.pop()
}

/// Waits until so many operations were seen and all is well.
async fn holds(coordinator: &Coordinator, watermark: u64) -> Invariant {
    until("an auditor that finds all well", async || {
        units(coordinator).await.filter(|units| units.holds && units.watermark >= watermark)
    })
    .await
}

async fn broken(coordinator: &Coordinator) -> Invariant {
    until("an alarm", async || units(coordinator).await.filter(|units| !units.holds)).await
}

#[tokio::test]
async fn a_row_changed_by_hand_is_named_within_five_seconds_with_the_transaction_before_it() {
    let mut coordinator = Coordinator::start().await;
    let mut stock = Stock::with(&coordinator, &[(1, 100), (2, 50)]).await;
    let last = reserve(&coordinator, 1, 3).await;
    let sound = holds(&coordinator, 4).await;
    assert_eq!((sound.resources, sound.total, sound.free, sound.issued), (2, 150, 147, 3));
    // What is delivered is no alarm.
    tercet_stock::seed(&stock.pool, &[(2, 10)]).await.expect("the item is there");
    assert_eq!(holds(&coordinator, 5).await.total, 160);

    let changed = Instant::now();
    stock.run("UPDATE stock SET free = free - 1, issued = issued + 1 WHERE item = 1").await;
    let alarm = broken(&coordinator).await;
    assert!(changed.elapsed() < Duration::from_secs(5), "{:?}", changed.elapsed());
    let [named] = &alarm.broken[..] else { panic!("{alarm:?}") };
    assert_eq!((named.resource, &named.after, named.by.is_empty()), (1, &last.xid, true));
    assert!(named.text.starts_with("changed outside any transaction, after transaction "), "{}", named.text);

    // The mark outlives the coordinator and the instance, and ends when all agree again.
    coordinator.kill().await;
    coordinator.start_again().await;
    stock.instances.remove(0).abort();
    stock.come(&coordinator).await;
    reserve(&coordinator, 1, 1).await;
    assert_eq!(broken(&coordinator).await.broken[0].after, last.xid);
    stock.run("UPDATE stock SET free = free + 1, issued = issued - 1 WHERE item = 1").await;
    holds(&coordinator, 7).await;
}

#[tokio::test]
async fn nothing_is_alarming_about_load_repeats_and_instances_that_die() {
    let coordinator = Coordinator::start().await;
    let mut stock = Stock::with(&coordinator, &[(1, 1_000_000), (2, 1_000), (3, 5)]).await;
    stock.come(&coordinator).await;
    let begun = Instant::now();
    let mut ran = 0;
    while begun.elapsed() < Duration::from_secs(6) {
        let all = (0..40).map(|number| reserve(&coordinator, 1 + number % 3, 1));
        ran += futures_util::future::join_all(all).await.len();
        if ran % 400 == 0 {
            stock.instances.remove(0).abort();
            stock.come(&coordinator).await;
        }
        let units = units(&coordinator).await;
        assert!(units.as_ref().is_none_or(|units| units.holds), "{units:?}");
    }
    coordinator.all_end().await;
    let entered: i64 =
        sqlx::query_scalar("SELECT SUM(operations) FROM tercet_book").fetch_one(&stock.pool).await.unwrap();
    assert!(entered > 1_000, "{entered}");
    assert_eq!(holds(&coordinator, entered as u64).await.reserved, 0);
}
