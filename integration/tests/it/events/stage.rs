//! A service that writes events and one that takes them, each with a database of its own.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use sqlx::{MySql, Pool, Sqlite};
use tempfile::TempDir;
use tercet::beside::Stop;
use tercet::participant::DbTx;
use tercet_events::bus::{Bus, Group};
use tercet_events::consumer::{Consumer, Consuming, Trouble};
use tercet_events::event::{Event, Payload, Topic};
use tercet_events::outbox::Outbox;
use tercet_events::relay::Relay;
use tercet_events::settings::Kafka;
use tercet_events::store::Store;
use tercet_integration::servers;
use tercet_proto::events::v1 as pb;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// How long what is waited for may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long a relay that was aborted keeps others away.
pub(super) const LEASE: Duration = Duration::from_millis(900);

/// A database that the stage can stand on.
pub(super) trait Db: Store {
    async fn fresh() -> Option<(Pool<Self>, Option<TempDir>)>;
    async fn schema(pool: &Pool<Self>);
    /// Raises a user's number, and returns it. Others that raise it wait.
    fn raise(db_tx: &mut DbTx<Self>, user_id: i64) -> impl Future<Output = i64> + Send;
    fn note(db_tx: &mut DbTx<Self>, group: &str, user_id: i64, n: i64)
    -> impl Future<Output = sqlx::Result<()>> + Send;
    /// The numbers that a group has noted of a user, in the order of its notes.
    async fn noted(pool: &Pool<Self>, group: &str, user_id: i64) -> Vec<i64>;
}

macro_rules! db {
    ($database:ty, $fresh:expr, $auto:literal) => {
        impl Db for $database {
            async fn fresh() -> Option<(Pool<Self>, Option<TempDir>)> {
                $fresh.await
            }

            async fn schema(pool: &Pool<Self>) {
                const NUMBER: &str = "CREATE TABLE number (user_id BIGINT PRIMARY KEY, n BIGINT NOT NULL)";
                const EFFECT: &str = concat!(
                    "CREATE TABLE effect (id ",
                    $auto,
                    ", name VARCHAR(64) NOT NULL, user_id BIGINT NOT NULL, n BIGINT NOT NULL)"
                );
                for sql in [NUMBER, EFFECT] {
                    sqlx::query(sql).execute(pool).await.expect("the schema is sound");
                }
                for user_id in 1..=9_i64 {
                    let insert = sqlx::query("INSERT INTO number (user_id, n) VALUES (?, 0)");
                    insert.bind(user_id).execute(pool).await.expect("it is new");
                }
            }

            async fn raise(db_tx: &mut DbTx<Self>, user_id: i64) -> i64 {
                let raise = sqlx::query("UPDATE number SET n = n + 1 WHERE user_id = ?");
                raise.bind(user_id).execute(&mut *db_tx).await.expect("it is there");
                let read = sqlx::query_scalar("SELECT n FROM number WHERE user_id = ?");
                read.bind(user_id).fetch_one(db_tx).await.expect("it is there")
            }

            async fn note(db_tx: &mut DbTx<Self>, group: &str, user_id: i64, n: i64) -> sqlx::Result<()> {
                let insert = sqlx::query("INSERT INTO effect (name, user_id, n) VALUES (?, ?, ?)");
                insert.bind(group).bind(user_id).bind(n).execute(db_tx).await.map(drop)
            }

            async fn noted(pool: &Pool<Self>, group: &str, user_id: i64) -> Vec<i64> {
                let read = sqlx::query_scalar("SELECT n FROM effect WHERE name = ? AND user_id = ? ORDER BY id");
                read.bind(group).bind(user_id).fetch_all(pool).await.expect("it is there")
            }
        }
    };
}

async fn fresh_sqlite() -> Option<(Pool<Sqlite>, Option<TempDir>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/events.db", folder.path().display());
    let pool = <Sqlite as tercet::fence::Dialect>::open(&url).await.expect("a file");
    Some((pool, Some(folder)))
}

async fn fresh_mariadb() -> Option<(Pool<MySql>, Option<TempDir>)> {
    let url = servers::mariadb().await.expect("the server answers")?;
    Some((<MySql as tercet::fence::Dialect>::open(&url).await.expect("it is there"), None))
}

db!(Sqlite, fresh_sqlite(), "INTEGER PRIMARY KEY");
db!(MySql, fresh_mariadb(), "BIGINT PRIMARY KEY AUTO_INCREMENT");

/// A group that notes the numbers of users.
pub(super) const LEDGER: Group = Group { name: "ledger", topics: &[Topic::Coupon] };
/// Another that does the same, and is never disturbed.
pub(super) const WITNESS: Group = Group { name: "witness", topics: &[Topic::Coupon] };

/// What disturbs a ledger.
#[derive(Debug, Default)]
pub(super) struct Trap {
    /// Refuses this number.
    pub(super) refused: AtomicI64,
    /// So often its database is out of reach.
    pub(super) away: AtomicI64,
    /// Holds on between effect and commit, for ever.
    pub(super) held: AtomicBool,
    pub(super) holds: Notify,
    /// Panics at the next event.
    pub(super) panics: AtomicBool,
}

pub(super) struct Ledger<D>(pub(super) Arc<Trap>, PhantomData<fn() -> D>);
pub(super) struct Witness<D>(PhantomData<fn() -> D>);

impl<D: Db> Consumer for Ledger<D> {
    type Db = D;
    const GROUP: Group = LEDGER;

