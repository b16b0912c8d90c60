//! A service's database, SQLite in memory, and its handlers: a resource of which units are free, reserved or issued,
//! and a ledger of what was done for each order, all written in the SDK's local transactions.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Pool, Sqlite, SqliteConnection};
use tercet::action::{Action, FormatError, Request};
use tercet::context::Context as Place;
use tercet::fence;
use tercet::participant::{Answer, Compensable, Op, Participant, Receiver, SliceParticipant};
use tercet::service::Service;
use tercet_core::{Operation, Timestamp, Xid};

use crate::Victim;
use crate::faults::Fault;
use crate::world::World;

/// Units that each service has.
pub(crate) const TOTAL: i64 = 14;

/// The longest that a local transaction may take in real time before the simulation itself is taken for stuck.
const STUCK: Duration = Duration::from_secs(60);

/// How a participant treats an order, besides what chance does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As it should.
    Well,
    /// Its try is refused.
    RefusesTry,
    /// Its try is not possible twice, and then is.
    NotNowAtFirst,
    /// Its try fails again and again.
    FailsTry,
    /// Its confirm or cancel fails often enough to go to the log, and then succeeds.
    FailsEndAtFirst,
    /// Its confirm or cancel is refused, which is a fault of the participant's.
    RefusesEnd,
    /// Its confirm or cancel fails again and again.
    FailsEnd,
    /// Its confirm or cancel is never possible.
    NotNowEnd,
}

impl Manner {
    pub(crate) const ALL: [Self; 8] = [
        Self::Well,
        Self::RefusesTry,
        Self::NotNowAtFirst,
        Self::FailsTry,
        Self::FailsEndAtFirst,
        Self::RefusesEnd,
        Self::FailsEnd,
        Self::NotNowEnd,
    ];

    /// Whether the participant is at fault, so that a person has to help.
    pub(crate) fn at_fault(self) -> bool {
        matches!(self, Self::RefusesEnd | Self::FailsEnd | Self::NotNowEnd)
    }
}

/// What a branch asks for: one unit, under a key that is this branch's alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) key: u64,
    pub(crate) manner: Manner,
}

impl Order {
    pub(crate) fn bytes(self) -> Bytes {
        let manner = Manner::ALL.iter().position(|manner| *manner == self.manner).unwrap_or_default();
        self.key.to_be_bytes().into_iter().chain([manner as u8]).collect()
    }
}

impl Request for Order {
    fn to_bytes(&self) -> Result<Bytes, FormatError> {
        Ok(self.bytes())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let (key, manner) = bytes.split_at_checked(8).expect("only the simulation makes orders");
        let key = u64::from_be_bytes(key.try_into().expect("8 bytes"));
        Ok(Self { key, manner: Manner::ALL[usize::from(manner[0])] })
    }
}

/// What was done for an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    pub(crate) tried: i64,
    pub(crate) confirmed: i64,
    pub(crate) cancelled: i64,
}

/// Units of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Units {
    pub(crate) free: i64,
    pub(crate) reserved: i64,
    pub(crate) issued: i64,
}

/// A service's database, which lives as long as this.
pub(crate) struct Database {
    name: &'static str,
    pool: Pool<Sqlite>,
    own: Mutex<SqliteConnection>,
}

impl Database {
    pub(crate) fn named(name: &'static str) -> (&'static str, Self) {
        // In one process a name is one database.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let file = format!("/simulated-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let options = SqliteConnectOptions::new().filename(file).vfs("memdb").create_if_missing(true);
        let options = options.disable_statement_logging();
        let schema = format!(
            "CREATE TABLE units (free INTEGER, reserved INTEGER, issued INTEGER);
            INSERT INTO units VALUES ({TOTAL}, 0, 0);
            CREATE TABLE ledger (key INTEGER PRIMARY KEY, tried INTEGER NOT NULL DEFAULT 0,
                confirmed INTEGER NOT NULL DEFAULT 0, cancelled INTEGER NOT NULL DEFAULT 0)"
        );
        let own = finish(async {
            let mut own = options.connect().await?;
            sqlx::raw_sql(sqlx::AssertSqlSafe(schema)).execute(&mut own).await?;
            Ok(own)
        });
        // Only its options are used: the SDK holds connections of its own.
        let pool = SqlitePoolOptions::new().idle_timeout(None).max_lifetime(None).connect_lazy_with(options);
        (name, Self { name, pool, own: Mutex::new(own) })
    }

