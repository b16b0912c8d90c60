//! The platform's flows through a real coordinator and the three services, each a process of its own with its own
//! database.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sqlx::{Sqlite, SqlitePool};
use tercet::client::{Client, Options, Outcome, View, Wait};
use tercet::fence::Dialect as _;
use tercet_coupon::Shards;
use tercet_coupon::store::Totals as CouponTotals;
use tercet_events::outbox::Outbox;
use tercet_integration::processes::free_address;
use tercet_order::store::Totals as OrderTotals;
use tercet_platform::flows;
use tercet_proto::order::v1::{Paid, Place};
use tercet_shards::Slot;
use tokio::process::{Child, Command};

/// The coordinator and the services. They die with it.
struct Platform {
    _processes: Vec<Child>,
    _folder: tempfile::TempDir,
    client: Client,
    stock: SqlitePool,
    coupon: Shards<Sqlite>,
    order: SqlitePool,
}

/// A program that `cargo build --workspace --bins` made.
fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("this test is a file");
    let path = tests.ancestors().nth(2).expect("it is in target/<profile>/deps").join(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    path
}

fn start(name: &str, arguments: &[String]) -> Child {
    let mut command = Command::new(program(name));
    command.args(arguments).args(["--log-filter", "warn"]).stdin(Stdio::null()).kill_on_drop(true);
    command.spawn().expect("the program starts")
}

async fn database(folder: &Path, name: &str) -> (String, SqlitePool) {
    let url = format!("sqlite://{}/{name}.db", folder.display());
    let pool = Sqlite::open(&url).await.expect("the folder is there");
    (url, pool)
}

impl Platform {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = free_address().expect("there is one").to_string();
        let data = folder.path().join("coordinator").display().to_string();
        let coordinator = ["serve", "--listen", &address, "--admin-listen", "127.0.0.1:0", "--data", &data];
        let coordinator = coordinator.map(str::to_owned);
        let mut processes = vec![start("tercet", &coordinator)];
        let mut pools = Vec::new();
        for service in ["stock", "coupon", "order"] {
            let (url, pool) = database(folder.path(), service).await;
            let arguments = ["--coordinator".into(), format!("http://{address}"), "--database".into(), url];
            processes.push(start(&format!("tercet-{service}"), &arguments));
            pools.push(pool);
        }
        let [stock, coupon, order] = <[SqlitePool; 3]>::try_from(pools).expect("there are three");
        let client = Client::connect([address], Options::default()).expect("the address is sound");
        Self { _processes: processes, _folder: folder, client, stock, coupon: Shards::one(coupon), order }
    }

    /// Creates items once the services have made their tables.
    async fn seed(&self) {
        let mut tries = 0;
        while tercet_stock::audit(&self.stock).await.is_err()
            || tercet_coupon::audit(&self.coupon).await.is_err()
            || tercet_order::audit(&self.order).await.is_err()
        {
            tries += 1;
            assert!(tries < 300, "the services did not make their tables");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let items = [(5, 10), (flows::template_item(1), 2)];
        tercet_stock::seed(&self.stock, &items).await.expect("the items are sound");
    }

    async fn claim(&self, number: i64, user_id: i64) -> View {
        let claim = tercet_coupon::claim_by_hand(number, user_id, 1, 1);
        let plan = flows::claim(&claim).expect("it is within the limits");
        self.client.submit(plan, Wait::Ended).await.expect("the coordinator answers")
    }

    async fn checkout(&self, order: &Place) -> View {
        let plan = flows::checkout(order).expect("it is within the limits");
        self.client.submit(plan, Wait::Ended).await.expect("the coordinator answers")
    }
}

#[track_caller]
fn assert_cancelled(view: &View, reason: &str) {
    assert_eq!(view.outcome(), Some(Outcome::Cancelled));
    assert!(view.reason().contains(reason), "{:?}", view.reason());
}

#[tokio::test]
async fn claims_checkouts_payments_and_refunds_end_the_same_way_everywhere() {
    let platform = Platform::start().await;
    platform.seed().await;

    assert_eq!(platform.claim(1, 7).await.outcome(), Some(Outcome::Confirmed));
    assert!(platform.claim(1, 7).await.repeated());
    assert_cancelled(&platform.claim(2, 7).await, "PER_USER_LIMIT(final=true,limit=1)");
    assert_eq!(platform.claim(3, 8).await.outcome(), Some(Outcome::Confirmed));
    assert_cancelled(&platform.claim(4, 9).await, "sold out");

    let (coupon_id, amount_cents, discount_cents) = (Slot::of_user(7).id(1), 2_000, 300);
    let order = Place { order_id: 100, user_id: 7, item: 5, count: 4, coupon_id, amount_cents, discount_cents };
    assert_eq!(platform.checkout(&order).await.outcome(), Some(Outcome::Confirmed));
    assert_cancelled(&platform.checkout(&Place { order_id: 101, ..order }).await, "COUPON_TAKEN");
    let without = Place { coupon_id: 0, discount_cents: 0, ..order };
    assert_cancelled(&platform.checkout(&Place { order_id: 102, count: 7, ..without }).await, "OUT_OF_STOCK");
    assert_eq!(
        platform.checkout(&Place { order_id: 103, user_id: 8, ..without }).await.outcome(),
        Some(Outcome::Confirmed)
    );

    let payment = Paid { order_id: 100, user_id: 7, paid_cents: 1_700, shop_id: 0 };
    let short = Paid { paid_cents: 1_699, ..payment };
    let error =
        flows::pay(&platform.client, &platform.order, &Outbox::off(), &short).await.expect_err("a cent is missing");
    assert_eq!(error.to_string(), "order 100 costs 1700");
    let told = flows::pay(&platform.client, &platform.order, &Outbox::off(), &payment).await.expect("it is placed");
    assert_eq!(told.outcome(), Some(Outcome::Confirmed));
    let notices: i64 = sqlx::query_scalar("SELECT paid_cents FROM paid_notice WHERE order_id = 100")
        .fetch_one(platform.coupon.home())
        .await
        .expect("the coupon service was told");
    assert_eq!(notices, 1_700);

    let refund = flows::refund(&order).expect("it is within the limits");
    let view = platform.client.submit(refund, Wait::Ended).await.expect("the coordinator answers");
    assert_eq!(view.outcome(), Some(Outcome::Confirmed), "{}", view.reason());
    // The order is refunded before stock says no, and is what it was again afterwards.
    let too_much = flows::refund(&Place { order_id: 103, count: 5, ..without }).expect("it is within the limits");
    let view = platform.client.submit(too_much, Wait::Ended).await.expect("the coordinator answers");
    assert_cancelled(&view, "fewer of item 5 are issued");

    let units = tercet_stock::audit(&platform.stock).await.expect("the table is there");
    assert_eq!((units.free, units.reserved, units.issued, units.broken), (6, 0, 4 + 2, 0));
    let coupons = tercet_coupon::audit(&platform.coupon).await.expect("the tables are there");
    assert_eq!(coupons, CouponTotals { issued: 2, ..CouponTotals::default() });
    let orders = tercet_order::audit(&platform.order).await.expect("the table is there");
    assert_eq!(orders, OrderTotals { placed: 1, closed: 2, refunded: 1, ..OrderTotals::default() });
}
