//! The fence on PostgreSQL: rows as arrays.

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;
use sqlx::{ConnectOptions as _, PgConnection, Pool, Postgres, Row as _, SqlStr};

use super::sql::{ACQUIRE_MAX, Numbered, POOL_MAX, found, reached, signed};
use super::{Dialect, Entry, Found, Marks, Settled, Sql};
use crate::tables;
use crate::xid::Xid;

impl Dialect for Postgres {
    async fn open(url: &str) -> Result<Pool<Self>, sqlx::Error> {
        let options = PgPoolOptions::new().max_connections(POOL_MAX).acquire_timeout(ACQUIRE_MAX);
        reached(options.connect_lazy(url)?).await
    }
}

impl Sql for Postgres {
    const WRITERS: usize = 16;
    const BEGIN: Option<&'static str> = None;
    const SCHEMA: [&'static str; 2] = [
        include_str!("../../../../sql/fence/postgres/0001_fence.sql"),
        include_str!("../../../../sql/fence/postgres/0002_book.sql"),
    ];
    const INTEGER: &'static str = "BIGINT";
    const BOOK_ADD: &'static str = " ON CONFLICT (invariant, resource) DO UPDATE SET
        reserved = tercet_book.reserved + excluded.reserved, issued = tercet_book.issued + excluded.issued,
        free = tercet_book.free + excluded.free, operations = tercet_book.operations + excluded.operations,
        xid = CASE WHEN tercet_book.broken = '' AND excluded.xid <> '' THEN excluded.xid ELSE tercet_book.xid END";
    const BOOK_KEEP: &'static str = "ON CONFLICT DO NOTHING";

    async fn connect(pool: &Pool<Self>) -> Result<PgConnection, sqlx::Error> {
        pool.connect_options().connect().await
    }

    async fn make_tables(connection: &mut PgConnection, migrator: &Migrator) -> Result<(), tables::Error> {
        const WAIT: &str = "-- tables_wait
            SELECT set_config('lock_timeout', $1, false)";
        // Of this database alone. It goes with the connection, even when this process dies.
        const LOCK: &str = "-- tables_lock
            SELECT pg_advisory_lock(hashtextextended('tercet tables', 0))";
        let wait = format!("{}s", tables::WAIT.as_secs());
        sqlx::query(WAIT).bind(wait).execute(&mut *connection).await.map_err(tables::Error::Lock)?;
        match sqlx::query(LOCK).execute(&mut *connection).await {
            Ok(_) => Ok(migrator.run_direct(None, connection, false).await?),
            Err(error) if error.as_database_error().and_then(|e| e.code()).is_some_and(|code| code == "55P03") => {
                Err(tables::Error::Held)
            }
            Err(error) => Err(tables::Error::Lock(error)),
        }
    }