    fn own(&self) -> MutexGuard<'_, SqliteConnection> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service as an instance runs it. The first service takes slices, the others one operation at a time.
    pub(crate) fn service(&self, world: &World, instance: usize) -> Service<Sqlite> {
        let shop = || Shop { world: world.clone(), instance };
        let service = Service::new(self.name, [self.pool.clone()]).tables(["units", "ledger"]);
        let reserve = Action::tcc(self.name, "reserve");
        let service = if self.name == "a" { service.tcc_slice(reserve, shop()) } else { service.tcc(reserve, shop()) };
        service
            .saga(Action::saga(self.name, "do"), shop())
            .receiver(Action::message(self.name, "receive"), shop())
            .sender(Action::<tercet::action::Sender, Order>::sender(self.name, "send"))
    }

    /// The sender of a message commits its own local transaction, unless the fence says that it is too late.
    pub(crate) fn commit_sender(&self, xid: Xid, not_after: Timestamp, order: Order) -> bool {
        let place = Place { xid: tercet::xid::Xid::new(xid.0), branch: 0, not_after_ms: not_after.0 };
        let mut own = self.own();
        finish(async {
            let mut db_tx = own.begin_with("BEGIN IMMEDIATE").await?;
            match fence::commit_sender(&mut *db_tx, &place).await {
                Ok(()) => {}
                Err(fence::CommitError::RolledBack(_)) => {
                    db_tx.rollback().await?;
                    return Ok(false);
                }
                Err(fence::CommitError::Database(error)) => return Err(error),
            }
            enter(&mut db_tx, order.key, Operation::Ask).await?;
            db_tx.commit().await.map(|()| true)
        })
    }

    /// The try of a branch that its initiator calls at the service's own door.
    pub(crate) fn guarded(&self, (xid, branch): (Xid, u32), not_after: Timestamp, order: Order) -> Answer {
        let place = Place { xid: tercet::xid::Xid::new(xid.0), branch, not_after_ms: not_after.0 };
        let mut own = self.own();
        finish(async {
            let mut db_tx = own.begin_with("BEGIN IMMEDIATE").await?;
            let answer = fence::guard(&mut *db_tx, &place, async |db_tx: &mut SqliteConnection| {
                let reserved = enter(db_tx, order.key, Operation::Try).await?;
                Ok(if reserved { Answer::done() } else { Answer::refused("sold out") })
            });
            let answer = answer.await?;
            db_tx.commit().await.map(|()| answer)
        })
    }

    pub(crate) fn units(&self) -> Units {
        let mut own = self.own();
        let (free, reserved, issued) =
            finish(sqlx::query_as("SELECT free, reserved, issued FROM units").fetch_one(&mut *own));
        Units { free, reserved, issued }
    }

    pub(crate) fn ledger(&self) -> BTreeMap<u64, Effects> {
        let mut own = self.own();
        let rows: Vec<(i64, i64, i64, i64)> =
            finish(sqlx::query_as("SELECT key, tried, confirmed, cancelled FROM ledger").fetch_all(&mut *own));
        rows.into_iter()
            .map(|(key, tried, confirmed, cancelled)| (key.cast_unsigned(), Effects { tried, confirmed, cancelled }))
            .collect()
    }
}

