//! A real Kafka: its topics as the settings say, and its death under load.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use sqlx::Sqlite;
use tercet::beside::Stop;
use tercet::fence::Dialect as _;
use tercet_events::bus::{Bus, Error};
use tercet_events::event::{Event, Payload, Topic};
use tercet_events::outbox::Outbox;
use tercet_events::relay::Relay;
use tercet_events::settings::Kafka;
use tercet_events::store::Store as _;
use tercet_integration::kafka::Broker;
use tercet_integration::processes::{Process, Spec};
use tercet_integration::servers;
use tercet_proto::events::v1 as pb;
use tokio::sync::watch;

use super::stage::{LEASE, event, eventually};

fn with_partitions(address: &str, prefix: &str, coupon: i32) -> Kafka {
    let mut partitions: Vec<_> = Topic::ALL.into_iter().map(|topic| (topic, 1)).collect();
    partitions[0].1 = coupon;
    Kafka { prefix: prefix.to_owned(), partitions, ..Kafka::at(address) }
}

#[tokio::test]
async fn topics_are_made_once_and_another_number_of_partitions_is_an_error() {
    let Some((address, prefix)) = servers::kafka() else { return };
    let kafka = with_partitions(&address, &prefix, 3);
    for _ in 0..2 {
        kafka.connect().await.expect("they are made, and found").expect("there is a broker");
    }
    let other = with_partitions(&address, &prefix, 4);
    let error = other.connect().await.expect_err("keys would move");
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
    let text = format!("the topic {prefix}coupon has 3 partitions, and kafka-partitions says 4");
    assert_eq!(error.to_string(), text);

    // So says the program, and does not start.
    let folder = tempfile::tempdir().expect("a folder");
    let mut process = log_spec(folder.path(), &other).start().expect("it is built");
    let ended = eventually("it ends", async || process.check().err()).await;
    assert!(ended.to_string().contains(&text), "{ended:#}");
}

#[tokio::test]
async fn a_broker_that_is_not_there_stops_nobody() {
    let kafka = Kafka::at("127.0.0.1:1");
    let bus = kafka.connect().await.expect("it may come back").expect("there are settings");
    assert!(matches!(bus.prepare().await, Err(Error::Unavailable(_))));
    assert!(Kafka { brokers: None, ..kafka }.connect().await.expect("nothing is wrong").is_none());
}

/// Long enough that a slow disk ends no lease which is renewed.
const HELD: Duration = LEASE.saturating_mul(4);

#[tokio::test]
async fn a_relay_keeps_its_place_whether_nothing_comes_or_nothing_can_be_published() {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = Sqlite::open(&format!("sqlite://{}/events.db", folder.path().display())).await.expect("a file");
    let outbox = Outbox::open(std::slice::from_ref(&pool)).await.expect("the schema is sound");
    let bus = Bus::kafka(&Kafka::at("127.0.0.1:1")).expect("they are sound");
    let start = || {
        let relay = Relay::new("source", 0, pool.clone(), &outbox, bus.clone()).lease(HELD);
        let (stop, stopped) = watch::channel(false);
        (stop, tokio::spawn(relay.run(Stop::from(stopped))))
    };
    let relays = async |epoch: i64| {
        let read = sqlx::query_scalar::<_, i64>("SELECT epoch FROM tercet_outbox_relay");
        (read.fetch_one(&pool).await.expect("the row is there") == epoch).then_some(())
    };
    // Another takes it where it can, and for no time.
    let take = async || {
        let mut db = pool.acquire().await.expect("it is open");
        Sqlite::outbox_take(&mut db, "another", 0, false).await.expect("it is sound")
    };
    let stays = async || {
        for _ in 0..15 {
            tokio::time::sleep(HELD / 10).await;
            assert!(take().await.is_none(), "it is held");
        }
    };
    let (stop, relaying) = start();
    eventually("it relays", async || relays(1).await).await;
    stays().await;
    stop.send_replace(true);
    relaying.await.expect("it does not panic").expect("it goes on");
    assert!(take().await.is_some(), "whoever stops leaves it");
    let mut db_tx = pool.begin_with(Sqlite::BEGIN_WRITE).await.expect("the file is there");
    outbox.append::<Sqlite>(&mut db_tx, [event(1, 1)]).await.expect("it is small");
    db_tx.commit().await.expect("nothing is in its way");
    let (_stop, relaying) = start();
    eventually("it relays", async || relays(3).await).await;
    stays().await;
    relaying.abort();
}

