//! Occasions, what came of them and for whom: the SQL, one text for both dialects but where they differ.
//!
//! Time comes from the caller, who has it from the database.

use sqlx::Row as _;
use tercet::participant::DbTx;

use super::batches::Lists;
use super::jobs::Jobs;

/// What has to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// A user registers, who belongs to this group where it is not empty.
    Registered(String),
    /// This campaign starts.
    Campaign(i64),
}

/// A standing rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occasion {
    /// Its id.
    pub occasion_id: i64,
    /// Of what it says.
    pub digest: String,
    /// When it gives.
    pub on: On,
    /// What it gives.
    pub template_id: i64,
    /// How many of that to each user.
    pub coupons_per_user: i64,
    /// Counts the changes.
    pub revision: i64,
    /// How many users it was told.
    pub users: i64,
    /// How many of them have their coupons.
    pub given: i64,
    /// How many of them were refused.
    pub refused: i64,
    /// Who made it.
    pub operator: String,
    /// Why.
    pub reason: String,
    /// When.
    pub created_ms: i64,
    /// When it was stopped; `None` while it is active.
    pub stopped_ms: Option<i64>,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Its outcome is not known yet.
    Waiting = 0,
    /// Its users have their coupons.
    Done = 1,
    /// They have none.
    Refused = 2,
}

/// What came of events that came together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub run: i64,
    /// The rule.
    pub occasion_id: i64,
    /// How many users it is for.
    pub users: i64,
    /// Where it stands.
    pub state: RunState,
    /// The code of one that was refused.
    pub refusal: String,
    /// How often it was tried. Each try has its own number, and only the last one may change the run.
    pub tries: i64,
    /// When it is tried next.
    pub due_ms: i64,
    /// When its events came.
    pub created_ms: i64,
    /// When it ended.
    pub ended_ms: Option<i64>,
}

/// Which occasion.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// That with this id.
    Id(i64),
    /// That which was made under this key.
    Key(&'a str),
}

