//! Batches and their chunks: the SQL, both dialects side by side.

use tercet::participant::DbTx;

use super::Store;

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its stock is being reserved.
    Opening = 0,
    /// Its coupons are being issued.
    Running = 1,
    /// All of them are.
    Done = 2,
    /// It can not go on.
    Stopped = 3,
    /// An operator ends it: what is not issued is being given up.
    Ending = 4,
    /// It is: what is issued stays.
    Ended = 5,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Opening, Self::Running, Self::Done, Self::Stopped, Self::Ending, Self::Ended];
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its number, in the rows of its coupons.
    pub batch: i64,
    /// Its caller's name for it.
    pub batch_id: String,
    /// Of what it is about.
    pub digest: String,
    /// The template.
    pub template_id: i64,
    /// The version of its rules.
    pub version: i64,
    /// When its coupons count as claimed.
    pub claimed_ms: i64,
    /// When they are valid from.
    pub valid_from_ms: i64,
    /// When they are not valid any more.
    pub valid_until_ms: i64,
    /// How many.
    pub coupons: i64,
    /// Where it stands.
    pub state: State,
    /// Why it has stopped.
    pub refusal: String,
    /// Who issues it.
    pub operator: String,
    /// Why.
    pub reason: String,
    /// When it began, by the database.
    pub started_ms: i64,
    /// When it ended, by the database.
    pub ended_ms: Option<i64>,
}

