//! Books beside the fence on all three databases: a broken handler and a row changed by hand are each found and named.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, MySql, Postgres, Sqlite};
use tercet::action::{Action, Json, Tcc};
use tercet::batch::Executor;
use tercet::client::{Client, Options, Wait};
use tercet::conserve::{Change, Invariant};
use tercet::fence::Dialect;
use tercet::participant::{Answer, DbTx, Participant};
use tercet::plan;
use tercet::service::Service;
use tercet_integration::processes::Coordinator;
use tercet_integration::servers;
use tercet_proto::admin::v1::{Broken, Invariant as Watched};
use tercet_proto::participant::v1::{Audit, AuditPage, Call, Operation, Position, Reply, reply};

const TAKE: Action<Tcc, Json<(i64, i64)>> = Action::tcc("shop", "take");
const SHELF: &str = "CREATE TABLE shelf (resource BIGINT PRIMARY KEY, reserved BIGINT NOT NULL, issued BIGINT NOT NULL,
    free BIGINT NOT NULL, total BIGINT NOT NULL)";

fn promise() -> Invariant {
    Invariant::new("things", "SELECT resource, reserved, issued, free, total FROM shelf")
        .tcc(TAKE, |Json((resource, units))| (*resource, Change::reserve(*units), Change::issue(*units)))
}

/// Each operation's number of units is its own; the confirm of 7 of them issues 9.
struct Shop<Db>(std::marker::PhantomData<fn() -> Db>);

macro_rules! shop {
    ($database:ty) => {
        impl Shop<$database> {
            async fn change(
                db_tx: &mut DbTx<$database>,
                resource: i64,
                Change { reserved, issued, free }: Change,
            ) -> sqlx::Result<Answer> {
                let sql = format!(
                    "UPDATE shelf SET reserved = reserved + {reserved}, issued = issued + {issued}, free = free + {free}
                    WHERE resource = {resource}"
                );
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(db_tx).await?;
                Ok(Answer::done())
            }
        }

        impl Participant for Shop<$database> {
            type Db = $database;
            type Request = Json<(i64, i64)>;

            async fn try_(&self, db_tx: &mut DbTx<$database>, request: Self::Request) -> sqlx::Result<Answer> {
                Self::change(db_tx, request.0.0, Change::reserve(request.0.1)).await
            }

            async fn confirm(&self, db_tx: &mut DbTx<$database>, request: Self::Request) -> sqlx::Result<Answer> {
                let (resource, units) = request.0;
                let issued = if units == 7 { 9 } else { units };
                Self::change(db_tx, resource, Change { issued, ..Change::issue(units) }).await
            }

            async fn cancel(&self, db_tx: &mut DbTx<$database>, request: Self::Request) -> sqlx::Result<Answer> {
                Self::change(db_tx, request.0.0, -Change::reserve(request.0.1)).await
            }
        }
    };
}

shop!(Sqlite);
shop!(Postgres);
shop!(MySql);

fn calls(numbers: std::ops::Range<u8>, operation: Operation) -> Vec<Call> {
    let call = |number: u8| Call {
        xid: vec![number; 16].into(),
        operation: operation.into(),
        tried: true,
        action: "take".into(),
        request: format!("[1,{number}]").into(),
        not_after_ms: u64::MAX / 2,
        ..Call::default()
    };
    numbers.map(call).collect()
}

fn all_done(replies: &[Reply]) -> bool {
    replies.iter().all(|reply| matches!(reply.answer, Some(reply::Answer::Done(_))))
}

async fn page<Db: Dialect>(executor: &Executor<Db>) -> AuditPage {
    let mut pages = executor.audit(Audit::default()).await.pages;
    assert_eq!(pages.len(), 1);
    let page = pages.remove(0);
    assert_eq!((page.invariant.as_str(), page.next, page.resources), ("things", None, 3));
    page
}

