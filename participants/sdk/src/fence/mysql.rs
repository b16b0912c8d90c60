//! The fence on MariaDB and MySQL: rows as one JSON array, binary values in hexadecimal digits.

use std::fmt::Write as _;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::mysql::{MySqlDatabaseError, MySqlPoolOptions, MySqlRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Either, Executor, MySql, MySqlConnection, Pool, Row as _, SqlStr};

use super::sql::{ACQUIRE_MAX, Numbered, POOL_MAX, found, reached, signed};
use super::{Dialect, Entry, Found, Marks, Settled, Sql, State};
use crate::tables;
use crate::xid::Xid;

impl Dialect for MySql {
    async fn open(url: &str) -> Result<Pool<Self>, sqlx::Error> {
        let options = MySqlPoolOptions::new().max_connections(POOL_MAX).acquire_timeout(ACQUIRE_MAX);
        reached(options.connect_lazy(url)?).await
    }
}

impl Sql for MySql {
    const WRITERS: usize = 16;
    // A new call may have to wait for those under way.
    const RAISE_EVERY: Duration = Duration::from_secs(10);
    const BEGIN: Option<&'static str> = None;
    const SCHEMA: [&'static str; 2] = [
        include_str!("../../../../sql/fence/mysql/0001_fence.sql"),
        include_str!("../../../../sql/fence/mysql/0002_book.sql"),
    ];
    const INTEGER: &'static str = "SIGNED";
    const BOOK_ADD: &'static str = " ON DUPLICATE KEY UPDATE
        reserved = reserved + VALUES(reserved), issued = issued + VALUES(issued), free = free + VALUES(free),
        operations = operations + VALUES(operations),
        xid = IF(broken = '' AND VALUES(xid) <> '', VALUES(xid), xid)";
    const BOOK_KEEP: &'static str = "ON DUPLICATE KEY UPDATE fresh = tercet_book.fresh";

    async fn connect(pool: &Pool<Self>) -> Result<MySqlConnection, sqlx::Error> {
        pool.connect_options().connect().await
    }

    async fn make_tables(connection: &mut MySqlConnection, migrator: &Migrator) -> Result<(), tables::Error> {
        // Of all databases of a server; two with one beginning only wait for each other.
        const SQL: &str = "-- tables_lock
            SELECT GET_LOCK(CONCAT('tercet tables ', LEFT(DATABASE(), 40)), ?)";
        // It goes with the connection, even when this process dies.
        let lock = sqlx::query_scalar(SQL).bind(tables::WAIT.as_secs());
        match lock.fetch_one(&mut *connection).await.map_err(tables::Error::Lock)? {
            Some(1_i64) => {
                let_begin_again(connection, migrator).await?;
                Ok(migrator.run_direct(None, connection, false).await?)
            }
            Some(_) => Err(tables::Error::Held),
            None => Err(tables::Error::Lock(sqlx::Error::Protocol("GET_LOCK gave nothing".into()))),
        }
    }