/// A database that batches can live in.
pub trait Batches: Store {
    /// Writes a batch that is being opened; false where there is one of its id.
    fn open_batch(db_tx: &mut DbTx<Self>, batch: &Batch) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Moves a batch from one state to another; whether it stood there.
    fn step(
        db_tx: &mut DbTx<Self>,
        batch: i64,
        states: (State, State),
        refusal: &str,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Deletes a batch that is being opened.
    fn drop_open(db_tx: &mut DbTx<Self>, batch: i64) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// The batch of this id.
    fn batch(db_tx: &mut DbTx<Self>, batch_id: &str) -> impl Future<Output = sqlx::Result<Option<Batch>>> + Send;

    /// Takes or keeps the lease on running a batch for so long; whether this runner has it.
    fn lease(
        db_tx: &mut DbTx<Self>,
        batch: i64,
        runner: i64,
        length_ms: i64,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// The chunks of a batch that are in this database, with their coupons.
    fn chunks(db_tx: &mut DbTx<Self>, batch: i64) -> impl Future<Output = sqlx::Result<Vec<(i64, i64)>>> + Send;

    /// Writes chunks, each with its coupons.
    ///
    /// # Errors
    /// Besides the database's own: a unique violation where one is there.
    fn mark_chunks(
        db_tx: &mut DbTx<Self>,
        batch: i64,
        chunks: &[(i64, i64)],
    ) -> impl Future<Output = sqlx::Result<()>> + Send;
}

/// Whom batches are for, and which of them nobody runs.
pub trait Lists: Batches {
    /// Writes a part of those whom a batch is for.
    fn keep_users(
        db_tx: &mut DbTx<Self>,
        batch: i64,
        part: i64,
        user_ids: &[i64],
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// All of them, by their parts.
    fn users(db_tx: &mut DbTx<Self>, batch: i64) -> impl Future<Output = sqlx::Result<Vec<i64>>> + Send;

    /// Deletes them.
    fn drop_list(db_tx: &mut DbTx<Self>, batch: i64) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Deletes those, older than so long, of batches that came to nothing, or are done.
    fn drop_old_users(db_tx: &mut DbTx<Self>, age_ms: i64) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// The next batches that run or are ended, whose lease is over and of which is known whom they are for.
    fn left(db_tx: &mut DbTx<Self>, limit: usize) -> impl Future<Output = sqlx::Result<Vec<Batch>>> + Send;

    /// So many batches below this number, newest first, of one state where it is named.
    fn list(
        db_tx: &mut DbTx<Self>,
        state: Option<State>,
        before: i64,
        limit: u32,
    ) -> impl Future<Output = sqlx::Result<Vec<Batch>>> + Send;

    /// How many batches run, and how many have stopped.
    fn unfinished(db_tx: &mut DbTx<Self>) -> impl Future<Output = sqlx::Result<(i64, i64)>> + Send;
}

struct Statements {
    open: &'static str,
    step: &'static str,
    drop_open: &'static str,
    batch: &'static str,
    lease: &'static str,
    chunks: &'static str,
    mark: &'static str,
    keep_users: &'static str,
    drop_old_users: &'static str,
    left: &'static str,
    list: &'static str,
    list_state: &'static str,
}

const USERS: &str = "-- coupon_batch_users
    SELECT user_ids FROM issue_user WHERE batch = ? ORDER BY part";
const DROP_USERS: &str = "-- coupon_drop_batch_users
    DELETE FROM issue_user WHERE batch = ?";
const UNFINISHED: &str = "-- coupon_unfinished_batches
    SELECT (SELECT COUNT(*) FROM issue_batch WHERE state = 1), (SELECT COUNT(*) FROM issue_batch WHERE state = 3)";

#[cfg(feature = "sqlite")]
const SQLITE: Statements = Statements {
    open: "-- coupon_open_batch
        INSERT INTO issue_batch(batch, digest, template_id, version, claimed_ms, valid_from_ms, valid_until_ms, coupons,
            batch_id, operator, reason, state, refusal, started_ms)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, '', CAST(unixepoch('subsec') * 1000 AS INTEGER))
        ON CONFLICT DO NOTHING",
    step: "-- coupon_step_batch
        UPDATE issue_batch SET state = $1, refusal = $2,
            ended_ms = iif($1 IN (0, 1, 4), NULL, CAST(unixepoch('subsec') * 1000 AS INTEGER))
        WHERE batch = $3 AND state = $4",
    drop_open: "-- coupon_drop_batch
        DELETE FROM issue_batch WHERE batch = $1 AND state = 0",
    batch: "-- coupon_batch
        SELECT batch, batch_id, digest, template_id, version, claimed_ms, valid_from_ms, valid_until_ms, coupons, state,
            refusal, operator, reason, started_ms, ended_ms FROM issue_batch WHERE batch_id = $1",
    lease: "-- coupon_lease_batch
        UPDATE issue_batch SET runner = $1, lease_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) + $2
        WHERE batch = $3 AND (runner = $1 OR lease_ms <= CAST(unixepoch('subsec') * 1000 AS INTEGER))",
    chunks: "-- coupon_chunks
        SELECT chunk, coupons FROM issue_chunk WHERE batch = $1",
    mark: "-- coupon_mark_chunks
        INSERT INTO issue_chunk(batch, chunk, coupons) SELECT $1, value->>0, value->>1 FROM json_each($2)",
    keep_users: "-- coupon_keep_batch_users
        INSERT INTO issue_user(batch, part, user_ids, made_ms)
        VALUES (?, ?, ?, CAST(unixepoch('subsec') * 1000 AS INTEGER))",
    drop_old_users: "-- coupon_drop_old_batch_users
        DELETE FROM issue_user WHERE made_ms < CAST(unixepoch('subsec') * 1000 AS INTEGER) - ?
            AND NOT EXISTS (SELECT 1 FROM issue_batch AS b WHERE b.batch = issue_user.batch AND b.state NOT IN (2, 5))",
    left: "-- coupon_left_batches
        SELECT batch, batch_id, digest, template_id, version, claimed_ms, valid_from_ms, valid_until_ms, coupons, state,
            refusal, operator, reason, started_ms, ended_ms FROM issue_batch AS b
        WHERE state IN (1, 4) AND lease_ms <= CAST(unixepoch('subsec') * 1000 AS INTEGER)
            AND (SELECT 1 FROM issue_user AS u WHERE u.batch = b.batch LIMIT 1) IS NOT NULL ORDER BY batch LIMIT ?",
    list: "-- coupon_list_batches
        SELECT batch, batch_id, digest, template_id, version, claimed_ms, valid_from_ms, valid_until_ms, coupons, state,
            refusal, operator, reason, started_ms, ended_ms FROM issue_batch
        WHERE batch < ? ORDER BY batch DESC LIMIT ?",
    list_state: "-- coupon_list_batches_of_state
        SELECT batch, batch_id, digest, template_id, version, claimed_ms, valid_from_ms, valid_until_ms, coupons, state,
            refusal, operator, reason, started_ms, ended_ms FROM issue_batch
        WHERE state = ? AND batch < ? ORDER BY batch DESC LIMIT ?",
};

#[cfg(feature = "mysql")]
const MYSQL: Statements = Statements {
    open: "-- coupon_open_batch
        INSERT IGNORE INTO issue_batch(batch, digest, template_id, version, claimed_ms, valid_from_ms, valid_until_ms,
            coupons, batch_id, operator, reason, state, refusal, started_ms)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '', CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED))",
    step: "-- coupon_step_batch
        UPDATE issue_batch SET state = ?, refusal = ?,
            ended_ms = IF(state IN (0, 1, 4), NULL, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED))
        WHERE batch = ? AND state = ?",
    drop_open: "-- coupon_drop_batch
        DELETE FROM issue_batch WHERE batch = ? AND state = 0",
    batch: "-- coupon_batch
        SELECT batch, CAST(batch_id AS CHAR CHARACTER SET utf8mb4), digest, template_id, version, claimed_ms,
            valid_from_ms, valid_until_ms, coupons, state, refusal, operator, reason, started_ms, ended_ms
        FROM issue_batch WHERE batch_id = ?",
    lease: "-- coupon_lease_batch
        UPDATE issue_batch JOIN (SELECT ? AS runner, ? AS length_ms) AS j
        SET issue_batch.runner = j.runner, lease_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + j.length_ms
        WHERE batch = ? AND (issue_batch.runner = j.runner
            OR lease_ms <= CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED))",
    chunks: "-- coupon_chunks
        SELECT chunk, coupons FROM issue_chunk WHERE batch = ?",
    mark: "-- coupon_mark_chunks
        INSERT INTO issue_chunk(batch, chunk, coupons) SELECT ?, j.chunk, j.coupons
        FROM JSON_TABLE(?, '$[*]' COLUMNS (chunk BIGINT PATH '$[0]', coupons BIGINT PATH '$[1]')) AS j",
    keep_users: "-- coupon_keep_batch_users
        INSERT INTO issue_user(batch, part, user_ids, made_ms)
        VALUES (?, ?, ?, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED))",
    drop_old_users: "-- coupon_drop_old_batch_users
        DELETE FROM issue_user WHERE made_ms < CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) - ?
            AND NOT EXISTS (SELECT 1 FROM issue_batch AS b WHERE b.batch = issue_user.batch AND b.state NOT IN (2, 5))",
    left: "-- coupon_left_batches
        SELECT batch, CAST(batch_id AS CHAR CHARACTER SET utf8mb4), digest, template_id, version, claimed_ms,
            valid_from_ms, valid_until_ms, coupons, state, refusal, operator, reason, started_ms, ended_ms
        FROM issue_batch AS b FORCE INDEX (by_state)
        WHERE state IN (1, 4) AND lease_ms <= CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
            AND (SELECT 1 FROM issue_user AS u WHERE u.batch = b.batch LIMIT 1) IS NOT NULL ORDER BY batch LIMIT ?",
    list: "-- coupon_list_batches
        SELECT batch, CAST(batch_id AS CHAR CHARACTER SET utf8mb4), digest, template_id, version, claimed_ms,
            valid_from_ms, valid_until_ms, coupons, state, refusal, operator, reason, started_ms, ended_ms
        FROM issue_batch WHERE batch < ? ORDER BY batch DESC LIMIT ?",
    list_state: "-- coupon_list_batches_of_state
        SELECT batch, CAST(batch_id AS CHAR CHARACTER SET utf8mb4), digest, template_id, version, claimed_ms,
            valid_from_ms, valid_until_ms, coupons, state, refusal, operator, reason, started_ms, ended_ms
        FROM issue_batch FORCE INDEX (by_state) WHERE state = ? AND batch < ? ORDER BY batch DESC LIMIT ?",
};