fn log_spec(folder: &Path, kafka: &Kafka) -> Spec {
    let spec = Spec::new("business_log", "tercet-business-log", "tercet-business-log", folder).expect("it is built");
    let partitions: Vec<_> =
        kafka.partitions.iter().map(|(topic, number)| format!("{}={number}", topic.name())).collect();
    spec.with("--database", format!("sqlite://{}/log.db", folder.display()))
        .with("--kafka", kafka.brokers.clone().expect("there is one"))
        .with("--kafka-prefix", &kafka.prefix)
        .with("--kafka-partitions", partitions.join(","))
        .with("--kafka-option", "group.instance.id=log-1")
        .with("--log-filter", "warn")
}

/// Users whose events are written.
const USERS: i64 = 20;

/// Writes events of all users, numbered for each, until it is told to stop. Returns how many each has.
async fn write(pool: sqlx::SqlitePool, outbox: Outbox, stop: watch::Receiver<bool>) -> i64 {
    let mut n = 0;
    while !*stop.borrow() {
        n += 1;
        let issued = |user_id| pb::CouponIssued {
            coupon_id: user_id * 1_000_000 + n,
            template_id: 1,
            template_version: 1,
            ..Default::default()
        };
        let events = (1..=USERS).map(|user_id| Event::new(user_id, Payload::CouponIssued(issued(user_id))));
        let mut db_tx = pool.begin_with(Sqlite::BEGIN_WRITE).await.expect("the file is there");
        outbox.append::<Sqlite>(&mut db_tx, events).await.expect("they are small");
        db_tx.commit().await.expect("nothing is in its way");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    n
}

/// Broker, consumer and relay are killed in turn while events are written: afterwards each is in the log once, and each
/// user's are in their order.
#[tokio::test]
async fn nothing_is_lost_or_doubled_when_everything_is_killed_in_turn() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut broker) = Broker::start(folder.path()).await.expect("it starts") else { return };
    let kafka = with_partitions(&broker.address, "kill.", 4);
    let mut consumer = log_spec(folder.path(), &kafka).start().expect("it is built");
    let pool = Sqlite::open(&format!("sqlite://{}/source.db", folder.path().display())).await.expect("a file");
    let outbox = Outbox::open(std::slice::from_ref(&pool)).await.expect("the schema is sound");
    let bus = Bus::kafka(&kafka).expect("they are sound");
    let relay = || {
        let relay = Relay::new("source", 0, pool.clone(), &outbox, bus.clone()).lease(Duration::from_millis(600));
        // Without its sender it would stop.
        let (stop, stopped) = watch::channel(false);
        (tokio::spawn(relay.run(stopped.into())), stop)
    };
    let (stop, stopped) = watch::channel(false);
    let writer = tokio::spawn(write(pool.clone(), outbox.clone(), stopped));

    let mut relaying = relay();
    let log = format!("sqlite://{}/log.db", folder.path().display());
    let log = eventually("the consumer has its file", async || Sqlite::open(&log).await.ok()).await;
    let count = async || {
        let count: Result<i64, _> = sqlx::query_scalar("SELECT COUNT(*) FROM business_log").fetch_one(&log).await;
        count.unwrap_or(0)
    };
    let more_than = async |rows: i64| eventually("rows come", async || (count().await > rows).then_some(())).await;
    more_than(0).await;
    for _ in 0..2 {
        broker.process.kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        relaying.0.abort();
        relaying = relay();
        broker.process.restart().expect("it starts");
        broker.wait_ready().await.expect("it listens");
        more_than(count().await).await;
        consumer.restart().expect("it starts");
        relaying.0.abort();
        relaying = relay();
        more_than(count().await).await;
    }
    stop.send_replace(true);
    let each = writer.await.expect("it writes");
    finish(&mut consumer, each, &count).await;

    let rows: Vec<(i64, i64, String, i64)> =
        sqlx::query_as("SELECT user_id, coupon_id, source, sequence FROM business_log ORDER BY log_id")
            .fetch_all(&log)
            .await
            .expect("it is there");
    let ids: BTreeSet<_> = rows.iter().map(|(.., source, sequence)| (source, sequence)).collect();
    assert_eq!(ids.len(), rows.len(), "an event has two entries");
    for user_id in 1..=USERS {
        let own: Vec<i64> = rows.iter().filter(|row| row.0 == user_id).map(|row| row.1 % 1_000_000).collect();
        assert_eq!(own, (1..=each).collect::<Vec<_>>(), "user {user_id}");
    }
}

/// Waits until as much is there as should be.
async fn finish(consumer: &mut Process, each: i64, count: &impl AsyncFn() -> i64) {
    let all = each * USERS;
    let mut last = 0;
    eventually("all are there", async || {
        consumer.check().expect("it runs");
        last = count().await;
        (last >= all).then_some(())
    })
    .await;
    assert_eq!(last, all);
}