    async fn consume(&self, db_tx: &mut DbTx<D>, events: &[pb::Event]) -> Result<(), Trouble> {
        assert!(!self.0.panics.swap(false, Ordering::SeqCst), "as the test wants it");
        if self.0.away.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Err(sqlx::Error::PoolTimedOut.into());
        }
        for event in events {
            let n = number(event);
            if n == self.0.refused.load(Ordering::SeqCst) {
                return Err(Trouble::Refused(format!("{n} brings bad luck")));
            }
            D::note(db_tx, LEDGER.name, event.user_id, n).await?;
        }
        if self.0.held.load(Ordering::SeqCst) {
            self.0.holds.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

impl<D: Db> Consumer for Witness<D> {
    type Db = D;
    const GROUP: Group = WITNESS;

    async fn consume(&self, db_tx: &mut DbTx<D>, events: &[pb::Event]) -> Result<(), Trouble> {
        for event in events {
            D::note(db_tx, WITNESS.name, event.user_id, number(event)).await?;
        }
        Ok(())
    }
}

fn number(event: &pb::Event) -> i64 {
    match &event.payload {
        Some(Payload::CouponUsed(used)) => used.coupon_id,
        other => panic!("nobody has sent {other:?}"),
    }
}

/// The event that carries a number.
pub(super) fn event(user_id: i64, n: i64) -> Event {
    let used = pb::CouponUsed { coupon_id: n, order_id: 1, ..pb::CouponUsed::default() };
    Event::new(user_id, Payload::CouponUsed(used))
}

/// Something that runs until it is stopped, or dropped as a crash would.
pub(super) struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    fn start<W, F>(work: W) -> Self
    where
        W: FnOnce(Stop) -> F,
        F: Future<Output = Result<(), tercet::beside::Failure>> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let work = work(Stop::from(stopped));
        Self { stop, task: tokio::spawn(async move { work.await.expect("it goes on") }) }
    }

    pub(super) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.expect("it ends well");
    }
}

pub(super) struct Stage<D: Db> {
    pub(super) source: Pool<D>,
    pub(super) sink: Pool<D>,
    pub(super) outbox: Outbox,
    pub(super) bus: Bus,
    pub(super) trap: Arc<Trap>,
    pub(super) kafka: Option<Kafka>,
    _folders: [Option<TempDir>; 2],
}

impl<D: Db> Stage<D> {
    /// Within this process.
    pub(super) async fn within() -> Option<Self> {
        Self::on(Bus::in_process(&[LEDGER, WITNESS]), None).await
    }

    /// Through the broker of the test run.
    pub(super) async fn through_kafka() -> Option<Self> {
        let (address, prefix) = servers::kafka()?;
        // Few, since each of them costs the broker files.
        let partitions = Topic::ALL.map(|topic| (topic, if topic == Topic::Coupon { 3 } else { 1 })).into();
        let kafka = Kafka { prefix, partitions, ..Kafka::at(&address) };
        Self::on(Bus::kafka(&kafka).expect("they are sound"), Some(kafka)).await
    }

    async fn on(bus: Bus, kafka: Option<Kafka>) -> Option<Self> {
        let ((source, one), (sink, two)) = (D::fresh().await?, D::fresh().await?);
        D::schema(&source).await;
        D::schema(&sink).await;
        let outbox = Outbox::open(std::slice::from_ref(&source)).await.expect("the schema is sound");
        Outbox::open(std::slice::from_ref(&sink)).await.expect("the schema is sound");
        let trap = Arc::default();
        Some(Self { source, sink, outbox, bus, trap, kafka, _folders: [one, two] })
    }

    pub(super) fn relay(&self) -> Running {
        let relay = Relay::new("source", 0, self.source.clone(), &self.outbox, self.bus.clone()).lease(LEASE);
        Running::start(|stop| relay.run(stop))
    }

    /// Publishes what the consumers put away.
    pub(super) fn sink_relay(&self) -> Running {
        let relay = Relay::new("sink", 0, self.sink.clone(), &self.outbox, self.bus.clone()).lease(LEASE);
        Running::start(|stop| relay.run(stop))
    }

    pub(super) fn ledger(&self) -> Running {
        let consuming = Consuming::new(Ledger(self.trap.clone(), PhantomData), [self.sink.clone()], self.bus.clone());
        Running::start(|stop| consuming.run(stop))
    }

    pub(super) fn witness(&self) -> Running {
        let consuming = Consuming::new(Witness(PhantomData), [self.sink.clone()], self.bus.clone());
        Running::start(|stop| consuming.run(stop))
    }

    /// Writes the events of these numbers in one local transaction.
    pub(super) async fn write(&self, user_id: i64, numbers: impl IntoIterator<Item = i64>) {
        let events: Vec<Event> = numbers.into_iter().map(|n| event(user_id, n)).collect();
        let mut db_tx = self.source.begin_with(D::BEGIN_WRITE).await.expect("the pool is open");
        self.outbox.append::<D>(&mut db_tx, events).await.expect("they are small");
        db_tx.commit().await.expect("nothing is in its way");
    }

    pub(super) async fn noted(&self, group: &Group, user_id: i64) -> Vec<i64> {
        D::noted(&self.sink, group.name, user_id).await
    }

    /// Waits until a group has noted so many numbers of a user.
    pub(super) async fn until(&self, group: &Group, user_id: i64, count: usize) -> Vec<i64> {
        let wait = async {
            loop {
                let noted = self.noted(group, user_id).await;
                if noted.len() >= count {
                    return noted;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(noted) => noted,
            Err(_) => panic!("{} has only {:?} of user {user_id}", group.name, self.noted(group, user_id).await),
        }
    }
}

/// Waits for a condition.
pub(super) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}
