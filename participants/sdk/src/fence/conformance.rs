//! What the fence promises, as a suite that every database passes. For tests: it panics where a promise is broken.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Pool, SqlSafeStr as _};
use tercet_proto::participant::v1::Operation::{self as Wanted, Ask, Cancel, Confirm, Try};
use tercet_proto::participant::v1::{Call, Reply, reply::Answer as Said};

use super::{CommitError, Dialect, commit_sender, guard};
use crate::action::{Action, Json, Sender, Tcc};
use crate::batch::Executor;
use crate::context::Context;
use crate::participant::{Answer, DbTx, Op, Participant, SliceParticipant};
use crate::service::Service;
use crate::xid::Xid;

mod cells;
mod crowd;
mod floor;

pub use floor::rises_beside_slow_handlers;

/// What the suite asks a database besides.
pub trait Probe: Dialect {
    /// The one number that this expression gives, a `SELECT` in brackets.
    fn number(connection: &mut Self::Connection, sql: String) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;

    /// Bytes as a literal.
    fn literal(digits: String) -> String;
}

macro_rules! probe {
    ($database:ty, $select:literal, $literal:literal) => {
        impl Probe for $database {
            async fn number(connection: &mut Self::Connection, sql: String) -> Result<i64, sqlx::Error> {
                sqlx::query_scalar(AssertSqlSafe(format!($select, sql))).fetch_one(connection).await
            }

            fn literal(digits: String) -> String {
                format!($literal, digits)
            }
        }
    };
}

#[cfg(feature = "sqlite")]
probe!(sqlx::Sqlite, "SELECT {}", "X'{}'");
#[cfg(feature = "mysql")]
probe!(sqlx::MySql, "SELECT {}", "X'{}'");
#[cfg(feature = "postgres")]
probe!(sqlx::Postgres, "SELECT {}::bigint", "'\\x{}'::bytea");

/// Runs the whole suite in the empty database at this URL.
///
/// # Panics
/// Where a promise is broken.
pub async fn run<Db: Probe>(url: &str) {
    let world = World::<Db>::new(url).await;
    cells::every_cell(&world).await;
    cells::what_is_not_done_leaves_no_trace(&world).await;
    cells::a_bad_operation_harms_no_other(&world).await;
    cells::rows_go_after_the_floor(&world).await;
    cells::guarded(&world).await;
    cells::senders(&world).await;
    crowd::on_one_key(&world).await;
    crowd::on_many_keys(&world).await;
}

const ONE: Action<Tcc, Json<(i64, Do)>> = Action::tcc("probe", "one");
const SLICE: Action<Tcc, Json<(i64, Do)>> = Action::tcc("probe", "slice");
const SENDER: Action<Sender, Json<()>> = Action::sender("probe", "sender");

/// The actions with handlers.
const BOTH: [&str; 2] = [ONE.name(), SLICE.name()];

/// What a handler is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Do {
    /// Write, and answer with the operation's letter as result.
    Done,
    Refuse,
    NotNow,
    /// Write, and fail.
    Fail,
}

/// Counts the operations done by key, in columns t, c and x.
struct Counter<Db>(std::marker::PhantomData<fn() -> Db>);

impl<Db: Probe> Counter<Db> {
    const NEW: Self = Self(std::marker::PhantomData);

    async fn count(db_tx: &mut DbTx<Db>, column: &str, key: i64) -> Result<(), sqlx::Error> {
        let sql = format!("UPDATE probe SET {column} = {column} + 1 WHERE k = {key}");
        Db::execute(db_tx, AssertSqlSafe(sql).into_sql_str()).await
    }

    /// Writes before it answers, whatever it answers.
    async fn one(db_tx: &mut DbTx<Db>, column: &str, (key, what): (i64, Do)) -> Result<Answer, sqlx::Error> {
        Self::count(db_tx, column, key).await?;
        match what {
            Do::Done => Ok(Answer::done_with(column.to_owned())),
            Do::Refuse => Ok(Answer::refused("no")),
            Do::NotNow => Ok(Answer::not_now(Duration::from_millis(9))),
            Do::Fail => Self::count(db_tx, "there_is_no_such_column", key).await.map(|()| Answer::done()),
        }
    }

    /// Writes for those alone that it answers done.
    async fn slice(
        db_tx: &mut DbTx<Db>,
        column: &str,
        operations: &[Op<Json<(i64, Do)>>],
    ) -> Result<Vec<Answer>, sqlx::Error> {
        let mut answers = Vec::new();
        for Op { request: Json((key, what)), .. } in operations {
            answers.push(match what {
                Do::Done | Do::Fail => Self::one(db_tx, column, (*key, *what)).await?,
                Do::Refuse => Answer::refused("no"),
                Do::NotNow => Answer::not_now(Duration::from_millis(9)),
            });
        }
        Ok(answers)
    }
}

