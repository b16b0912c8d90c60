//! What the fence needs of a database.

use std::future::Future;
use std::time::Duration;

use sqlx::migrate::{Migrate, Migrator};
use sqlx::{AssertSqlSafe, Database, Pool, SqlStr};
#[cfg(any(feature = "mysql", feature = "postgres"))]
use tokio::time::Instant;

use super::{Entry, Found, Settled, State};
use crate::tables;
use crate::xid::Xid;

/// Connections of a service's pool on a server, which batches do not use: they have [`Sql::WRITERS`] of their own.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(super) const POOL_MAX: u32 = 10;
/// How long a service waits for a connection of its pool. Then there is none free, or the server refuses more, and who
/// asked is told soon that it does not work now.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(super) const ACQUIRE_MAX: Duration = Duration::from_secs(1);
/// How long a server may take to start that is started together with the service.
#[cfg(any(feature = "mysql", feature = "postgres"))]
const START_MAX: Duration = Duration::from_secs(30);

/// The pool, once there is a connection.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(super) async fn reached<Db: Database>(pool: Pool<Db>) -> Result<Pool<Db>, sqlx::Error> {
    let begun = Instant::now();
    loop {
        let reached = pool.acquire().await.map(drop);
        match reached {
            Err(sqlx::Error::PoolTimedOut) if begun.elapsed() < START_MAX => {}
            Ok(()) | Err(_) => return reached.map(|()| pool),
        }
    }
}

/// The fence's statements. Implemented here only, which seals [`Dialect`](super::Dialect).
pub trait Sql: Database<Connection: Migrate> {
    /// How many local transactions one process runs at once in one database.
    const WRITERS: usize;
    /// Between two times that the floor is raised: where calls wait for it, more than none.
    const RAISE_EVERY: Duration = Duration::ZERO;
    /// Begins a transaction that is going to write.
    const BEGIN: Option<&'static str>;
    /// The tables, oldest first.
    const SCHEMA: [&'static str; 2];
    /// A whole number of 64 bits in a CAST.
    const INTEGER: &'static str;
    /// What the book does with an entry for a resource that it has.
    const BOOK_ADD: &'static str;
    /// What the book does with a resource that it has, when it is offered again.
    const BOOK_KEEP: &'static str;

    /// A connection of the SDK's own.
    fn connect(pool: &Pool<Self>) -> impl Future<Output = Result<Self::Connection, sqlx::Error>> + Send;

    /// Runs a migrator that takes no lock, alone in this database: waits for others, at most [`tables::WAIT`].
    fn make_tables(
        connection: &mut Self::Connection,
        migrator: &Migrator,
    ) -> impl Future<Output = Result<(), tables::Error>> + Send;

    /// Runs statements without parameters.
    fn execute(connection: &mut Self::Connection, sql: SqlStr) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Runs statements without parameters and returns the rows of the last: so many numbers, then texts.
    fn fetch(
        connection: &mut Self::Connection,
        sql: String,
        numbers: usize,
    ) -> impl Future<Output = Result<Vec<Numbered>, sqlx::Error>> + Send;

    /// The random id that the database was given with its fence.
    fn fence_id(connection: &mut Self::Connection) -> impl Future<Output = Result<[u8; 16], sqlx::Error>> + Send;

    /// The upsert: `entries` are sorted by key and have no key twice. Returns what was there before, in any order; and
    /// nothing, with nothing written, when one of them is at or below the floor, or the database is at another epoch.
    /// Where parts move, which is on MariaDB and MySQL, the epoch stays until the local transaction ends.
    fn enter(
        connection: &mut Self::Connection,
        entries: &[Entry],
        epoch: Option<i64>,
    ) -> impl Future<Output = Result<Vec<Found>, sqlx::Error>> + Send;

    /// Writes these rows, which exist, once more.
    fn settle(
        connection: &mut Self::Connection,
        rows: &[Settled],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The floor and the epoch as they are now; as for `enter`, they stay.
    fn marks(connection: &mut Self::Connection) -> impl Future<Output = Result<Marks, sqlx::Error>> + Send;

    /// Raises the floor, never lowers it.
    fn raise_floor(
        connection: &mut Self::Connection,
        floor_ms: u64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Deletes all rows of these transactions.
    fn forget(connection: &mut Self::Connection, xids: &[Xid]) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Fails where this transaction can only be rolled back although its COMMIT would succeed: a statement of it
    /// failed, and its handler went on.
    fn check(connection: &mut Self::Connection) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let _ = connection;
        std::future::ready(Ok(()))
    }

    /// Whether the local transaction lost against another and may win when it is run again.
    fn is_conflict(error: &sqlx::Error) -> bool;
}

/// What holds for all of a fence.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// Calls that end at or below it touch nothing.
    pub(crate) floor_ms: u64,
    /// Counts what the database began and ceased to serve.
    pub(crate) epoch: i64,
}

/// The numbers and the texts of a row.
pub(super) type Numbered = (Vec<i64>, Vec<String>);

/// Makes the fence's tables where they are missing, as a service does at its start: for those who write beside it
/// before.
///
/// # Errors
/// Those of [`tables::Error`].
pub async fn prepare<Db: super::Dialect>(pool: &Pool<Db>) -> Result<(), tables::Error> {
    tables::make(pool, "tercet_fence", tables::versions(Db::SCHEMA)).await
}

/// Fails unless this table is visible on the fence's connection, which makes both part of one local transaction.
pub(crate) async fn check_table<Db: Sql>(connection: &mut Db::Connection, table: &str) -> Result<(), sqlx::Error> {
    // The name is the author's, and `service` has looked at its letters.
    let sql = AssertSqlSafe(format!("SELECT 1 FROM {table} WHERE 1 = 0"));
    Db::execute(connection, sqlx::SqlSafeStr::into_sql_str(sql)).await
}

/// A row that the upsert returned.
pub(super) fn found(xid: &[u8], branch: i64, prev: i64, reply: Option<Vec<u8>>) -> Result<Found, sqlx::Error> {
    let (Some(xid), Ok(branch)) = (Xid::from_slice(xid), u32::try_from(branch)) else {
        return Err(sqlx::Error::Decode("a fence row has a key that is not one".into()));
    };
    Ok(Found { key: (xid, branch), prev: State::from_number(prev)?, reply })
}

/// A point in time as databases hold it.
pub(super) fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