    async fn execute(connection: &mut PgConnection, sql: SqlStr) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(sql).execute(connection).await.map(|_| ())
    }

    async fn fetch(connection: &mut PgConnection, sql: String, numbers: usize) -> Result<Vec<Numbered>, sqlx::Error> {
        let sql = sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(sql));
        let rows = sqlx::raw_sql(sql).fetch_all(connection).await?;
        rows.iter()
            .map(|row| {
                let texts = (numbers..row.len()).map(|at| row.try_get(at)).collect::<Result<_, _>>()?;
                Ok(((0..numbers).map(|at| row.try_get(at)).collect::<Result<_, _>>()?, texts))
            })
            .collect()
    }

    async fn fence_id(connection: &mut PgConnection) -> Result<[u8; 16], sqlx::Error> {
        const SQL: &str = "-- fence_id
            SELECT fence_id FROM tercet_fence_meta";
        let id: Vec<u8> = sqlx::query_scalar(SQL).fetch_one(connection).await?;
        id.try_into().map_err(|_| sqlx::Error::Decode("a fence id is 16 bytes".into()))
    }

    async fn enter(
        connection: &mut PgConnection,
        entries: &[Entry],
        epoch: Option<i64>,
    ) -> Result<Vec<Found>, sqlx::Error> {
        // In the order of the key, so that two batches never wait for each other.
        const SQL: &str = "-- fence_enter
            INSERT INTO tercet_fence AS f (xid, branch, state, part)
            SELECT u.xid, u.branch, u.wanted, u.part
            FROM unnest($1::bytea[], $2::bigint[], $3::smallint[], $4::smallint[]) AS u (xid, branch, wanted, part)
            WHERE (SELECT floor_ms FROM tercet_fence_meta WHERE epoch = coalesce($5, epoch)) < $6
            ORDER BY u.xid, u.branch
            ON CONFLICT (xid, branch) DO UPDATE SET prev = f.state,
                state = CASE WHEN f.state = 1 AND excluded.state IN (2, 3) THEN excluded.state ELSE f.state END
            RETURNING f.xid, f.branch, f.prev, f.reply";
        let xids: Vec<&[u8]> = entries.iter().map(|entry| &entry.xid.as_bytes()[..]).collect();
        let branches: Vec<i64> = entries.iter().map(|entry| entry.branch.into()).collect();
        let wanted: Vec<i16> = entries.iter().map(|entry| entry.wanted as i16).collect();
        let parts: Vec<i16> = entries.iter().map(|entry| entry.part_number() as i16).collect();
        let not_after = entries.iter().map(|entry| entry.not_after_ms).min().unwrap_or(0);
        let rows = sqlx::query(SQL)
            .bind(xids)
            .bind(branches)
            .bind(wanted)
            .bind(parts)
            .bind(epoch)
            .bind(signed(not_after))
            .fetch_all(connection)
            .await?;
        rows.iter()
            .map(|row| found(row.try_get(0)?, row.try_get(1)?, row.try_get::<i16, _>(2)?.into(), row.try_get(3)?))
            .collect()
    }

    async fn settle(connection: &mut PgConnection, rows: &[Settled]) -> Result<(), sqlx::Error> {
        const SQL: &str = "-- fence_settle
            WITH s AS (
                SELECT u.xid, u.branch, u.state, u.reply
                FROM unnest($1::bytea[], $2::bigint[], $3::smallint[], $4::bytea[]) AS u (xid, branch, state, reply)
            ), gone AS (
                DELETE FROM tercet_fence AS f USING s WHERE f.xid = s.xid AND f.branch = s.branch AND s.state = 0
            )
            UPDATE tercet_fence AS f SET state = s.state, reply = coalesce(s.reply, f.reply)
            FROM s WHERE f.xid = s.xid AND f.branch = s.branch AND s.state > 0";
        let xids: Vec<&[u8]> = rows.iter().map(|row| &row.key.0.as_bytes()[..]).collect();
        let branches: Vec<i64> = rows.iter().map(|row| row.key.1.into()).collect();
        let states: Vec<i16> = rows.iter().map(|row| row.state as i16).collect();
        let replies: Vec<Option<&[u8]>> = rows.iter().map(|row| row.reply.as_deref()).collect();
        sqlx::query(SQL).bind(xids).bind(branches).bind(states).bind(replies).execute(connection).await.map(|_| ())
    }

    async fn marks(connection: &mut PgConnection) -> Result<Marks, sqlx::Error> {
        const SQL: &str = "-- fence_marks
            SELECT floor_ms, epoch FROM tercet_fence_meta";
        let (floor_ms, epoch): (i64, i64) = sqlx::query_as(SQL).fetch_one(connection).await?;
        Ok(Marks { floor_ms: floor_ms.unsigned_abs(), epoch })
    }

    async fn raise_floor(connection: &mut PgConnection, floor_ms: u64) -> Result<(), sqlx::Error> {
        const SQL: &str = "-- fence_raise_floor
            UPDATE tercet_fence_meta SET floor_ms = $1 WHERE floor_ms < $1";
        sqlx::query(SQL).bind(signed(floor_ms)).execute(connection).await.map(|_| ())
    }

    async fn forget(connection: &mut PgConnection, xids: &[Xid]) -> Result<(), sqlx::Error> {
        const SQL: &str = "-- fence_forget
            DELETE FROM tercet_fence WHERE xid = ANY($1::bytea[])";
        let xids: Vec<&[u8]> = xids.iter().map(|xid| &xid.as_bytes()[..]).collect();
        sqlx::query(SQL).bind(xids).execute(connection).await.map(|_| ())
    }

    async fn check(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        Self::execute(connection, SqlStr::from_static("SELECT 1")).await
    }

    fn is_conflict(error: &sqlx::Error) -> bool {
        // deadlock_detected, serialization_failure.
        error.as_database_error().and_then(|e| e.code()).is_some_and(|code| matches!(&*code, "40P01" | "40001"))
    }
}