/// Does what an operation does. `false`: nothing is free.
async fn enter(db_tx: &mut SqliteConnection, key: u64, operation: Operation) -> Result<bool, sqlx::Error> {
    const TRY: [&str; 2] = [
        "UPDATE units SET free = free - 1, reserved = reserved + 1 WHERE free > 0",
        "INSERT INTO ledger (key, tried) VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET tried = tried + 1",
    ];
    // Only what was reserved is issued: a receiver's is nobody's.
    const CONFIRM: [&str; 2] = [
        "UPDATE units SET reserved = reserved - 1, issued = issued + 1
            WHERE EXISTS (SELECT 1 FROM ledger WHERE key = $1 AND tried > 0)",
        "INSERT INTO ledger (key, confirmed) VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET confirmed = confirmed + 1",
    ];
    const CANCEL: [&str; 2] = [
        "UPDATE units SET reserved = reserved - 1, free = free + 1",
        "INSERT INTO ledger (key, cancelled) VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET cancelled = cancelled + 1",
    ];
    let [units, ledger] = match operation {
        Operation::Try | Operation::Ask => TRY,
        Operation::Confirm => CONFIRM,
        Operation::Cancel => CANCEL,
    };
    // A sender's local transaction takes no unit.
    if operation != Operation::Ask {
        let query = sqlx::query(units);
        let query = if operation == Operation::Confirm { query.bind(key.cast_signed()) } else { query };
        let done = query.execute(&mut *db_tx).await?;
        if operation == Operation::Try && done.rows_affected() == 0 {
            return Ok(false);
        }
    }
    sqlx::query(ledger).bind(key.cast_signed()).execute(db_tx).await.map(|_| true)
}

/// The handlers of an instance.
struct Shop {
    world: World,
    instance: usize,
}

/// What goes wrong with an operation.
enum Trouble {
    Refuses,
    NotNow,
    Fails,
    Lost,
    Panics,
}

impl Shop {
    fn trouble(&self, order: Order, operation: Operation) -> Option<Trouble> {
        let ends = operation != Operation::Try;
        let calls = {
            let mut inner = self.world.lock();
            let calls = inner.calls.entry((order.key, ends)).or_default();
            *calls += 1;
            *calls
        };
        match (order.manner, ends) {
            (Manner::RefusesTry, false) | (Manner::RefusesEnd, true) => return Some(Trouble::Refuses),
            (Manner::NotNowAtFirst, false) if calls <= 2 => return Some(Trouble::NotNow),
            (Manner::FailsTry, false) | (Manner::FailsEnd, true) => return Some(Trouble::Fails),
            (Manner::FailsEndAtFirst, true) if calls <= 5 => return Some(Trouble::Fails),
            (Manner::NotNowEnd, true) => return Some(Trouble::NotNow),
            (_, false | true) => {}
        }
        let world = &self.world;
        if world.fault(Fault::NotReady, 4) {
            Some(Trouble::NotNow)
        } else if world.fault(Fault::HandlerFailed, 2) {
            Some(Trouble::Fails)
        } else if world.fault(Fault::LocalLost, 1) {
            Some(Trouble::Lost)
        } else if world.fault(Fault::HandlerPanicked, 1) {
            Some(Trouble::Panics)
        } else {
            None
        }
    }

    /// One operation under its savepoint: what it writes before it fails is undone.
    async fn one(&self, db_tx: &mut SqliteConnection, order: Order, operation: Operation) -> sqlx::Result<Answer> {
        let trouble = self.trouble(order, operation);
        let done = enter(db_tx, order.key, operation).await?;
        self.point().await;
        match trouble {
            None if done => Ok(Answer::done()),
            None => Ok(Answer::refused("sold out")),
            Some(trouble) => trouble.befall(),
        }
    }

