//! The embedded default: one SQLite file, in WAL mode, synced at every commit.
//!
//! One connection writes, a few read beside it. What is written in batches is in `batch.rs`; here are opening the file
//! and everything that is rare.

pub(crate) mod audit;
mod batch;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, QueryBuilder, Row, Sqlite};
use tercet_core::{Timestamp, Xid};
use tokio::sync::Mutex;

use self::batch::Writer;
use super::{
    AuditQuery, BACKLOGS_MAX, Backlog, Beat, CANARY_MODE, ClaimCompensations, Claimed, Compensation, CompensationQuery,
    CompensationStatus, Error, Key, ListQuery, Lists, Lookup, Owner, Purge, Query, Record, Store, Write, Written,
};
use crate::audit::AuditRow;
use crate::clock::Clock;

/// The schema's versions, oldest first. SQLite's `user_version` tells how many a file has.
const SCHEMA: &[&str] = &[
    include_str!("../../../sql/coordinator/sqlite/0001_init.sql"),
    include_str!("../../../sql/coordinator/sqlite/0002_audit.sql"),
];

/// The columns of a [`Record`], in the order of [`decode_record`].
const RECORD: &str =
    "tx.xid, version, mode, tx.status, ended_at, node, epoch, wake_at, idempotency_key, digest, plan, state";

/// The columns of a [`Compensation`], in the order of [`decode_compensation`].
const COMPENSATION: &str = "id, xid, branch, operation, service, coupon_id, status, retry_count, create_time, \
    update_time, next_retry_time, lease_until, last_error";

/// The order of the index is that of age within a start: a million orphans need no sorting for the oldest.
const CLAIM_ORPHANS: &str = "-- claim_orphans
    UPDATE tx SET node = $1, epoch = $2, version = version + 1
    WHERE rowid IN (
        SELECT tx.rowid FROM (
            SELECT $1 AS id, $2 AS below
            UNION ALL SELECT id, 9223372036854775807 FROM node WHERE id <> $1 AND lease_until <= $3
        ) AS gone
        CROSS JOIN tx INDEXED BY tx_unfinished ON tx.node = gone.id AND tx.epoch < gone.below AND tx.ended_at IS NULL
        WHERE tx.wake_at IS NOT NULL
        LIMIT $4)";

/// A [`Store`] in one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    clock: Box<dyn Clock>,
    writer: Mutex<Writer>,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the file, and makes it and its folder when they are not there. Raises the clock above every time stored.
    pub async fn open(path: &Path, clock: impl Clock) -> Result<Self, Error> {
        prepare_file(path)?;
        let blame = |error| blame_opening(path, error);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            .pragma("temp_store", "memory")
            .disable_statement_logging();
        // Negative: KiB rather than pages.
        let writing = options.clone().pragma("wal_autocheckpoint", "1000").pragma("cache_size", "-4096");
        let mut connection = writing.connect().await.map_err(blame)?;
        apply_schema(&mut connection, path).await?;
        clock.raise(latest(&mut connection).await.map_err(blame)?);
        let readers = SqlitePoolOptions::new()
            .max_connections(2)
            .idle_timeout(Duration::from_secs(60))
            .connect_lazy_with(options.read_only(true).pragma("cache_size", "-512"));
        let writer = Mutex::new(Writer::new(connection).await.map_err(blame)?);
        Ok(Self { path: path.to_owned(), clock: Box::new(clock), writer, readers })
    }

    /// Closes the file and leaves nothing in its log. Dropping the store instead is safe, only the next start has more
    /// to read.
    pub async fn close(self) -> Result<(), Error> {
        self.readers.close().await;
        let Self { path, writer, .. } = self;
        writer.into_inner().connection.close().await.map_err(|error| blame_use(&path, error))
    }

    async fn records(&self, xids: impl Iterator<Item = Xid>) -> Result<HashMap<Xid, Record>, sqlx::Error> {
        let sql = format!(
            "-- records
            SELECT {RECORD} FROM tx WHERE xid IN (SELECT unhex(value, '-') FROM json_each($1))"
        );
        let xids = serde_json::Value::from_iter(xids.map(|xid| xid.to_string())).to_string();
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(xids).fetch_all(&self.readers).await?;
        rows.iter().map(|row| decode_record(row).map(|record| (record.xid, record))).collect()
    }

    fn blame(&self, error: sqlx::Error) -> Error {
        blame_use(&self.path, error)
    }
}