macro_rules! batches {
    ($database:ty, $sql:ident) => {
        impl Batches for $database {
            async fn open_batch(db_tx: &mut DbTx<Self>, batch: &Batch) -> sqlx::Result<bool> {
                let query = sqlx::query($sql.open).bind(batch.batch).bind(&batch.digest).bind(batch.template_id);
                let query = query.bind(batch.version).bind(batch.claimed_ms).bind(batch.valid_from_ms);
                let query = query.bind(batch.valid_until_ms).bind(batch.coupons).bind(&batch.batch_id);
                let query = query.bind(&batch.operator).bind(&batch.reason);
                Ok(query.execute(db_tx).await?.rows_affected() == 1)
            }

            async fn step(
                db_tx: &mut DbTx<Self>,
                batch: i64,
                (from, to): (State, State),
                refusal: &str,
            ) -> sqlx::Result<bool> {
                let query = sqlx::query($sql.step).bind(to as i64).bind(refusal).bind(batch).bind(from as i64);
                Ok(query.execute(db_tx).await?.rows_affected() == 1)
            }

            async fn drop_open(db_tx: &mut DbTx<Self>, batch: i64) -> sqlx::Result<()> {
                sqlx::query($sql.drop_open).bind(batch).execute(db_tx).await.map(drop)
            }

            async fn batch(db_tx: &mut DbTx<Self>, batch_id: &str) -> sqlx::Result<Option<Batch>> {
                let row = sqlx::query($sql.batch).bind(batch_id).fetch_optional(db_tx).await?;
                row.as_ref().map(batch_of).transpose()
            }

            async fn lease(db_tx: &mut DbTx<Self>, batch: i64, runner: i64, length_ms: i64) -> sqlx::Result<bool> {
                let query = sqlx::query($sql.lease).bind(runner).bind(length_ms).bind(batch);
                Ok(query.execute(db_tx).await?.rows_affected() == 1)
            }

            async fn chunks(db_tx: &mut DbTx<Self>, batch: i64) -> sqlx::Result<Vec<(i64, i64)>> {
                sqlx::query_as($sql.chunks).bind(batch).fetch_all(db_tx).await
            }

            async fn mark_chunks(db_tx: &mut DbTx<Self>, batch: i64, chunks: &[(i64, i64)]) -> sqlx::Result<()> {
                let chunks = serde_json::to_string(chunks).expect("numbers have a form in JSON");
                sqlx::query($sql.mark).bind(batch).bind(chunks).execute(db_tx).await.map(drop)
            }
        }
    };
}