    async fn execute(connection: &mut MySqlConnection, sql: SqlStr) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(sql).execute(connection).await.map(|_| ())
    }

    async fn fetch(
        connection: &mut MySqlConnection,
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

    async fn fence_id(connection: &mut MySqlConnection) -> Result<[u8; 16], sqlx::Error> {
        const SQL: &str = "-- fence_id
            SELECT fence_id FROM tercet_fence_meta";
        let id: Vec<u8> = sqlx::query_scalar(SQL).fetch_one(connection).await?;
        id.try_into().map_err(|_| sqlx::Error::Decode("a fence id is 16 bytes".into()))
    }

    async fn enter(
        connection: &mut MySqlConnection,
        entries: &[Entry],
        epoch: Option<i64>,
    ) -> Result<Vec<Found>, sqlx::Error> {
        // Assignments go left to right, so prev first. What stands between /*M! and */ is read by MariaDB alone, since
        // MySQL can not return rows from an INSERT: it is asked for them afterwards. The lock keeps the epoch, whatever
        // the isolation level.
        const SQL: &str = "-- fence_enter
            INSERT INTO tercet_fence (xid, branch, state, part)
            SELECT UNHEX(j.xid), j.branch, j.wanted, j.part
            FROM JSON_TABLE(?, '$[*]' COLUMNS (xid CHAR(32) PATH '$[0]', branch BIGINT PATH '$[1]',
                wanted SMALLINT PATH '$[2]', part SMALLINT PATH '$[3]')) AS j
            WHERE (SELECT floor_ms FROM tercet_fence_meta WHERE epoch = COALESCE(?, epoch) LOCK IN SHARE MODE) < ?
            ON DUPLICATE KEY UPDATE prev = tercet_fence.state,
                state = IF(tercet_fence.state = 1 AND VALUES(state) IN (2, 3), VALUES(state), tercet_fence.state)
            /*M! RETURNING xid, branch, prev, reply */";
        let items = json(entries.iter().map(|entry| (entry.key(), entry.wanted, Last::Part(entry.part_number()))));
        let not_after = entries.iter().map(|entry| entry.not_after_ms).min().unwrap_or(0);
        let mut rows = Vec::with_capacity(entries.len());
        let mut affected = 0;
        let query = sqlx::query(SQL).bind(items.as_str()).bind(epoch).bind(signed(not_after));
        let mut results = Executor::fetch_many(&mut *connection, query);
        while let Some(result) = results.try_next().await? {
            match result {
                Either::Left(done) => affected += done.rows_affected(),
                Either::Right(row) => rows.push(read(&row)?),
            }
        }
        drop(results);
        // A row that is there and as wanted counts too, since sqlx asks for found rows.
        if rows.is_empty() && affected > 0 {
            rows = read_back(connection, &items).await?;
        }
        Ok(rows)
    }

    async fn settle(connection: &mut MySqlConnection, rows: &[Settled]) -> Result<(), sqlx::Error> {
        // STRAIGHT_JOIN, so that only the rows named are read and locked.
        // Without FORCE INDEX a small table is scanned, and every row in it locked.
        const KEEP: &str = "-- fence_settle
            UPDATE JSON_TABLE(?, '$[*]' COLUMNS (
                xid CHAR(32) PATH '$[0]', branch BIGINT PATH '$[1]', state SMALLINT PATH '$[2]',
                reply VARCHAR(8194) PATH '$[3]')) AS j
            STRAIGHT_JOIN tercet_fence AS f FORCE INDEX (PRIMARY) ON f.xid = UNHEX(j.xid) AND f.branch = j.branch
            SET f.state = j.state, f.reply = COALESCE(UNHEX(j.reply), f.reply)";
        const DELETE: &str = "-- fence_unsettle
            DELETE f FROM JSON_TABLE(?, '$[*]' COLUMNS (xid CHAR(32) PATH '$[0]', branch BIGINT PATH '$[1]')) AS j
            STRAIGHT_JOIN tercet_fence AS f FORCE INDEX (PRIMARY) ON f.xid = UNHEX(j.xid) AND f.branch = j.branch";
        let (gone, kept): (Vec<&Settled>, Vec<_>) = rows.iter().partition(|row| row.state == State::None);
        for (sql, rows) in [(KEEP, kept), (DELETE, gone)] {
            if !rows.is_empty() {
                let items = json(
                    rows.into_iter()
                        .map(|row| (row.key, row.state, row.reply.as_deref().map_or(Last::None, Last::Reply))),
                );
                sqlx::query(sql).bind(items).execute(&mut *connection).await?;
            }
        }
        Ok(())
    }

    async fn marks(connection: &mut MySqlConnection) -> Result<Marks, sqlx::Error> {
        // Not from the snapshot of the transaction, in which they may be lower.
        const SQL: &str = "-- fence_marks
            SELECT floor_ms, epoch FROM tercet_fence_meta LOCK IN SHARE MODE";
        let (floor_ms, epoch): (i64, i64) = sqlx::query_as(SQL).fetch_one(connection).await?;
        Ok(Marks { floor_ms: floor_ms.unsigned_abs(), epoch })
    }

    async fn raise_floor(connection: &mut MySqlConnection, floor_ms: u64) -> Result<(), sqlx::Error> {
        // It waits for the calls under way, whose shared lock is why none of them can commit by an older floor, and new
        // calls wait behind it. So it gives up soon and is tried again: after a tenth of a second on MariaDB, after one
        // second on MySQL, which knows nothing shorter. The connection is not used again when it fails.
        let sql = format!(
            "-- fence_raise_floor
            SET SESSION innodb_lock_wait_timeout = 1;
            /*M! SET STATEMENT max_statement_time = 0.1 FOR */
            UPDATE tercet_fence_meta SET floor_ms = GREATEST(floor_ms, {});
            SET SESSION innodb_lock_wait_timeout = DEFAULT",
            signed(floor_ms)
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ())
    }

    async fn forget(connection: &mut MySqlConnection, xids: &[Xid]) -> Result<(), sqlx::Error> {
        const SQL: &str = "-- fence_forget
            DELETE f FROM JSON_TABLE(?, '$[*]' COLUMNS (xid CHAR(32) PATH '$[0]')) AS j
            STRAIGHT_JOIN tercet_fence AS f ON f.xid = UNHEX(j.xid)";
        let items = json(xids.iter().map(|xid| ((*xid, 0), State::None, Last::None)));
        sqlx::query(SQL).bind(items).execute(connection).await.map(|_| ())
    }

    fn is_conflict(error: &sqlx::Error) -> bool {
        // Lock wait timeout, deadlock, record changed since last read.
        let number = error.as_database_error().and_then(|e| e.try_downcast_ref::<MySqlDatabaseError>());
        number.is_some_and(|e| matches!(e.number(), 1205 | 1213 | 1020))
    }
}