/// A database that occasions can live in.
pub trait Occasions: Lists + Jobs {
    /// Writes an occasion that is new.
    ///
    /// # Errors
    /// Besides the database's own: a unique violation where there is one of its key.
    fn make_occasion(
        db_tx: &mut DbTx<Self>,
        key: &str,
        occasion: &Occasion,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// An occasion.
    fn occasion(
        db_tx: &mut DbTx<Self>,
        which: Which<'_>,
    ) -> impl Future<Output = sqlx::Result<Option<Occasion>>> + Send;

    /// Those that are active, or stopped, with ids below `before`, newest first.
    fn occasions(
        db_tx: &mut DbTx<Self>,
        active: bool,
        before: i64,
        limit: usize,
    ) -> impl Future<Output = sqlx::Result<Vec<Occasion>>> + Send;

    /// Stops an occasion; whether it was active.
    fn stop_occasion(
        db_tx: &mut DbTx<Self>,
        occasion_id: i64,
        now_ms: i64,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Tells an occasion of users, in this order; returns how many of them it did not know. Those are a run, whose id
    /// is the second; where there are none there is no run.
    fn open_run(
        db_tx: &mut DbTx<Self>,
        ids: (i64, i64),
        user_ids: &[i64],
        now_ms: i64,
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Runs of all occasions that wait and are due, oldest first.
    fn due_runs(
        db_tx: &mut DbTx<Self>,
        now_ms: i64,
        limit: usize,
    ) -> impl Future<Output = sqlx::Result<Vec<Run>>> + Send;

    /// Begins a try, which may take until then; whether nobody else was quicker.
    fn take_run(db_tx: &mut DbTx<Self>, run: &Run, until_ms: i64) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// The users of a run, in the order of their ids.
    fn run_users(db_tx: &mut DbTx<Self>, run: i64, limit: usize)
    -> impl Future<Output = sqlx::Result<Vec<i64>>> + Send;

    /// Ends a run, with the code of its refusal where there is one; whether this try may.
    fn end_run(
        db_tx: &mut DbTx<Self>,
        run: &Run,
        refusal: Option<&str>,
        now_ms: i64,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Ends a try without an outcome: the next is then.
    fn put_off(db_tx: &mut DbTx<Self>, run: &Run, due_ms: i64) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Replaces a run by two that nobody has tried, and are due: the first so many users, up to this one, and the
    /// others; whether this try may.
    fn split_run(
        db_tx: &mut DbTx<Self>,
        run: &Run,
        first: (i64, i64),
        runs: [i64; 2],
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Makes so many refused runs of an occasion wait again; returns how many there were. With 0 nothing of it counts:
    /// the transaction is to be rolled back.
    fn retry_runs(
        db_tx: &mut DbTx<Self>,
        occasion_id: i64,
        limit: usize,
        now_ms: i64,
    ) -> impl Future<Output = sqlx::Result<usize>> + Send;

    /// Runs of an occasion in this state with ids below `before`, newest first.
    fn runs(
        db_tx: &mut DbTx<Self>,
        wanted: (i64, RunState),
        before: i64,
        limit: usize,
    ) -> impl Future<Output = sqlx::Result<Vec<Run>>> + Send;
}

const MAKE: &str = "-- coupon_make_occasion
    INSERT INTO occasion(occasion_id, digest, what, user_group, campaign_id, template_id, coupons_per_user, state,
        revision, operator, reason, created_ms, idempotency_key)
    VALUES (?, ?, ?, ?, ?, ?, ?, 1, 1, ?, ?, ?, ?)";

macro_rules! occasion {
    ($name:literal, $rest:literal) => {
        concat!(
            "-- coupon_",
            $name,
            "
    SELECT occasion_id, digest, what, user_group, campaign_id, template_id, coupons_per_user, revision, users, given,
        refused, operator, reason, created_ms, stopped_ms FROM occasion ",
            $rest
        )
    };
}

macro_rules! run {
    ($name:literal, $rest:literal) => {
        concat!(
            "-- coupon_",
            $name,
            "
    SELECT run, occasion_id, users, state, refusal, tries, due_ms, created_ms, ended_ms FROM occasion_run ",
            $rest
        )
    };
}

const BY_ID: &str = occasion!("occasion", "WHERE occasion_id = ?");
const BY_KEY: &str = occasion!("occasion_of_key", "WHERE idempotency_key = ?");
const LIST: &str = occasion!("occasions", "WHERE state = ? AND occasion_id < ? ORDER BY occasion_id DESC LIMIT ?");
const STOP: &str = "-- coupon_stop_occasion
    UPDATE occasion SET state = 2, stopped_ms = ?, revision = revision + 1 WHERE occasion_id = ? AND state = 1";
const OPEN_RUN: &str = "-- coupon_open_run
    INSERT INTO occasion_run(run, occasion_id, users, state, due_ms, created_ms) VALUES (?, ?, ?, 0, ?, ?)";
const COUNT_USERS: &str = "-- coupon_count_users
    UPDATE occasion SET users = users + ? WHERE occasion_id = ?";
const DUE: &str = run!("due_runs", "WHERE state = 0 AND due_ms <= ? ORDER BY due_ms LIMIT ?");
const TAKE: &str = "-- coupon_take_run
    UPDATE occasion_run SET due_ms = ?, tries = tries + 1 WHERE run = ? AND state = 0 AND tries = ?";
const USERS: &str = "-- coupon_run_users
    SELECT user_id FROM occasion_user WHERE run = ? ORDER BY user_id LIMIT ?";
const END: &str = "-- coupon_end_run
    UPDATE occasion_run SET state = ?, refusal = ?, ended_ms = ? WHERE run = ? AND state = 0 AND tries = ?";
const COUNT_ENDED: &str = "-- coupon_count_ended
    UPDATE occasion SET given = given + ?, refused = refused + ? WHERE occasion_id = ?";
const PUT_OFF: &str = "-- coupon_put_off_run
    UPDATE occasion_run SET due_ms = ? WHERE run = ? AND state = 0 AND tries = ?";
const DROP: &str = "-- coupon_drop_run
    DELETE FROM occasion_run WHERE run = ? AND state = 0 AND tries = ?";
const MOVE_USERS: &str = "-- coupon_move_users
    UPDATE occasion_user SET run = ? WHERE run = ? AND user_id <= ?";
const REFUSED: &str = "-- coupon_refused_runs
    SELECT run, users FROM occasion_run WHERE occasion_id = ? AND state = 2 ORDER BY run LIMIT ?";
const RETRY: &str = "-- coupon_retry_run
    UPDATE occasion_run SET state = 0, refusal = '', due_ms = ?, ended_ms = NULL WHERE run = ? AND state = 2";
const COUNT_RETRIED: &str = "-- coupon_count_retried
    UPDATE occasion SET refused = refused - ?, revision = revision + 1 WHERE occasion_id = ? AND runs_kept = 1";
const RUNS: &str = run!("runs", "WHERE occasion_id = ? AND state = ? AND run < ? ORDER BY run DESC LIMIT ?");

/// Users that are known stay where they are.
#[cfg(feature = "sqlite")]
const SQLITE_TELL: &str = "-- coupon_tell_users
    INSERT INTO occasion_user(occasion_id, run, user_id) SELECT ?, ?, value FROM json_each(?) WHERE true
    ON CONFLICT DO NOTHING";
#[cfg(feature = "mysql")]
const MYSQL_TELL: &str = "-- coupon_tell_users
    INSERT IGNORE INTO occasion_user(occasion_id, run, user_id)
    SELECT ?, ?, j.user_id FROM JSON_TABLE(?, '$[*]' COLUMNS (user_id BIGINT PATH '$')) AS j";

macro_rules! occasions {
    ($database:ty, $tell:ident) => {
        impl Occasions for $database {
            async fn make_occasion(db_tx: &mut DbTx<Self>, key: &str, occasion: &Occasion) -> sqlx::Result<()> {
                let (what, group, campaign_id) = match &occasion.on {
                    On::Registered(group) => (1_i64, group.as_str(), 0),
                    On::Campaign(campaign_id) => (2, "", *campaign_id),
                };
                let query = sqlx::query(MAKE).bind(occasion.occasion_id).bind(&occasion.digest).bind(what).bind(group);
                let query = query.bind(campaign_id).bind(occasion.template_id).bind(occasion.coupons_per_user);
                let query = query.bind(&occasion.operator).bind(&occasion.reason).bind(occasion.created_ms).bind(key);
                query.execute(db_tx).await.map(drop)
            }

            async fn occasion(db_tx: &mut DbTx<Self>, which: Which<'_>) -> sqlx::Result<Option<Occasion>> {
                let query = match which {
                    Which::Id(occasion_id) => sqlx::query(BY_ID).bind(occasion_id),
                    Which::Key(key) => sqlx::query(BY_KEY).bind(key),
                };
                query.fetch_optional(db_tx).await?.map(|row| occasion_of!(row)).transpose()
            }

            async fn occasions(
                db_tx: &mut DbTx<Self>,
                active: bool,
                before: i64,
                limit: usize,
            ) -> sqlx::Result<Vec<Occasion>> {
                let state = if active { 1_i64 } else { 2 };
                let query = sqlx::query(LIST).bind(state).bind(before).bind(limit as i64);
                query.fetch_all(db_tx).await?.into_iter().map(|row| occasion_of!(row)).collect()
            }

            async fn stop_occasion(db_tx: &mut DbTx<Self>, occasion_id: i64, now_ms: i64) -> sqlx::Result<bool> {
                let stopped = sqlx::query(STOP).bind(now_ms).bind(occasion_id).execute(db_tx).await?;
                Ok(stopped.rows_affected() == 1)
            }

            async fn open_run(
                db_tx: &mut DbTx<Self>,
                (occasion_id, run): (i64, i64),
                user_ids: &[i64],
                now_ms: i64,
            ) -> sqlx::Result<u64> {
                let rows = serde_json::to_string(user_ids).expect("numbers have a form in JSON");
                let told = sqlx::query($tell).bind(occasion_id).bind(run).bind(rows).execute(&mut *db_tx).await?;
                let users = told.rows_affected();
                if users > 0 {
                    let query = sqlx::query(OPEN_RUN).bind(run).bind(occasion_id).bind(users.cast_signed());
                    query.bind(now_ms).bind(now_ms).execute(&mut *db_tx).await?;
                    sqlx::query(COUNT_USERS).bind(users.cast_signed()).bind(occasion_id).execute(db_tx).await?;
                }
                Ok(users)
            }

            async fn due_runs(db_tx: &mut DbTx<Self>, now_ms: i64, limit: usize) -> sqlx::Result<Vec<Run>> {
                let rows = sqlx::query(DUE).bind(now_ms).bind(limit as i64).fetch_all(db_tx).await?;
                rows.into_iter().map(|row| run_of!(row)).collect()
            }

            async fn take_run(db_tx: &mut DbTx<Self>, run: &Run, until_ms: i64) -> sqlx::Result<bool> {
                let query = sqlx::query(TAKE).bind(until_ms).bind(run.run).bind(run.tries);
                Ok(query.execute(db_tx).await?.rows_affected() == 1)
            }

            async fn run_users(db_tx: &mut DbTx<Self>, run: i64, limit: usize) -> sqlx::Result<Vec<i64>> {
                sqlx::query_scalar(USERS).bind(run).bind(limit as i64).fetch_all(db_tx).await
            }

            async fn end_run(
                db_tx: &mut DbTx<Self>,
                run: &Run,
                refusal: Option<&str>,
                now_ms: i64,
            ) -> sqlx::Result<bool> {
                let state = if refusal.is_some() { RunState::Refused } else { RunState::Done };
                let query = sqlx::query(END).bind(state as i64).bind(refusal.unwrap_or_default()).bind(now_ms);
                if query.bind(run.run).bind(run.tries).execute(&mut *db_tx).await?.rows_affected() != 1 {
                    return Ok(false);
                }
                let (given, refused) = if refusal.is_some() { (0, run.users) } else { (run.users, 0) };
                let query = sqlx::query(COUNT_ENDED).bind(given).bind(refused).bind(run.occasion_id);
                query.execute(db_tx).await.map(|_| true)
            }

            async fn put_off(db_tx: &mut DbTx<Self>, run: &Run, due_ms: i64) -> sqlx::Result<()> {
                sqlx::query(PUT_OFF).bind(due_ms).bind(run.run).bind(run.tries).execute(db_tx).await.map(drop)
            }

            async fn split_run(
                db_tx: &mut DbTx<Self>,
                run: &Run,
                (first, last_user_id): (i64, i64),
                runs: [i64; 2],
            ) -> sqlx::Result<bool> {
                let dropped = sqlx::query(DROP).bind(run.run).bind(run.tries).execute(&mut *db_tx).await?;
                if dropped.rows_affected() != 1 {
                    return Ok(false);
                }
                for (new, users, last) in [(runs[0], first, last_user_id), (runs[1], run.users - first, i64::MAX)] {
                    sqlx::query(MOVE_USERS).bind(new).bind(run.run).bind(last).execute(&mut *db_tx).await?;
                    let query = sqlx::query(OPEN_RUN).bind(new).bind(run.occasion_id).bind(users);
                    query.bind(run.created_ms).bind(run.created_ms).execute(&mut *db_tx).await?;
                }
                Ok(true)
            }

            async fn retry_runs(
                db_tx: &mut DbTx<Self>,
                occasion_id: i64,
                limit: usize,
                now_ms: i64,
            ) -> sqlx::Result<usize> {
                let query = sqlx::query_as(REFUSED).bind(occasion_id).bind(limit as i64);
                let refused: Vec<(i64, i64)> = query.fetch_all(&mut *db_tx).await?;
                let (mut runs, mut users) = (0, 0);
                for (run, own) in refused {
                    let retried = sqlx::query(RETRY).bind(now_ms).bind(run).execute(&mut *db_tx).await?;
                    if retried.rows_affected() == 1 {
                        runs += 1;
                        users += own;
                    }
                }
                if runs > 0 {
                    let query = sqlx::query(COUNT_RETRIED).bind(users).bind(occasion_id);
                    // Else their users are gone, or will be.
                    let kept = query.execute(db_tx).await?.rows_affected() == 1;
                    return Ok(if kept { runs } else { 0 });
                }
                Ok(0)
            }

            async fn runs(
                db_tx: &mut DbTx<Self>,
                (occasion_id, state): (i64, RunState),
                before: i64,
                limit: usize,
            ) -> sqlx::Result<Vec<Run>> {
                let query = sqlx::query(RUNS).bind(occasion_id).bind(state as i64).bind(before).bind(limit as i64);
                query.fetch_all(db_tx).await?.into_iter().map(|row| run_of!(row)).collect()
            }
        }
    };
}

macro_rules! occasion_of {
    ($row:ident) => {{
        let what: i64 = $row.try_get(2)?;
        let on = match what {
            1 => On::Registered($row.try_get(3)?),
            2 => On::Campaign($row.try_get(4)?),
            _ => return Err(super::broken("what an occasion is about")),
        };
        Ok(Occasion {
            occasion_id: $row.try_get(0)?,
            digest: $row.try_get(1)?,
            on,
            template_id: $row.try_get(5)?,
            coupons_per_user: $row.try_get(6)?,
            revision: $row.try_get(7)?,
            users: $row.try_get(8)?,
            given: $row.try_get(9)?,
            refused: $row.try_get(10)?,
            operator: $row.try_get(11)?,
            reason: $row.try_get(12)?,
            created_ms: $row.try_get(13)?,
            stopped_ms: $row.try_get(14)?,
        })
    }};
}

macro_rules! run_of {
    ($row:ident) => {{
        let number: i64 = $row.try_get(3)?;
        let states = [RunState::Waiting, RunState::Done, RunState::Refused];
        let state = states.into_iter().find(|state| *state as i64 == number);
        Ok(Run {
            run: $row.try_get(0)?,
            occasion_id: $row.try_get(1)?,
            users: $row.try_get(2)?,
            state: state.ok_or_else(|| super::broken("a run's state"))?,
            refusal: $row.try_get(4)?,
            tries: $row.try_get(5)?,
            due_ms: $row.try_get(6)?,
            created_ms: $row.try_get(7)?,
            ended_ms: $row.try_get(8)?,
        })
    }};
}

#[cfg(feature = "sqlite")]
occasions!(sqlx::Sqlite, SQLITE_TELL);
#[cfg(feature = "mysql")]
occasions!(sqlx::MySql, MYSQL_TELL);