impl<Db: Probe> Participant for Counter<Db> {
    type Db = Db;
    type Request = Json<(i64, Do)>;

    async fn try_(&self, db_tx: &mut DbTx<Db>, request: Self::Request) -> Result<Answer, sqlx::Error> {
        Self::one(db_tx, "t", request.0).await
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, request: Self::Request) -> Result<Answer, sqlx::Error> {
        Self::one(db_tx, "c", request.0).await
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, request: Self::Request) -> Result<Answer, sqlx::Error> {
        Self::one(db_tx, "x", request.0).await
    }
}

impl<Db: Probe> SliceParticipant for Counter<Db> {
    type Db = Db;
    type Request = Json<(i64, Do)>;

    async fn try_(&self, db_tx: &mut DbTx<Db>, all: &[Op<Self::Request>]) -> Result<Vec<Answer>, sqlx::Error> {
        Self::slice(db_tx, "t", all).await
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, all: &[Op<Self::Request>]) -> Result<Vec<Answer>, sqlx::Error> {
        Self::slice(db_tx, "c", all).await
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, all: &[Op<Self::Request>]) -> Result<Vec<Answer>, sqlx::Error> {
        Self::slice(db_tx, "x", all).await
    }
}

/// The service under test, and a look at its tables.
struct World<Db: Probe> {
    pool: Pool<Db>,
    executor: Executor<Db>,
    next: std::sync::atomic::AtomicI64,
}

impl<Db: Probe> World<Db> {
    async fn new(url: &str) -> Self {
        let pool = Db::open(url).await.expect("the database is there");
        let table =
            "CREATE TABLE probe (k BIGINT PRIMARY KEY, t BIGINT NOT NULL, c BIGINT NOT NULL, x BIGINT NOT NULL)";
        let mut connection = pool.acquire().await.expect("a connection");
        Db::execute(&mut connection, table.into_sql_str()).await.expect("the database is empty");
        let executor = Self::instance(&pool).await;
        Self { pool, executor, next: std::sync::atomic::AtomicI64::new(1) }
    }

    /// An instance of the service.
    async fn instance(pool: &Pool<Db>) -> Executor<Db> {
        let service = Service::new("probe", [pool.clone()]).tables(["probe"]);
        let service = service.tcc(ONE, Counter::<Db>::NEW).tcc_slice(SLICE, Counter::<Db>::NEW).sender(SENDER);
        service.executor().await.expect("the service is ready")
    }

    /// A key that nothing was done for.
    async fn key(&self) -> i64 {
        let key = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let sql = AssertSqlSafe(format!("INSERT INTO probe (k, t, c, x) VALUES ({key}, 0, 0, 0)"));
        let mut connection = self.pool.acquire().await.expect("a connection");
        Db::execute(&mut connection, sql.into_sql_str()).await.expect("the key is new");
        key
    }

    async fn number(&self, sql: String) -> i64 {
        let mut connection = self.pool.acquire().await.expect("a connection");
        Db::number(&mut connection, sql).await.expect("a number")
    }

    /// What was done for the key: ten thousands are tries, hundreds confirms, the rest cancels.
    async fn done(&self, key: i64) -> i64 {
        self.number(format!("(SELECT t * 10000 + c * 100 + x FROM probe WHERE k = {key})")).await
    }

    /// The fence row of the key: state, and the bytes kept for repeats; 0 is no row.
    async fn row(&self, key: i64) -> (i64, i64) {
        let xid = Db::literal(xid(key).to_string().replace('-', ""));
        let sql = format!(
            "(SELECT COALESCE(MAX(state * 10000 + COALESCE(LENGTH(reply), 0)), 0) FROM tercet_fence WHERE xid = {xid})"
        );
        let number = self.number(sql).await;
        (number / 10_000, number % 10_000)
    }

    async fn say(&self, call: Call) -> Said {
        said(self.executor.run(vec![call]).await).remove(0)
    }
}

fn said(replies: Vec<Reply>) -> Vec<Said> {
    replies.into_iter().map(|reply| reply.answer.expect("a reply says something")).collect()
}

fn xid(key: i64) -> Xid {
    Xid::new((0x0198_0000_0000_7000_8000_0000_0000_0000 + u128::from(key.unsigned_abs())).to_be_bytes())
}

fn context(key: i64) -> Context {
    Context { xid: xid(key), branch: 3, not_after_ms: 1_000_000 }
}

fn call(key: i64, action: &str, operation: Wanted, what: Do) -> Call {
    let action = if operation == Ask { SENDER.name() } else { action };
    Call {
        xid: xid(key).as_bytes().to_vec().into(),
        branch: 3,
        operation: operation.into(),
        tried: true,
        action: action.to_owned(),
        request: serde_json::to_vec(&(key, what)).expect("it has a form in JSON").into(),
        not_after_ms: 1_000_000,
        ..Call::default()
    }
}