impl Store for SqliteStore {
    async fn write(&self, batch: Vec<Write>) -> Result<Vec<Written>, Error> {
        let mut writer = self.writer.lock().await;
        writer.write(&batch, self.clock.now()).await.map_err(|error| self.blame(error))
    }

    async fn get(&self, lookup: Lookup) -> Result<Option<Record>, Error> {
        let mut query = QueryBuilder::<Sqlite>::new("-- get\nSELECT ");
        query.push(RECORD);
        match lookup {
            Lookup::Xid(xid) => query.push(" FROM tx WHERE xid = ").push_bind(xid.0.to_vec()),
            Lookup::IdempotencyKey(key) => query.push(" FROM tx WHERE idempotency_key = ").push_bind(key),
        };
        let row = query.build().fetch_optional(&self.readers).await.map_err(|error| self.blame(error))?;
        row.as_ref().map(decode_record).transpose().map_err(|error| self.blame(error))
    }

    async fn list<Q: Query>(&self, query: Q) -> Result<Vec<Q::Row>, Error> {
        query.read(self).await
    }

    async fn claim_orphans(&self, owner: Owner, limit: u32) -> Result<Vec<Record>, Error> {
        let mut writer = self.writer.lock().await;
        let rows = sqlx::query(AssertSqlSafe(format!("{CLAIM_ORPHANS} RETURNING {RECORD}")))
            .bind(i64::from(owner.node))
            .bind(owner.epoch.cast_signed())
            .bind(self.clock.now().0.cast_signed())
            .bind(i64::from(limit))
            .fetch_all(&mut writer.connection)
            .await
            .map_err(|error| self.blame(error))?;
        let records: Result<Vec<_>, _> = rows.iter().map(decode_record).collect();
        let mut records = records.map_err(|error| self.blame(error))?;
        records.sort_unstable_by_key(|record| record.xid);
        Ok(records)
    }

    async fn claim_compensations(&self, claim: ClaimCompensations) -> Result<Vec<Claimed>, Error> {
        if claim.services.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = claim_sql(claim);
        let mut writer = self.writer.lock().await;
        let rows = sql.build().fetch_all(&mut writer.connection).await.map_err(|error| self.blame(error))?;
        // What follows only reads: the next commit need not wait for it.
        drop(writer);
        let rows: Result<Vec<_>, _> = rows.iter().map(decode_compensation).collect();
        let mut rows = rows.map_err(|error| self.blame(error))?;
        rows.sort_unstable_by_key(|row| (row.next_retry_time, row.id));
        let records = self.records(rows.iter().map(|row| row.xid)).await.map_err(|error| self.blame(error))?;
        let claimed = rows.into_iter().filter_map(|compensation| {
            let record = records.get(&compensation.xid)?.clone();
            Some(Claimed { compensation, record })
        });
        Ok(claimed.collect())
    }

    async fn beat(&self, node: u16, epoch: Option<u64>, lease_ms: u64) -> Result<Beat, Error> {
        const START: &str = "-- start
            INSERT INTO node (id, epoch, beat_at, lease_until) VALUES ($1, 1, $2, $3)
            ON CONFLICT (id) DO UPDATE
            SET epoch = epoch + 1, beat_at = excluded.beat_at, lease_until = excluded.lease_until
            RETURNING epoch";
        const BEAT: &str = "-- beat
            UPDATE node SET beat_at = $2, lease_until = $3 WHERE id = $1 AND epoch = $4 RETURNING epoch";
        const BACKLOGS: &str = "-- backlogs
            SELECT service, pending, failed,
                (SELECT create_time FROM compensation_log INDEXED BY compensation_log_oldest
                    WHERE service = count.service AND status = 0 ORDER BY id LIMIT 1),
                (SELECT next_retry_time FROM compensation_log INDEXED BY compensation_log_due
                    WHERE service = count.service AND status = 0 ORDER BY next_retry_time LIMIT 1)
            FROM compensation_count AS count ORDER BY pending + failed DESC LIMIT $1";
        let mut writer = self.writer.lock().await;
        let now = self.clock.now();
        let row = sqlx::query(if epoch.is_none() { START } else { BEAT })
            .bind(i64::from(node))
            .bind(now.0.cast_signed())
            .bind(now.after_ms(lease_ms).0.cast_signed())
            .bind(epoch.map(u64::cast_signed))
            .fetch_all(&mut writer.connection)
            .await
            .map_err(|error| self.blame(error))?;
        drop(writer);
        let Some(row) = row.first() else {
            return Err(Error::Superseded { node, epoch: epoch.unwrap_or_default() });
        };
        let epoch = decode_number(row, 0).map_err(|error| self.blame(error))?;
        let backlogs = sqlx::query(BACKLOGS).bind(BACKLOGS_MAX as i64).fetch_all(&self.readers).await;
        let backlogs = backlogs.map_err(|error| self.blame(error))?;
        let backlogs = backlogs.iter().map(decode_backlog).collect::<Result<_, _>>();
        Ok(Beat { now, epoch, backlogs: backlogs.map_err(|error| self.blame(error))? })
    }

