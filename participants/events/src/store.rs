//! Where events wait, and how far consumers have come: both dialects side by side. Rows travel as one JSON parameter.
//!
//! Time is the database's.

use sqlx::Pool;
use sqlx::error::DatabaseError;
use tercet::fence::Dialect;
use tercet::participant::DbTx;
use tercet::tables;

mod statements;

use statements::{COUNT, DEAD_COUNT, LETTER, LETTERS, NEXT, OLDEST, PLACE, RELEASE, RENEW, TAKE};

use crate::limits::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, COUNT_MAX};

/// A row of an outbox, or a dead letter, before it has an id.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where it goes.
    pub topic: String,
    /// What keeps its order.
    pub key: String,
    /// When it happened; now, by default.
    pub at_ms: Option<i64>,
    /// Of a dead letter: where it was and why it could not be taken, as JSON.
    pub letter: Option<String>,
    /// The event.
    pub payload: Vec<u8>,
}

/// A row that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its number in its table.
    pub id: i64,
    /// When it happened, or was put away.
    pub at_ms: i64,
    /// The rest of it.
    pub row: Row,
}

/// The right to relay the outbox of one database, as long as nobody takes it.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Whose it is: raised with each owner.
    pub epoch: i64,
    /// Names the outbox.
    pub source: String,
    /// The rows that are being published.
    pub batch: Vec<i64>,
    /// The number of the first of them.
    pub sequence: i64,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// For how long the oldest row has been waiting.
    pub oldest_ms: i64,
    /// How many rows wait, at most [`COUNT_MAX`].
    pub rows: i64,
    /// How many dead letters are kept here, at most [`COUNT_MAX`].
    pub dead: i64,
}

/// What a consumer takes of one source in one partition: everything up to a sequence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The topic, without the prefix.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The outbox; empty where the topic itself numbers its events.
    pub source: String,
    /// The last event of it.
    pub sequence: i64,
}

/// A database that events can be written to, published from and consumed in.
pub trait Store: Dialect {
    /// Begins a local transaction that is going to write.
    const BEGIN_WRITE: &'static str;

    /// Creates the tables, or brings them up to date.
    fn migrate_events(pool: &Pool<Self>) -> impl Future<Output = Result<(), tables::Error>> + Send;