    /// All operations of a slice: it writes nothing for those that it does not do.
    async fn all(
        &self,
        db_tx: &mut SqliteConnection,
        slice: &[Op<Order>],
        operation: Operation,
    ) -> sqlx::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(slice.len());
        for Op { request: order, .. } in slice {
            let answer = match self.trouble(*order, operation) {
                Some(trouble) => trouble.befall()?,
                None if enter(db_tx, order.key, operation).await? => Answer::done(),
                None => Answer::refused("sold out"),
            };
            self.point().await;
            answers.push(answer);
        }
        Ok(answers)
    }

    async fn point(&self) {
        if self.world.point(Victim::Participant(self.instance), "inside a local transaction") {
            self.world.count(Fault::ParticipantCrashedInside);
            std::future::pending::<()>().await;
        }
    }
}

impl Trouble {
    fn befall(self) -> sqlx::Result<Answer> {
        match self {
            Self::Refuses => Ok(Answer::refused("it does not want to")),
            Self::NotNow => Ok(Answer::not_now(Duration::from_millis(20))),
            Self::Fails => Err(sqlx::Error::RowNotFound),
            Self::Lost => Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())),
            // Without a word in the log: this one is meant.
            Self::Panics => std::panic::resume_unwind(Box::new("simulated")),
        }
    }
}

impl Participant for Shop {
    type Db = Sqlite;
    type Request = Order;

    async fn try_(&self, db_tx: &mut SqliteConnection, order: Order) -> sqlx::Result<Answer> {
        self.one(db_tx, order, Operation::Try).await
    }

    async fn confirm(&self, db_tx: &mut SqliteConnection, order: Order) -> sqlx::Result<Answer> {
        self.one(db_tx, order, Operation::Confirm).await
    }

    async fn cancel(&self, db_tx: &mut SqliteConnection, order: Order) -> sqlx::Result<Answer> {
        self.one(db_tx, order, Operation::Cancel).await
    }
}

impl SliceParticipant for Shop {
    type Db = Sqlite;
    type Request = Order;

    async fn try_(&self, db_tx: &mut SqliteConnection, slice: &[Op<Order>]) -> sqlx::Result<Vec<Answer>> {
        self.all(db_tx, slice, Operation::Try).await
    }

    async fn confirm(&self, db_tx: &mut SqliteConnection, slice: &[Op<Order>]) -> sqlx::Result<Vec<Answer>> {
        self.all(db_tx, slice, Operation::Confirm).await
    }

    async fn cancel(&self, db_tx: &mut SqliteConnection, slice: &[Op<Order>]) -> sqlx::Result<Vec<Answer>> {
        self.all(db_tx, slice, Operation::Cancel).await
    }
}

impl Compensable for Shop {
    type Db = Sqlite;
    type Request = Order;

    async fn try_(&self, db_tx: &mut SqliteConnection, order: Order) -> sqlx::Result<Answer> {
        self.one(db_tx, order, Operation::Try).await
    }

    async fn cancel(&self, db_tx: &mut SqliteConnection, order: Order) -> sqlx::Result<Answer> {
        self.one(db_tx, order, Operation::Cancel).await
    }
}

impl Receiver for Shop {
    type Db = Sqlite;
    type Request = Order;

    async fn deliver(&self, db_tx: &mut SqliteConnection, order: Order) -> sqlx::Result<Answer> {
        self.one(db_tx, order, Operation::Confirm).await
    }
}

/// Runs what waits for SQLite's threads and for nothing else, while simulated time stands still: whatever they take,
/// the run is the same. `None`: `stop` said so, and the rest is dropped.
pub(crate) fn block_on<T>(future: impl Future<Output = T>, stop: impl Fn() -> bool) -> Option<T> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    // Tokio would have a task that does much give way to others; here there are none.
    let mut future = pin!(tokio::task::unconstrained(future));
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        if stop() {
            return None;
        }
        std::thread::park_timeout(STUCK);
    }
}

fn finish<T>(future: impl Future<Output = Result<T, sqlx::Error>>) -> T {
    block_on(future, || false).expect("nobody stops it").expect("a database in memory answers")
}
