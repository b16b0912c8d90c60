//! The fence on SQLite: one writer, rows as one packed blob and a JSON array of numbers.

use std::fmt::Write as _;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Pool, Row as _, SqlStr, Sqlite, SqliteConnection};
use tokio::time::{Instant, sleep};

use super::sql::{Numbered, found, signed};
use super::{Dialect, Entry, Found, Marks, Settled, Sql};
use crate::tables;
use crate::xid::Xid;

/// How long a lock is waited for.
const BUSY: Duration = Duration::from_secs(5);
/// Between two tries to open a file that others are opening.
const PAUSE: Duration = Duration::from_millis(20);

/// Durable at every commit, and quick besides.
fn durable(options: SqliteConnectOptions) -> SqliteConnectOptions {
    let options = options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY)
        // The statement journals of multi-row statements: with files, a third of the time goes to opening them.
        .pragma("temp_store", "memory");
    // The conformance suite names the statements that it drops a transaction after.
    if cfg!(feature = "conformance") { options } else { options.disable_statement_logging() }
}

impl Dialect for Sqlite {
    async fn open(url: &str) -> Result<Pool<Self>, sqlx::Error> {
        let options = durable(SqliteConnectOptions::from_str(url)?.create_if_missing(true));
        let begun = Instant::now();
        loop {
            let opened = SqlitePoolOptions::new().max_connections(4).connect_with(options.clone()).await;
            match opened {
                // Of several that open a new file one sets its journal's mode, for which SQLite lets nobody wait.
                Err(error) if Self::is_conflict(&error) && begun.elapsed() < BUSY => sleep(PAUSE).await,
                opened => return opened,
            }
        }
    }
}

impl Sql for Sqlite {
    const WRITERS: usize = 1;
    const BEGIN: Option<&'static str> = Some("BEGIN IMMEDIATE");
    const SCHEMA: [&'static str; 2] = [
        include_str!("../../../../sql/fence/sqlite/0001_fence.sql"),
        include_str!("../../../../sql/fence/sqlite/0002_book.sql"),
    ];
    const INTEGER: &'static str = "BIGINT";
    const BOOK_ADD: &'static str = " ON CONFLICT (invariant, resource) DO UPDATE SET
        reserved = tercet_book.reserved + excluded.reserved, issued = tercet_book.issued + excluded.issued,
        free = tercet_book.free + excluded.free, operations = tercet_book.operations + excluded.operations,
        xid = CASE WHEN tercet_book.broken = '' AND excluded.xid <> '' THEN excluded.xid ELSE tercet_book.xid END";
    const BOOK_KEEP: &'static str = "ON CONFLICT DO NOTHING";

    async fn connect(pool: &Pool<Self>) -> Result<SqliteConnection, sqlx::Error> {
        durable(SqliteConnectOptions::clone(&pool.connect_options())).connect().await
    }

    async fn make_tables(connection: &mut SqliteConnection, migrator: &Migrator) -> Result<(), tables::Error> {
        // What has the lock of the file may be the long local transaction of another instance, and is left alone then.
        if is_whole(connection, migrator).await {
            return Ok(());
        }
        let wait = AssertSqlSafe(format!("PRAGMA busy_timeout = {}", tables::WAIT.as_millis()));
        sqlx::raw_sql(wait).execute(&mut *connection).await.map_err(tables::Error::Lock)?;
        let begun = connection.begin_with("BEGIN IMMEDIATE").await;
        let mut db_tx = begun.map_err(|error| match Self::is_conflict(&error) {
            true => tables::Error::Held,
            false => tables::Error::Lock(error),
        })?;
        migrator.run_direct(None, &mut *db_tx, false).await?;
        Ok(db_tx.commit().await.map_err(MigrateError::Execute)?)
    }