macro_rules! story {
    ($database:ty, $url:expr) => {{
        let pool = <$database as Dialect>::open($url).await.expect("the database opens");
        let run = async |sql: &'static str| {
            sqlx::raw_sql(sql).execute(&pool).await.expect(sql);
        };
        run(SHELF).await;
        run("INSERT INTO shelf VALUES (1, 0, 0, 1000, 1000), (2, 0, 0, 50, 50), (-3, 1, 2, 3, 6)").await;
        let service = Service::new("shop", [pool.clone()]).tables(["shelf"]).conserve(promise());
        let service = service.tcc(TAKE, Shop::<$database>(std::marker::PhantomData));
        let executor = service.executor().await.expect("the service is sound");

        // The first page enters what it finds, the second compares.
        assert_eq!(page(&executor).await.entered, 0);
        let first = page(&executor).await;
        assert_eq!((first.entered, first.watermark, first.misfits.len()), (3, 0, 0));
        assert_eq!(first.found, first.booked);

        assert!(all_done(&executor.run(calls(1..7, Operation::Try)).await));
        assert!(all_done(&executor.run(calls(1..4, Operation::Confirm)).await));
        assert!(all_done(&executor.run(calls(4..7, Operation::Cancel)).await));
        // Repeats change nothing.
        assert!(all_done(&executor.run(calls(1..4, Operation::Confirm)).await));
        let sound = page(&executor).await;
        assert_eq!((sound.watermark, sound.misfits.len()), (12, 0));
        assert_eq!(sound.found, sound.booked);
        assert_eq!(sound.found.map(|found| (found.reserved, found.issued)), Some((1, 8)));

        // One of a batch is broken: it is named, and nothing is refused.
        assert!(all_done(&executor.run(calls(7..19, Operation::Try)).await));
        assert!(all_done(&executor.run(calls(7..13, Operation::Confirm)).await));
        assert!(all_done(&executor.run(calls(13..19, Operation::Confirm)).await));
        for _ in 0..2 {
            let broken = page(&executor).await;
            let [misfit] = &broken.misfits[..] else { panic!("{broken:?}") };
            assert_eq!((misfit.resource, &misfit.by[..]), (1, &[7; 16][..]));
            let issued = |levels: Option<_>| levels.map(|levels: tercet_proto::participant::v1::Levels| levels.issued);
            assert_eq!(issued(misfit.found), issued(misfit.booked).map(|booked| booked + 2));
        }
        // Mended, it is forgotten.
        run("UPDATE shelf SET issued = issued - 2 WHERE resource = 1").await;
        page(&executor).await;
        assert!(page(&executor).await.misfits.is_empty());

        // By hand, and in a way that the row's own sum does not show; then a sound transaction touches it.
        run("UPDATE shelf SET free = free - 5, issued = issued + 5 WHERE resource = 1").await;
        assert!(all_done(&executor.run(calls(20..22, Operation::Try)).await));
        run("UPDATE shelf SET free = free - 5, total = total - 5 WHERE resource = 2").await;
        run("DELETE FROM shelf WHERE resource = -3").await;
        run("INSERT INTO shelf VALUES (4, 0, 0, 1, 1)").await;
        for _ in 0..2 {
            let found = page(&executor).await.misfits;
            let named: Vec<_> = found.iter().map(|misfit| (misfit.resource, misfit.by.len())).collect();
            assert_eq!(named, [(-3, 0), (1, 0), (2, 0)]);
            assert!(found[0].after.is_empty());
            assert_eq!(found[1].after.len(), 16, "the last transaction after which it was right");
        }
        assert_eq!(executor.audit(at_end()).await.pages[0].resources, 1);
    }};
}

fn at_end() -> Audit {
    let from = vec![Position { invariant: "things".into(), place: 0, after: 2 }];
    Audit { round: 1, from }
}

#[tokio::test]
async fn what_is_not_conserved_is_named_on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    story!(Sqlite, &format!("sqlite://{}/shop.db", folder.path().display()));
}

#[tokio::test]
async fn what_is_not_conserved_is_named_on_postgres() {
    let Some(url) = servers::postgres().await.expect("the server answers") else { return };
    story!(Postgres, &url);
}