/// The rows of the upsert, which hold its locks already.
async fn read_back(connection: &mut MySqlConnection, items: &str) -> Result<Vec<Found>, sqlx::Error> {
    const SQL: &str = "-- fence_read_back
        SELECT f.xid, f.branch, f.prev, f.reply
        FROM JSON_TABLE(?, '$[*]' COLUMNS (xid CHAR(32) PATH '$[0]', branch BIGINT PATH '$[1]')) AS j
        STRAIGHT_JOIN tercet_fence AS f ON f.xid = UNHEX(j.xid) AND f.branch = j.branch
        FOR UPDATE";
    let rows = sqlx::query(SQL).bind(items).fetch_all(connection).await?;
    rows.iter().map(read).collect()
}

fn read(row: &MySqlRow) -> Result<Found, sqlx::Error> {
    found(row.try_get(0)?, row.try_get(1)?, row.try_get::<i16, _>(2)?.into(), row.try_get(3)?)
}

/// What comes last in an item.
enum Last<'a> {
    None,
    Part(i64),
    Reply(&'a [u8]),
}

type Item<'a> = ((Xid, u32), State, Last<'a>);

/// `[["xid", branch, state, last], …]`.
fn json<'a>(items: impl Iterator<Item = Item<'a>>) -> String {
    let mut text = String::new();
    for ((xid, branch), state, last) in items {
        text.push_str(if text.is_empty() { "[[\"" } else { ",[\"" });
        push_hex(&mut text, xid.as_bytes());
        // Writing to a String never fails.
        let _ = write!(text, "\",{branch},{}", state as u8);
        match last {
            Last::None => {}
            Last::Part(part) => {
                let _ = write!(text, ",{part}");
            }
            Last::Reply(reply) => {
                text.push_str(",\"");
                push_hex(&mut text, reply);
                text.push('"');
            }
        }
        text.push(']');
    }
    text.push(']');
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Takes back that versions were begun and not ended: whoever began them is dead, or he would have the lock. One that
/// was begun otherwise than it is here stays, and is refused: tables of two kinds would be taken for one.
async fn let_begin_again(connection: &mut MySqlConnection, migrator: &Migrator) -> Result<(), MigrateError> {
    let table = &*migrator.table_name;
    connection.ensure_migrations_table(table).await?;
    while let Some(version) = connection.dirty_version(table).await? {
        let Some(ours) = migrator.iter().find(|one| one.version == version) else { break };
        let sql = AssertSqlSafe(format!("DELETE FROM {table} WHERE version = ? AND checksum = ?"));
        let taken = sqlx::query(sql).bind(version).bind(&*ours.checksum).execute(&mut *connection).await?;
        if taken.rows_affected() == 0 {
            break;
        }
    }
    Ok(())
}