    async fn purge(&self, purge: Purge) -> Result<u64, Error> {
        let mut writer = self.writer.lock().await;
        let gone = writer.purge(purge).await;
        gone.map_err(|error| self.blame(error))
    }
}

impl Lists for SqliteStore {
    async fn transactions(&self, query: ListQuery) -> Result<Vec<Record>, Error> {
        let mut sql = list_sql(query);
        let rows = sql.build().fetch_all(&self.readers).await.map_err(|error| self.blame(error))?;
        rows.iter().map(decode_record).collect::<Result<_, _>>().map_err(|error| self.blame(error))
    }

    async fn compensations(&self, query: CompensationQuery) -> Result<Vec<Compensation>, Error> {
        let mut sql = QueryBuilder::<Sqlite>::new("-- list_compensations\nSELECT ");
        sql.push(COMPENSATION).push(" FROM compensation_log WHERE id > ").push_bind(number(query.after_id));
        if let Some(status) = query.status {
            sql.push(" AND status = ").push_bind(status as i64);
        }
        if let Some(service) = query.service {
            sql.push(" AND service = ").push_bind(service);
        }
        if let Some(xid) = query.xid {
            sql.push(" AND xid = ").push_bind(xid.0.to_vec());
        }
        sql.push(" ORDER BY id LIMIT ").push_bind(i64::from(query.limit));
        let rows = sql.build().fetch_all(&self.readers).await.map_err(|error| self.blame(error))?;
        rows.iter().map(decode_compensation).collect::<Result<_, _>>().map_err(|error| self.blame(error))
    }

    async fn audit(&self, query: AuditQuery) -> Result<Vec<AuditRow>, Error> {
        audit::list(&self.readers, query).await.map_err(|error| self.blame(error))
    }
}

/// What an id is compared with. SQLite has no number beyond the largest of its own, and no row is there.
fn number(id: u64) -> i64 {
    id.min(i64::MAX as u64).cast_signed()
}

/// Makes the folder and the file, because the system's word on why that fails is clearer than SQLite's.
fn prepare_file(path: &Path) -> Result<(), Error> {
    let unwritable = |path: &Path, source: std::io::Error| Error::Unwritable { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        make_folder(folder).map_err(|error| unwritable(folder, error))?;
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    file.map(drop).map_err(|error| unwritable(path, error))
}

/// Makes a folder and those above it. Each name is synced, or a power cut could take the folder with all that is in it;
/// SQLite syncs what is in the folder.
pub(crate) fn make_folder(folder: &Path) -> std::io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or_else(|| Path::new(""));
    make_folder(above)?;
    std::fs::create_dir(folder)?;
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    std::fs::File::open(above)?.sync_all()
}

async fn apply_schema(connection: &mut SqliteConnection, path: &Path) -> Result<(), Error> {
    let blame = |error| blame_opening(path, error);
    let row = sqlx::query("PRAGMA user_version").fetch_one(&mut *connection).await.map_err(blame)?;
    let version = row.try_get::<i64, _>(0).map_err(blame)? as usize;
    if version > SCHEMA.len() {
        return Err(Error::TooNew { path: path.to_owned() });
    }
    for (before, change) in SCHEMA.iter().enumerate().skip(version) {
        let sql = format!("BEGIN IMMEDIATE;\n{change}\nPRAGMA user_version = {};\nCOMMIT;", before + 1);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.map_err(blame)?;
    }
    Ok(())
}