#[tokio::test]
async fn what_is_not_conserved_is_named_on_mariadb() {
    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    story!(MySql, &url);
}

/// The coordinator's word on the only invariant, once `wanted` says so.
async fn seen(coordinator: &Coordinator, what: &str, wanted: impl Fn(&Watched) -> bool) -> Watched {
    let begun = Instant::now();
    loop {
        let last = coordinator.statistics().await.expect("it answers").invariants.pop();
        match last {
            Some(watched) if wanted(&watched) => return watched,
            last => assert!(begun.elapsed() < Duration::from_secs(20), "no {what}: {last:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A coordinator that is a process of its own, a real database, and a person who changes a row: named in five seconds.
/// So is the first transaction of a handler that counts wrong, however many come after it.
macro_rules! alarm {
    ($database:ty, $url:expr) => {{
        let pool = <$database as Dialect>::open($url).await.expect("the database opens");
        let run = async |sql: &'static str| {
            sqlx::raw_sql(sql).execute(&pool).await.expect(sql);
        };
        run(SHELF).await;
        run("INSERT INTO shelf VALUES (1, 0, 0, 1000, 1000), (2, 0, 0, 50, 50)").await;
        let folder = tempfile::tempdir().expect("a folder can be made");
        let coordinator = Coordinator::start(folder.path()).await.expect("it gets ready");
        let service = Service::new("shop", [pool.clone()]).tables(["shelf"]).conserve(promise());
        let service = service.tcc(TAKE, Shop::<$database>(std::marker::PhantomData));
        let running = tokio::spawn(service.coordinator(&coordinator.url).run(std::future::pending()));
        let client = Client::connect([coordinator.url.clone()], Options::default()).expect("an address");
        let take = async |resource: i64, units: i64| {
            let mut plan = plan::tcc();
            plan.branch(TAKE.with(&Json((resource, units))).expect("it is small"));
            let plan = plan.build().expect("it is sound");
            let view = client.submit(plan, Wait::Ended).await.expect("an answer").confirmed().expect("confirmed");
            view.xid()
        };
        let last = take(1, 3).await;
        seen(&coordinator, "sound books", |watched| watched.holds && watched.watermark == 2).await;

        let changed = Instant::now();
        run("UPDATE shelf SET free = free - 1, issued = issued + 1 WHERE resource = 1").await;
        let alarm = seen(&coordinator, "alarm", |watched| !watched.holds).await;
        assert!(changed.elapsed() < Duration::from_secs(5), "{:?}", changed.elapsed());
        let [Broken { resource: 1, text, after, by }] = &alarm.broken[..] else { panic!("{alarm:?}") };
        assert_eq!((&after[..], by.len()), (&last.as_bytes()[..], 0), "by nobody, after the last transaction");
        assert!(text.starts_with("changed outside any transaction, after transaction "), "{text}");

        // Seven is what the handler can not count.
        let first = take(2, 7).await;
        take(2, 7).await;
        take(2, 1).await;
        let alarm = seen(&coordinator, "second alarm", |watched| watched.broken.len() == 2).await;
        assert_eq!(alarm.broken[1].by, first.as_bytes()[..], "{alarm:?}");
        let log = std::fs::read_to_string(folder.path().join("coordinator.log")).expect("it has a log");
        assert_eq!(log.matches("not conserved").count(), 2, "each is told once: {log}");
        running.abort();
    }};
}

#[tokio::test]
async fn a_row_changed_by_hand_is_named_in_five_seconds_on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    alarm!(Sqlite, &format!("sqlite://{}/shop.db", folder.path().display()));
}

#[tokio::test]
async fn a_row_changed_by_hand_is_named_in_five_seconds_on_postgres() {
    let Some(url) = servers::postgres().await.expect("the server answers") else { return };
    alarm!(Postgres, &url);
}

#[tokio::test]
async fn a_row_changed_by_hand_is_named_in_five_seconds_on_mariadb() {
    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    alarm!(MySql, &url);
}
