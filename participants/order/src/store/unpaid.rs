//! Orders that were not paid in time: the SQL, both dialects side by side.

use tercet::participant::DbTx;

use super::{Key, Store, json};

/// A database whose orders a job can close.
pub trait Unpaid: Store {
    /// Takes or keeps the lease on the job for so long; whether this runner has it.
    fn lease_job(
        db_tx: &mut DbTx<Self>,
        runner: &str,
        length_ms: i64,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Gives the lease up.
    fn leave_job(db_tx: &mut DbTx<Self>, runner: &str) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// The next that were not paid in time, each with its user, the first first.
    fn unpaid(db_tx: &mut DbTx<Self>, limit: u32) -> impl Future<Output = sqlx::Result<Vec<(Key, i64)>>> + Send;

    /// They are looked at again after so long, those of them that wait to be paid then.
    fn look_later(db_tx: &mut DbTx<Self>, keys: &[Key], after_ms: i64)
    -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Puts one off whose closing was refused: it is looked at again after so long, and after twice as long each next
    /// time, at most after `most_ms`. Whether there was anything to put off: it waits to be paid all the same.
    fn put_off(
        db_tx: &mut DbTx<Self>,
        key: Key,
        after_ms: i64,
        most_ms: i64,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;
}

struct Statements {
    lease: &'static str,
    leave: &'static str,
    unpaid: &'static str,
    look_later: &'static str,
    put_off: &'static str,
}

#[cfg(feature = "sqlite")]
const SQLITE: Statements = Statements {
    lease: "-- order_lease_job
        UPDATE order_job SET lease_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) + $1, runner = $2
        WHERE name = 'unpaid' AND (runner = $2 OR lease_ms <= CAST(unixepoch('subsec') * 1000 AS INTEGER))",
    leave: "-- order_leave_job
        UPDATE order_job SET lease_ms = 0 WHERE name = 'unpaid' AND runner = $1",
    unpaid: "-- order_unpaid
        SELECT shop_id, order_id, user_id FROM orders INDEXED BY orders_to_close
        WHERE close_at_ms <= CAST(unixepoch('subsec') * 1000 AS INTEGER) ORDER BY close_at_ms LIMIT $1",
    look_later: "-- order_look_later
        UPDATE orders SET close_at_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) + $1
        WHERE (shop_id, order_id) IN (SELECT value->>0, value->>1 FROM json_each($2)) AND close_at_ms IS NOT NULL",
    put_off: "-- order_put_off
        UPDATE orders SET close_at_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) + MIN($1 << close_tries, $2),
            close_tries = MIN(close_tries + 1, 16)
        WHERE shop_id = $3 AND order_id = $4 AND close_at_ms IS NOT NULL",
};

#[cfg(feature = "mysql")]
const MYSQL: Statements = Statements {
    lease: "-- order_lease_job
        UPDATE order_job JOIN (SELECT ? AS length_ms, ? AS runner) AS j
        SET order_job.lease_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + j.length_ms,
            order_job.runner = j.runner
        WHERE name = 'unpaid' AND (order_job.runner = j.runner
            OR lease_ms <= CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED))",
    leave: "-- order_leave_job
        UPDATE order_job SET lease_ms = 0 WHERE name = 'unpaid' AND runner = ?",
    unpaid: "-- order_unpaid
        SELECT shop_id, order_id, user_id FROM orders FORCE INDEX (orders_to_close)
        WHERE close_at_ms <= CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) ORDER BY close_at_ms LIMIT ?",
    look_later: "-- order_look_later
        UPDATE (SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + ? AS at_ms) AS t
        STRAIGHT_JOIN JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$[0]', order_id BIGINT PATH '$[1]')) AS j
        STRAIGHT_JOIN orders o FORCE INDEX (PRIMARY) ON o.shop_id = j.shop_id AND o.order_id = j.order_id
        SET o.close_at_ms = t.at_ms WHERE o.close_at_ms IS NOT NULL",
    put_off: "-- order_put_off
        UPDATE orders FORCE INDEX (PRIMARY)
        SET close_at_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + LEAST(? * POW(2, close_tries), ?),
            close_tries = LEAST(close_tries + 1, 16)
        WHERE shop_id = ? AND order_id = ? AND close_at_ms IS NOT NULL",
};

macro_rules! unpaid {
    ($database:ty, $sql:ident) => {
        impl Unpaid for $database {
            async fn lease_job(db_tx: &mut DbTx<Self>, runner: &str, length_ms: i64) -> sqlx::Result<bool> {
                let query = sqlx::query($sql.lease).bind(length_ms).bind(runner);
                Ok(query.execute(db_tx).await?.rows_affected() == 1)
            }

            async fn leave_job(db_tx: &mut DbTx<Self>, runner: &str) -> sqlx::Result<()> {
                sqlx::query($sql.leave).bind(runner).execute(db_tx).await.map(drop)
            }

            async fn unpaid(db_tx: &mut DbTx<Self>, limit: u32) -> sqlx::Result<Vec<(Key, i64)>> {
                let query = sqlx::query_as($sql.unpaid).bind(i64::from(limit));
                let rows: Vec<(i64, i64, i64)> = query.fetch_all(db_tx).await?;
                Ok(rows.into_iter().map(|(shop_id, order_id, user_id)| (Key { shop_id, order_id }, user_id)).collect())
            }

            async fn put_off(db_tx: &mut DbTx<Self>, key: Key, after_ms: i64, most_ms: i64) -> sqlx::Result<bool> {
                let query = sqlx::query($sql.put_off).bind(after_ms).bind(most_ms).bind(key.shop_id).bind(key.order_id);
                Ok(query.execute(db_tx).await?.rows_affected() == 1)
            }

            async fn look_later(db_tx: &mut DbTx<Self>, keys: &[Key], after_ms: i64) -> sqlx::Result<()> {
                sqlx::query($sql.look_later).bind(after_ms).bind(json(keys)).execute(db_tx).await.map(drop)
            }
        }
    };
}

#[cfg(feature = "sqlite")]
unpaid!(sqlx::Sqlite, SQLITE);
#[cfg(feature = "mysql")]
unpaid!(sqlx::MySql, MYSQL);