/// The latest time that is stored, or near it: each is found at the end of an index.
async fn latest(connection: &mut SqliteConnection) -> Result<Timestamp, sqlx::Error> {
    const SQL: &str = "-- latest
        SELECT (SELECT max(xid) FROM tx),
            max((SELECT ifnull(max(ended_at), 0) FROM tx WHERE ended_at IS NOT NULL),
                (SELECT ifnull(max(beat_at), 0) FROM node))";
    let row = sqlx::query(SQL).fetch_one(connection).await?;
    let made = row.try_get::<Option<Vec<u8>>, _>(0)?.and_then(|xid| Xid::from_slice(&xid)).map(Xid::created_at);
    Ok(made.unwrap_or_default().max(Timestamp(row.try_get::<i64, _>(1)?.cast_unsigned())))
}

fn list_sql(query: ListQuery) -> QueryBuilder<Sqlite> {
    let label = query.label.map(Key::Label);
    let mut keys: Vec<Key> = label.into_iter().chain(query.business_key.map(Key::Business)).collect();
    let mut sql = QueryBuilder::<Sqlite>::new("-- list\nSELECT ");
    sql.push(RECORD);
    let order = match keys.pop() {
        Some(key) => {
            let (kind, text) = key_parts(&key);
            sql.push(" FROM tx_key AS named CROSS JOIN tx ON tx.xid = named.xid WHERE named.kind = ").push_bind(kind);
            sql.push(" AND named.text = ").push_bind(text.to_owned());
            "named.xid"
        }
        None if query.parked => {
            sql.push(" FROM compensation_log AS failed INDEXED BY compensation_log_parked");
            sql.push(" CROSS JOIN tx ON tx.xid = failed.xid WHERE failed.status = 2");
            "failed.xid"
        }
        // There are few beside those that have ended.
        None if query.unfinished => {
            sql.push(" FROM tx INDEXED BY tx_unfinished WHERE true");
            "tx.xid"
        }
        None => {
            sql.push(" FROM tx WHERE true");
            "tx.xid"
        }
    };
    sql.push(" AND mode <> ").push_bind(i64::from(CANARY_MODE));
    for key in keys {
        let (kind, text) = key_parts(&key);
        sql.push(" AND EXISTS (SELECT 1 FROM tx_key WHERE xid = tx.xid AND kind = ").push_bind(kind);
        sql.push(" AND text = ").push_bind(text.to_owned()).push(")");
    }
    if query.parked && order != "failed.xid" {
        sql.push(" AND EXISTS (SELECT 1 FROM compensation_log INDEXED BY compensation_log_parked");
        sql.push(" WHERE xid = tx.xid AND status = 2)");
    }
    if let Some(status) = query.status {
        sql.push(" AND tx.status = ").push_bind(i64::from(status));
    }
    if query.unfinished {
        sql.push(" AND ended_at IS NULL");
    }
    if let Some(before) = query.before {
        sql.push(" AND ").push(order).push(" < ").push_bind(before.0.to_vec());
    }
    if let Some(from) = query.from {
        sql.push(" AND ").push(order).push(" >= ").push_bind(from.0.to_vec());
    }
    if order == "failed.xid" {
        // Once, however many of its branches are parked.
        sql.push(" GROUP BY failed.xid");
    }
    sql.push(" ORDER BY ").push(order).push(" DESC LIMIT ").push_bind(i64::from(query.limit));
    sql
}

/// Each service by the index and with its own limit, which SQLite takes from no row.
fn claim_sql(claim: ClaimCompensations) -> QueryBuilder<Sqlite> {
    let (now, node, epoch) = (claim.now.0.cast_signed(), i64::from(claim.owner.node), claim.owner.epoch.cast_signed());
    let mut sql = QueryBuilder::<Sqlite>::new("-- claim_compensations\nUPDATE compensation_log SET lease_until = ");
    sql.push_bind(claim.lease_until.0.cast_signed()).push(", owner_node = ").push_bind(node);
    sql.push(", owner_epoch = ").push_bind(epoch).push(" WHERE id IN (");
    for (at, (service, limit)) in claim.services.into_iter().enumerate() {
        sql.push(if at == 0 { "" } else { " UNION ALL " });
        sql.push("SELECT * FROM (SELECT id FROM compensation_log WHERE service = ").push_bind(service);
        sql.push(" AND status = 0 AND next_retry_time <= ").push_bind(now).push(" AND (lease_until <= ").push_bind(now);
        // What an older start of this node had leased died with it.
        sql.push(" OR owner_node = ").push_bind(node).push(" AND owner_epoch < ").push_bind(epoch);
        sql.push(") ORDER BY next_retry_time LIMIT ").push_bind(i64::from(limit)).push(")");
    }
    sql.push(") RETURNING ").push(COMPENSATION);
    sql
}

