//! What is kept of occasions that were stopped long ago, and how it goes: the SQL, one text for both dialects but
//! where they differ.

use tercet::participant::DbTx;

use super::occasions::Occasions;

/// What is kept of an occasion: its runs with their users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    None = 0,
    /// All runs.
    All = 1,
    /// Those that are not deleted yet.
    Rest = 2,
}

/// A database that lets go of occasions.
pub trait Old: Occasions {
    /// Occasions that were stopped before then and of which anything is kept, oldest first; with whether that is all.
    fn old_occasions(
        db_tx: &mut DbTx<Self>,
        before_ms: i64,
        limit: usize,
    ) -> impl Future<Output = sqlx::Result<Vec<(i64, bool)>>> + Send;

    /// Keeps less of an occasion that is stopped; whether it stood there, and none of its runs waits. What is not kept
    /// whole is not tried again.
    fn keep_less(
        db_tx: &mut DbTx<Self>,
        occasion_id: i64,
        kept: (Kept, Kept),
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Deletes these chunks of a batch, in their database.
    fn drop_chunks(db_tx: &mut DbTx<Self>, batch: i64, chunks: &[i64])
    -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Deletes the users of a run up to this one; returns how many there were.
    fn drop_users(
        db_tx: &mut DbTx<Self>,
        run: i64,
        last_user_id: i64,
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Deletes a run that has ended, and its batch.
    fn drop_run(db_tx: &mut DbTx<Self>, run: i64, batch: Option<i64>) -> impl Future<Output = sqlx::Result<()>> + Send;
}

const KEEP_LESS: &str = "-- coupon_keep_less
    UPDATE occasion SET runs_kept = ? WHERE occasion_id = ? AND state = 2 AND runs_kept = ?
        AND NOT EXISTS (SELECT 1 FROM occasion_run r WHERE r.occasion_id = ? AND r.state = 0)";
const DROP_USERS: &str = "-- coupon_drop_users
    DELETE FROM occasion_user WHERE run = ? AND user_id <= ?";
const DROP_RUN: &str = "-- coupon_drop_ended_run
    DELETE FROM occasion_run WHERE run = ? AND state <> 0";
const DROP_BATCH: &str = "-- coupon_drop_batch_of_run
    DELETE FROM issue_batch WHERE batch = ?";

#[cfg(feature = "sqlite")]
const SQLITE_OLD: &str = "-- coupon_old_occasions
    SELECT occasion_id, runs_kept FROM occasion WHERE state = 2 AND runs_kept > 0 AND stopped_ms < ?
    ORDER BY occasion_id LIMIT ?";
#[cfg(feature = "sqlite")]
const SQLITE_DROP_CHUNKS: &str = "-- coupon_drop_chunks
    DELETE FROM issue_chunk WHERE batch = $1 AND chunk IN (SELECT value FROM json_each($2))";
#[cfg(feature = "mysql")]
const MYSQL_OLD: &str = "-- coupon_old_occasions
    SELECT occasion_id, runs_kept FROM occasion FORCE INDEX (by_state)
    WHERE state = 2 AND runs_kept > 0 AND stopped_ms < ? ORDER BY occasion_id LIMIT ?";
#[cfg(feature = "mysql")]
const MYSQL_DROP_CHUNKS: &str = "-- coupon_drop_chunks
    DELETE issue_chunk FROM (SELECT ? AS batch) AS b
    JOIN JSON_TABLE(?, '$[*]' COLUMNS (chunk BIGINT PATH '$')) AS j
    STRAIGHT_JOIN issue_chunk FORCE INDEX (PRIMARY) ON issue_chunk.batch = b.batch AND issue_chunk.chunk = j.chunk";

macro_rules! old {
    ($database:ty, $old:ident, $drop_chunks:ident) => {
        impl Old for $database {
            async fn old_occasions(
                db_tx: &mut DbTx<Self>,
                before_ms: i64,
                limit: usize,
            ) -> sqlx::Result<Vec<(i64, bool)>> {
                let query = sqlx::query_as($old).bind(before_ms).bind(limit as i64);
                let old: Vec<(i64, i64)> = query.fetch_all(db_tx).await?;
                Ok(old.into_iter().map(|(occasion_id, kept)| (occasion_id, kept == Kept::All as i64)).collect())
            }

            async fn keep_less(
                db_tx: &mut DbTx<Self>,
                occasion_id: i64,
                (from, to): (Kept, Kept),
            ) -> sqlx::Result<bool> {
                let query = sqlx::query(KEEP_LESS).bind(to as i64).bind(occasion_id).bind(from as i64);
                Ok(query.bind(occasion_id).execute(db_tx).await?.rows_affected() == 1)
            }

            async fn drop_chunks(db_tx: &mut DbTx<Self>, batch: i64, chunks: &[i64]) -> sqlx::Result<()> {
                let chunks = serde_json::to_string(chunks).expect("numbers have a form in JSON");
                sqlx::query($drop_chunks).bind(batch).bind(chunks).execute(db_tx).await.map(drop)
            }

            async fn drop_users(db_tx: &mut DbTx<Self>, run: i64, last_user_id: i64) -> sqlx::Result<u64> {
                let dropped = sqlx::query(DROP_USERS).bind(run).bind(last_user_id).execute(db_tx).await?;
                Ok(dropped.rows_affected())
            }

            async fn drop_run(db_tx: &mut DbTx<Self>, run: i64, batch: Option<i64>) -> sqlx::Result<()> {
                if let Some(batch) = batch {
                    sqlx::query(DROP_BATCH).bind(batch).execute(&mut *db_tx).await?;
                }
                sqlx::query(DROP_RUN).bind(run).execute(db_tx).await.map(drop)
            }
        }
    };
}

#[cfg(feature = "sqlite")]
old!(sqlx::Sqlite, SQLITE_OLD, SQLITE_DROP_CHUNKS);
#[cfg(feature = "mysql")]
old!(sqlx::MySql, MYSQL_OLD, MYSQL_DROP_CHUNKS);