    /// Writes rows, in their order.
    fn outbox_append(db_tx: &mut DbTx<Self>, rows: &[Row]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Keeps dead letters here.
    fn letter_keep(db_tx: &mut DbTx<Self>, rows: &[Row]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Takes the right to relay: where it is free, its time is over, it is this owner's, or `at_once`.
    fn outbox_take(
        db: &mut DbTx<Self>,
        owner: &str,
        lease_ms: i64,
        at_once: bool,
    ) -> impl Future<Output = sqlx::Result<Option<Lease>>> + Send;

    /// Lengthens a lease, or ends it with 0; false when somebody else has taken it.
    fn outbox_renew(db: &mut DbTx<Self>, epoch: i64, lease_ms: i64) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// The rows that are being published.
    fn outbox_batch(db: &mut DbTx<Self>, lease: &Lease) -> impl Future<Output = sqlx::Result<Vec<Waiting>>> + Send;

    /// Whether there is any row.
    fn outbox_any(db: &mut DbTx<Self>) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Deletes the rows of the lease's batch, which are published, and makes the oldest others its batch. `None` when
    /// somebody else has taken it: roll back.
    fn outbox_next(
        db_tx: &mut DbTx<Self>,
        lease: &mut Lease,
        lease_ms: i64,
    ) -> impl Future<Output = sqlx::Result<Option<Vec<Waiting>>>> + Send;

    /// How much waits.
    fn outbox_look(db: &mut DbTx<Self>) -> impl Future<Output = sqlx::Result<Look>> + Send;

    /// Moves a consumer to these positions, sorted and with no key twice, and says where it was before, in their
    /// order: -1 where it was not. Holds them until the local transaction ends.
    fn inbox_enter(
        db_tx: &mut DbTx<Self>,
        consumer: &str,
        positions: &[Position],
    ) -> impl Future<Output = sqlx::Result<Vec<i64>>> + Send;

    /// So many dead letters above an id.
    fn letters(db: &mut DbTx<Self>, after: i64, limit: u32) -> impl Future<Output = sqlx::Result<Vec<Waiting>>> + Send;

    /// The database's clock.
    fn clock_ms(db: &mut DbTx<Self>) -> impl Future<Output = sqlx::Result<i64>> + Send;

    /// Locks and reads one dead letter.
    fn letter_get(db_tx: &mut DbTx<Self>, id: i64) -> impl Future<Output = sqlx::Result<Option<Waiting>>> + Send;

    /// Deletes a dead letter.
    fn letter_release(db_tx: &mut DbTx<Self>, id: i64) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Whether the same statement may succeed later: the database is out of reach, locked, full or only reads.
    fn may_pass(error: &sqlx::Error) -> bool;
}

type WaitingRow = (i64, String, String, i64, Option<String>, Vec<u8>);

impl Waiting {
    fn from_row((id, topic, key, at_ms, letter, payload): WaitingRow) -> Self {
        Self { id, at_ms, row: Row { topic, key, at_ms: Some(at_ms), letter, payload } }
    }

    fn bytes(&self) -> usize {
        self.row.payload.len() + self.row.letter.as_ref().map_or(0, String::len)
    }
}

macro_rules! store {
    ($database:ty, $sql:ident, $bind_rows:ident, $may_pass:ident, $migration:literal) => {
        impl Store for $database {
            const BEGIN_WRITE: &'static str = $sql.begin;

            async fn migrate_events(pool: &Pool<Self>) -> Result<(), tables::Error> {
                tables::make(pool, "tercet_events", tables::versions([include_str!($migration)])).await
            }

            async fn outbox_append(db_tx: &mut DbTx<Self>, rows: &[Row]) -> sqlx::Result<()> {
                $bind_rows!(sqlx::query($sql.append), rows).execute(db_tx).await.map(drop)
            }

            async fn letter_keep(db_tx: &mut DbTx<Self>, rows: &[Row]) -> sqlx::Result<()> {
                $bind_rows!(sqlx::query($sql.keep), rows).execute(db_tx).await.map(drop)
            }

            async fn outbox_take(
                db: &mut DbTx<Self>,
                owner: &str,
                lease_ms: i64,
                at_once: bool,
            ) -> sqlx::Result<Option<Lease>> {
                let now_ms: i64 = sqlx::query_scalar($sql.now_ms).fetch_one(&mut *db).await?;
                let take = sqlx::query(TAKE).bind(owner).bind(now_ms + lease_ms);
                let before = if at_once { i64::MAX } else { now_ms };
                if take.bind(before).bind(owner).execute(&mut *db).await?.rows_affected() != 1 {
                    return Ok(None);
                }
                let (epoch, source, batch, sequence, own): (i64, String, String, i64, String) =
                    sqlx::query_as(PLACE).fetch_one(db).await?;
                let batch = serde_json::from_str(&batch).map_err(|error| sqlx::Error::Decode(error.into()))?;
                Ok((own == owner).then_some(Lease { epoch, source, batch, sequence }))
            }

            async fn outbox_renew(db: &mut DbTx<Self>, epoch: i64, lease_ms: i64) -> sqlx::Result<bool> {
                let now_ms: i64 = sqlx::query_scalar($sql.now_ms).fetch_one(&mut *db).await?;
                let renew = sqlx::query(RENEW).bind(now_ms + lease_ms).bind(epoch);
                Ok(renew.execute(db).await?.rows_affected() == 1)
            }

            async fn outbox_batch(db: &mut DbTx<Self>, lease: &Lease) -> sqlx::Result<Vec<Waiting>> {
                let rows = sqlx::query_as($sql.batch).bind(json(&lease.batch)).fetch_all(db).await?;
                Ok(rows.into_iter().map(Waiting::from_row).collect())
            }

            async fn outbox_any(db: &mut DbTx<Self>) -> sqlx::Result<bool> {
                let first: Option<i64> = sqlx::query_scalar(NEXT).fetch_optional(db).await?;
                Ok(first.is_some())
            }

            async fn outbox_next(
                db_tx: &mut DbTx<Self>,
                lease: &mut Lease,
                lease_ms: i64,
            ) -> sqlx::Result<Option<Vec<Waiting>>> {
                use futures_util::TryStreamExt as _;
                if !lease.batch.is_empty() {
                    sqlx::query($sql.published).bind(json(&lease.batch)).execute(&mut *db_tx).await?;
                }
                let mut rows: Vec<Waiting> = Vec::new();
                let mut bytes = 0;
                {
                    let query = sqlx::query_as($sql.oldest).bind(BATCH_ROWS_MAX as i64);
                    let mut found = query.fetch(&mut *db_tx).map_ok(Waiting::from_row);
                    while bytes < BATCH_BYTES_MAX
                        && let Some(row) = found.try_next().await?
                    {
                        bytes += row.bytes();
                        rows.push(row);
                    }
                }
                let sequence = lease.sequence + lease.batch.len() as i64;
                let batch: Vec<i64> = rows.iter().map(|row| row.id).collect();
                let now_ms: i64 = sqlx::query_scalar($sql.now_ms).fetch_one(&mut *db_tx).await?;
                let moved = sqlx::query($sql.advance).bind(json(&batch)).bind(sequence).bind(now_ms + lease_ms);
                if moved.bind(lease.epoch).execute(db_tx).await?.rows_affected() != 1 {
                    return Ok(None);
                }
                (lease.batch, lease.sequence) = (batch, sequence);
                Ok(Some(rows))
            }

            async fn outbox_look(db: &mut DbTx<Self>) -> sqlx::Result<Look> {
                let now_ms: i64 = sqlx::query_scalar($sql.now_ms).fetch_one(&mut *db).await?;
                let oldest: Option<i64> = sqlx::query_scalar(OLDEST).fetch_optional(&mut *db).await?;
                let rows: i64 = sqlx::query_scalar(COUNT).bind(COUNT_MAX).fetch_one(&mut *db).await?;
                let dead: i64 = sqlx::query_scalar(DEAD_COUNT).bind(COUNT_MAX).fetch_one(db).await?;
                Ok(Look { oldest_ms: oldest.map_or(0, |at_ms| (now_ms - at_ms).max(0)), rows, dead })
            }

            async fn inbox_enter(
                db_tx: &mut DbTx<Self>,
                consumer: &str,
                positions: &[Position],
            ) -> sqlx::Result<Vec<i64>> {
                let row = |at: &Position| (at.topic.clone(), at.partition, at.source.clone(), at.sequence);
                let rows = json(&positions.iter().map(row).collect::<Vec<_>>());
                sqlx::query($sql.enter).bind(consumer).bind(&rows).execute(&mut *db_tx).await?;
                let before = sqlx::query_scalar($sql.entered).bind(rows).bind(consumer).fetch_all(db_tx).await?;
                if before.len() == positions.len() { Ok(before) } else { Err(sqlx::Error::RowNotFound) }
            }

            async fn letters(db: &mut DbTx<Self>, after: i64, limit: u32) -> sqlx::Result<Vec<Waiting>> {
                let query = sqlx::query_as(LETTERS).bind(after).bind(i64::from(limit));
                Ok(query.fetch_all(db).await?.into_iter().map(Waiting::from_row).collect())
            }

            async fn clock_ms(db: &mut DbTx<Self>) -> sqlx::Result<i64> {
                sqlx::query_scalar($sql.now_ms).fetch_one(db).await
            }

            async fn letter_get(db_tx: &mut DbTx<Self>, id: i64) -> sqlx::Result<Option<Waiting>> {
                Ok(sqlx::query_as(LETTER).bind(id).fetch_optional(db_tx).await?.map(Waiting::from_row))
            }

            async fn letter_release(db_tx: &mut DbTx<Self>, id: i64) -> sqlx::Result<()> {
                let gone = sqlx::query(RELEASE).bind(id).execute(db_tx).await?.rows_affected();
                if gone == 1 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
            }

            fn may_pass(error: &sqlx::Error) -> bool {
                match error.as_database_error() {
                    Some(error) => $may_pass(error),
                    None => {
                        !matches!(error, sqlx::Error::RowNotFound | sqlx::Error::Encode(_) | sqlx::Error::Decode(_))
                    }
                }
            }
        }
    };
}

/// All payloads as one blob, and where each lies in it.
#[cfg(feature = "sqlite")]
macro_rules! packed {
    ($query:expr, $rows:ident) => {{
        let mut blob = Vec::with_capacity($rows.iter().map(|row: &Row| row.payload.len()).sum());
        let mut items = Vec::with_capacity($rows.len());
        for row in $rows {
            items.push((&row.topic, &row.key, row.at_ms, &row.letter, blob.len() + 1, row.payload.len()));
            blob.extend_from_slice(&row.payload);
        }
        $query.bind(blob).bind(json(&items))
    }};
}

/// Payloads in hexadecimal digits.
#[cfg(feature = "mysql")]
macro_rules! hexadecimal {
    ($query:expr, $rows:ident) => {{
        let mut items = Vec::with_capacity($rows.len());
        for row in $rows {
            items.push((&row.topic, &row.key, row.at_ms, &row.letter, hex(&row.payload)));
        }
        $query.bind(json(&items))
    }};
}

#[cfg(feature = "sqlite")]
use statements::SQLITE;
#[cfg(feature = "sqlite")]
store!(sqlx::Sqlite, SQLITE, packed, sqlite_may_pass, "../../../sql/events/sqlite/0001_events.sql");
#[cfg(feature = "mysql")]
use statements::MYSQL;
#[cfg(feature = "mysql")]
store!(sqlx::MySql, MYSQL, hexadecimal, mysql_may_pass, "../../../sql/events/mysql/0001_events.sql");

/// Busy, locked, read-only, broken and full; the higher bits of the code say more about each.
#[cfg(feature = "sqlite")]
fn sqlite_may_pass(error: &dyn DatabaseError) -> bool {
    let code = error.code().and_then(|code| code.parse::<i32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 10 | 13))
}

/// A lock that was not had, a deadlock, a full table or disk, a server that only reads or stops.
#[cfg(feature = "mysql")]
fn mysql_may_pass(error: &dyn DatabaseError) -> bool {
    let error = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>();
    error.is_some_and(|error| matches!(error.number(), 1_021 | 1_053 | 1_114 | 1_205 | 1_213 | 1_290 | 1_836))
}

fn json<T: serde::Serialize + ?Sized>(rows: &T) -> String {
    serde_json::to_string(rows).expect("numbers and texts have a form in JSON")
}

#[cfg(feature = "mysql")]
fn hex(bytes: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}