    async fn execute(connection: &mut SqliteConnection, sql: SqlStr) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(sql).execute(connection).await.map(|_| ())
    }

    async fn fetch(
        connection: &mut SqliteConnection,
        sql: String,
        numbers: usize,
    ) -> Result<Vec<Numbered>, sqlx::Error> {
        let sql = sqlx::SqlSafeStr::into_sql_str(AssertSqlSafe(sql));
        let rows = sqlx::raw_sql(sql).fetch_all(connection).await?;
        rows.iter()
            .map(|row| {
                let texts = (numbers..row.len()).map(|at| row.try_get(at)).collect::<Result<_, _>>()?;
                Ok(((0..numbers).map(|at| row.try_get(at)).collect::<Result<_, _>>()?, texts))
            })
            .collect()
    }

    async fn fence_id(connection: &mut SqliteConnection) -> Result<[u8; 16], sqlx::Error> {
        const SQL: &str = "-- fence_id
            SELECT fence_id FROM tercet_fence_meta";
        let id: Vec<u8> = sqlx::query_scalar(SQL).fetch_one(connection).await?;
        id.try_into().map_err(|_| sqlx::Error::Decode("a fence id is 16 bytes".into()))
    }

    async fn enter(
        connection: &mut SqliteConnection,
        entries: &[Entry],
        epoch: Option<i64>,
    ) -> Result<Vec<Found>, sqlx::Error> {
        // A number holds the part and one, a branch and the wanted state. The parser needs a WHERE before ON CONFLICT.
        const SQL: &str = "-- fence_enter
            INSERT INTO tercet_fence (xid, branch, state, part)
            SELECT substr($1, key * 16 + 1, 16), value >> 2 & 4294967295, value & 3, (value >> 34) - 1
            FROM json_each($2)
            WHERE (SELECT floor_ms FROM tercet_fence_meta WHERE epoch = COALESCE($3, epoch)) < $4
            ON CONFLICT (xid, branch) DO UPDATE SET prev = state,
                state = CASE WHEN state = 1 AND excluded.state IN (2, 3) THEN excluded.state ELSE state END
            RETURNING xid, branch, prev, reply";
        let mut xids = Vec::with_capacity(entries.len() * 16);
        let mut numbers = String::with_capacity(entries.len() * 4 + 2);
        for entry in entries {
            xids.extend_from_slice(entry.xid.as_bytes());
            let part = entry.part.map_or(0, |part| u64::from(part) + 1);
            push_number(&mut numbers, part << 34 | u64::from(entry.branch) << 2 | entry.wanted as u64);
        }
        numbers.push(']');
        let not_after = entries.iter().map(|entry| entry.not_after_ms).min().unwrap_or(0);
        let rows = sqlx::query(SQL).bind(xids).bind(numbers).bind(epoch).bind(signed(not_after));
        let rows = rows.fetch_all(connection).await?;
        rows.iter().map(|row| found(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)).collect()
    }

    async fn settle(connection: &mut SqliteConnection, rows: &[Settled]) -> Result<(), sqlx::Error> {
        // An item is offset and length of xid and reply in the blob, branch and state.
        const SQL: &str = "-- fence_settle
            UPDATE tercet_fence SET state = s.state, reply = coalesce(s.reply, tercet_fence.reply)
            FROM (SELECT substr($1, value ->> 0, 16) AS xid, value ->> 2 AS branch, value ->> 3 AS state,
                    CASE WHEN value ->> 1 > 0 THEN substr($1, (value ->> 0) + 16, value ->> 1) END AS reply
                FROM json_each($2)) AS s
            WHERE tercet_fence.xid = s.xid AND tercet_fence.branch = s.branch AND s.state > 0;
            DELETE FROM tercet_fence WHERE (xid, branch) IN (
                SELECT substr($1, value ->> 0, 16), value ->> 2 FROM json_each($2) WHERE value ->> 3 = 0)";
        let mut bytes = Vec::new();
        let mut items = String::new();
        for row in rows {
            let reply = row.reply.as_deref().unwrap_or_default();
            let comma = if items.is_empty() { '[' } else { ',' };
            let (offset, length, branch, state) = (bytes.len() + 1, reply.len(), row.key.1, row.state as u8);
            // Writing to a String never fails.
            let _ = write!(items, "{comma}[{offset},{length},{branch},{state}]");
            bytes.extend_from_slice(row.key.0.as_bytes());
            bytes.extend_from_slice(reply);
        }
        items.push(']');
        sqlx::query(SQL).bind(bytes).bind(items).execute(connection).await.map(|_| ())
    }

    async fn marks(connection: &mut SqliteConnection) -> Result<Marks, sqlx::Error> {
        const SQL: &str = "-- fence_marks
            SELECT floor_ms, epoch FROM tercet_fence_meta";
        let (floor_ms, epoch): (i64, i64) = sqlx::query_as(SQL).fetch_one(connection).await?;
        Ok(Marks { floor_ms: floor_ms.unsigned_abs(), epoch })
    }

    async fn raise_floor(connection: &mut SqliteConnection, floor_ms: u64) -> Result<(), sqlx::Error> {
        const SQL: &str = "-- fence_raise_floor
            UPDATE tercet_fence_meta SET floor_ms = $1 WHERE floor_ms < $1";
        sqlx::query(SQL).bind(signed(floor_ms)).execute(connection).await.map(|_| ())
    }

    async fn forget(connection: &mut SqliteConnection, xids: &[Xid]) -> Result<(), sqlx::Error> {
        const SQL: &str = "-- fence_forget
            DELETE FROM tercet_fence WHERE xid IN (SELECT substr($1, value, 16) FROM json_each($2))";
        let mut offsets = String::new();
        let mut bytes = Vec::with_capacity(xids.len() * 16);
        for xid in xids {
            push_number(&mut offsets, bytes.len() as u64 + 1);
            bytes.extend_from_slice(xid.as_bytes());
        }
        offsets.push(']');
        sqlx::query(SQL).bind(bytes).bind(offsets).execute(connection).await.map(|_| ())
    }

    fn is_conflict(error: &sqlx::Error) -> bool {
        // SQLITE_BUSY and SQLITE_LOCKED; the higher bits of the code say more about each.
        let code = error.as_database_error().and_then(|e| e.code()).and_then(|code| code.parse::<i32>().ok());
        code.is_some_and(|code| matches!(code & 0xff, 5 | 6))
    }
}

/// Adds a number to a JSON array whose end is still open.
fn push_number(array: &mut String, number: u64) {
    array.push(if array.is_empty() { '[' } else { ',' });
    // Writing to a String never fails.
    let _ = write!(array, "{number}");
}

/// Whether what was made is this schema. A file that can not say so is looked at under its lock.
async fn is_whole(connection: &mut SqliteConnection, migrator: &Migrator) -> bool {
    let applied = connection.list_applied_migrations(&migrator.table_name).await.unwrap_or_default();
    let is_applied = |wanted: &Migration| {
        applied.iter().any(|one| (one.version, &one.checksum) == (wanted.version, &wanted.checksum))
    };
    applied.len() == migrator.iter().count() && migrator.iter().all(is_applied)
}