/// A batch from a row that has its columns in their order.
fn batch_of<'r, R: sqlx::Row>(row: &'r R) -> sqlx::Result<Batch>
where
    usize: sqlx::ColumnIndex<R>,
    i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    let number: i64 = row.try_get(9)?;
    let state = State::ALL.into_iter().find(|state| *state as i64 == number);
    Ok(Batch {
        batch: row.try_get(0)?,
        batch_id: row.try_get(1)?,
        digest: row.try_get(2)?,
        template_id: row.try_get(3)?,
        version: row.try_get(4)?,
        claimed_ms: row.try_get(5)?,
        valid_from_ms: row.try_get(6)?,
        valid_until_ms: row.try_get(7)?,
        coupons: row.try_get(8)?,
        state: state.ok_or_else(|| super::broken("a batch's state"))?,
        refusal: row.try_get(10)?,
        operator: row.try_get(11)?,
        reason: row.try_get(12)?,
        started_ms: row.try_get(13)?,
        ended_ms: row.try_get(14)?,
    })
}

macro_rules! lists {
    ($database:ty, $sql:ident) => {
        impl Lists for $database {
            async fn keep_users(db_tx: &mut DbTx<Self>, batch: i64, part: i64, user_ids: &[i64]) -> sqlx::Result<()> {
                let user_ids = serde_json::to_string(user_ids).expect("numbers have a form in JSON");
                sqlx::query($sql.keep_users).bind(batch).bind(part).bind(user_ids).execute(db_tx).await.map(drop)
            }

            async fn users(db_tx: &mut DbTx<Self>, batch: i64) -> sqlx::Result<Vec<i64>> {
                let parts: Vec<String> = sqlx::query_scalar(USERS).bind(batch).fetch_all(db_tx).await?;
                let mut user_ids = Vec::new();
                for part in parts {
                    let part: Vec<i64> =
                        serde_json::from_str(&part).map_err(|_| super::broken("whom a batch is for"))?;
                    user_ids.extend(part);
                }
                Ok(user_ids)
            }

            async fn drop_list(db_tx: &mut DbTx<Self>, batch: i64) -> sqlx::Result<()> {
                sqlx::query(DROP_USERS).bind(batch).execute(db_tx).await.map(drop)
            }

            async fn drop_old_users(db_tx: &mut DbTx<Self>, age_ms: i64) -> sqlx::Result<()> {
                sqlx::query($sql.drop_old_users).bind(age_ms).execute(db_tx).await.map(drop)
            }

            async fn left(db_tx: &mut DbTx<Self>, limit: usize) -> sqlx::Result<Vec<Batch>> {
                let rows = sqlx::query($sql.left).bind(limit as i64).fetch_all(db_tx).await?;
                rows.iter().map(batch_of).collect()
            }

            async fn list(
                db_tx: &mut DbTx<Self>,
                state: Option<State>,
                before: i64,
                limit: u32,
            ) -> sqlx::Result<Vec<Batch>> {
                let query = match state {
                    Some(state) => sqlx::query($sql.list_state).bind(state as i64),
                    None => sqlx::query($sql.list),
                };
                let rows = query.bind(before).bind(i64::from(limit)).fetch_all(db_tx).await?;
                rows.iter().map(batch_of).collect()
            }

            async fn unfinished(db_tx: &mut DbTx<Self>) -> sqlx::Result<(i64, i64)> {
                sqlx::query_as(UNFINISHED).fetch_one(db_tx).await
            }
        }
    };
}

#[cfg(feature = "sqlite")]
batches!(sqlx::Sqlite, SQLITE);
#[cfg(feature = "sqlite")]
lists!(sqlx::Sqlite, SQLITE);
#[cfg(feature = "mysql")]
batches!(sqlx::MySql, MYSQL);
#[cfg(feature = "mysql")]
lists!(sqlx::MySql, MYSQL);