/// A key's kind, as the tables have it, and its text.
fn key_parts(key: &Key) -> (i64, &str) {
    match key {
        Key::Label(text) => (0, text),
        Key::Business(text) => (1, text),
    }
}

fn decode_xid(row: &SqliteRow, index: usize) -> Result<Xid, sqlx::Error> {
    let bytes: &[u8] = row.try_get(index)?;
    Xid::from_slice(bytes).ok_or_else(|| sqlx::Error::Decode("an xid of another length than 16".into()))
}

/// A number that the schema keeps as a signed one.
fn decode_number<T: TryFrom<i64>>(row: &SqliteRow, index: usize) -> Result<T, sqlx::Error> {
    let number: i64 = row.try_get(index)?;
    number.try_into().map_err(|_| sqlx::Error::Decode(format!("{number} in column {index} is out of range").into()))
}

fn decode_time(row: &SqliteRow, index: usize) -> Result<Timestamp, sqlx::Error> {
    decode_number(row, index).map(Timestamp)
}

fn decode_record(row: &SqliteRow) -> Result<Record, sqlx::Error> {
    let time = |index| {
        let ms: Option<i64> = row.try_get(index)?;
        Ok::<_, sqlx::Error>(ms.map(|ms| Timestamp(ms.cast_unsigned())))
    };
    let owner = match row.try_get::<Option<i64>, _>(5)? {
        Some(_) => Some(Owner { node: decode_number(row, 5)?, epoch: decode_number(row, 6)? }),
        None => None,
    };
    Ok(Record {
        xid: decode_xid(row, 0)?,
        version: decode_number(row, 1)?,
        mode: decode_number(row, 2)?,
        status: decode_number(row, 3)?,
        ended_at: time(4)?,
        owner,
        wake_at: time(7)?,
        idempotency_key: row.try_get(8)?,
        digest: row.try_get::<i64, _>(9)?.cast_unsigned(),
        plan: Bytes::from(row.try_get::<Vec<u8>, _>(10)?),
        state: Bytes::from(row.try_get::<Vec<u8>, _>(11)?),
    })
}

fn decode_compensation(row: &SqliteRow) -> Result<Compensation, sqlx::Error> {
    let status = CompensationStatus::from_number(decode_number(row, 6)?);
    Ok(Compensation {
        id: decode_number(row, 0)?,
        xid: decode_xid(row, 1)?,
        branch: decode_number(row, 2)?,
        operation: decode_number(row, 3)?,
        service: row.try_get(4)?,
        coupon_id: row.try_get(5)?,
        status: status.ok_or_else(|| sqlx::Error::Decode("a compensation of unknown status".into()))?,
        retry_count: decode_number(row, 7)?,
        create_time: decode_time(row, 8)?,
        update_time: decode_time(row, 9)?,
        next_retry_time: decode_time(row, 10)?,
        lease_until: decode_time(row, 11)?,
        last_error: row.try_get(12)?,
    })
}

fn decode_backlog(row: &SqliteRow) -> Result<Backlog, sqlx::Error> {
    let time =
        |index| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(index)?.map(|ms| Timestamp(ms.cast_unsigned())));
    Ok(Backlog {
        service: row.try_get(0)?,
        pending: decode_number(row, 1)?,
        failed: decode_number(row, 2)?,
        oldest: time(3)?,
        due: time(4)?,
    })
}

/// SQLite's primary result code, when it is SQLite that speaks.
fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?.parse::<u32>().ok()?;
    Some(code & 0xff)
}

/// What an error means while the store is in use.
fn blame_use(path: &Path, error: sqlx::Error) -> Error {
    match sqlite_code(&error) {
        // SQLITE_CORRUPT, SQLITE_NOTADB
        Some(11 | 26) => Error::Damaged { path: path.to_owned(), source: error },
        // SQLITE_FULL
        Some(13) => Error::Full(error),
        _ => Error::Unavailable(error),
    }
}

/// What an error means while the file is opened.
fn blame_opening(path: &Path, error: sqlx::Error) -> Error {
    match sqlite_code(&error) {
        // SQLITE_PERM, SQLITE_READONLY, SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN
        Some(3 | 8 | 10 | 13 | 14) => Error::Unwritable { path: path.to_owned(), source: std::io::Error::other(error) },
        _ => blame_use(path, error),
    }
}

#[cfg(test)]
mod tests;
