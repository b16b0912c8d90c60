//! Redemptions that are kept: the SQL, both dialects side by side.
//!
//! What a process changes of its own accord it changes by one statement, which reads the epoch in the same breath: it
//! does nothing in a database that is past the one by which its caller knows that the redemption's slot is there, and
//! the epoch stays until it is committed.

use sqlx::Row as _;
use tercet::participant::DbTx;

use super::{Store, broken};

/// Where a redemption stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for a transaction.
    Kept = 0,
    /// The coordinator has one for it.
    Submitted = 1,
    /// Its coupons are used.
    Done = 2,
    /// It came to nothing.
    Refused = 3,
    /// It was done, and taken back.
    Refunded = 4,
    /// It was promised and came to nothing, which the coordinator has to be told.
    GivenUp = 5,
}

impl State {
    fn from_number(number: i64) -> sqlx::Result<Self> {
        let all = [Self::Kept, Self::Submitted, Self::Done, Self::Refused, Self::Refunded, Self::GivenUp];
        all.into_iter().find(|state| *state as i64 == number).ok_or_else(|| broken("a redemption's state"))
    }
}

/// A redemption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redemption {
    /// Its number, which carries the slot of its user.
    pub redemption_id: i64,
    /// Whose coupons.
    pub user_id: i64,
    /// Whose order it is: it numbers orders and makes keys.
    pub shop_id: i64,
    /// For which order.
    pub order_id: i64,
    /// Its caller's name for it.
    pub idempotency_key: String,
    /// Of what it is about.
    pub digest: String,
    /// What it is about.
    pub content: Vec<u8>,
    /// Where it stands.
    pub state: State,
    /// Why it is refused, as a participant says it.
    pub refusal: String,
    /// Which of its transactions it waits for, or had.
    pub attempt: i64,
    /// How often the job has submitted it.
    pub tries: i64,
    /// When the job does so next.
    pub due_ms: i64,
    /// Whether somebody was shown that it is under way.
    pub is_promised: bool,
    /// When it was asked for, by the database.
    pub created_ms: i64,
    /// When it was done or refused, by the database.
    pub ended_ms: Option<i64>,
    /// When it was taken back, by the database.
    pub refunded_ms: Option<i64>,
}

/// A step of a redemption.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Which.
    pub redemption_id: i64,
    /// Where it has to stand.
    pub from: State,
    /// Where it will stand.
    pub to: State,
    /// The transaction that it has to wait for, where that matters.
    pub attempt: Option<i64>,
    /// Who takes it back, and why.
    pub refund: Option<(&'a str, &'a str)>,
}

/// What a process does with a redemption of its own accord.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// Writes this one, which is kept, and due after so long: not where there is one of its user and key.
    Keep(&'a Redemption, i64),
    /// Refuses one that is kept, or whose transaction of this number has come to nothing, or gives it up where it was
    /// promised.
    Refuse {
        /// Which transaction.
        attempt: i64,
        /// Why.
        refusal: &'a str,
    },
    /// Lets one whose transaction of this number came to nothing in time have another.
    Again {
        /// Which transaction.
        attempt: i64,
        /// After so long.
        due_after_ms: i64,
    },
    /// Gives one up that is kept, for this reason.
    GiveUp(&'a str),
    /// Notes that somebody is shown that it is under way: not where it has ended, or was forgotten.
    Promise,
    /// Deletes one that is kept and was promised to nobody.
    Forget,
    /// Takes one that is due at this time, unless somebody else has.
    Take {
        /// When it is due.
        due_ms: i64,
        /// It is due again after so long.
        due_after_ms: i64,
    },
}

/// A database that redemptions can live in.
pub trait Redemptions: Store {
    /// Changes a redemption, in a local transaction of its own: whether it stood where it has to, and the database is
    /// at this epoch.
    fn change(
        connection: &mut DbTx<Self>,
        redemption_id: i64,
        change: Change<'_>,
        epoch: i64,
    ) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// The redemption of this user and this shop's key.
    fn by_key(
        db_tx: &mut DbTx<Self>,
        user_id: i64,
        key: (i64, &str),
    ) -> impl Future<Output = sqlx::Result<Option<Redemption>>> + Send;

    /// The latest redemption for this shop's order of the user that was not refused.
    fn by_order(
        db_tx: &mut DbTx<Self>,
        user_id: i64,
        order: (i64, i64),
    ) -> impl Future<Output = sqlx::Result<Option<Redemption>>> + Send;

    /// Those that stand there and are due, the first first, each with the age in milliseconds.
    fn due(
        db_tx: &mut DbTx<Self>,
        state: State,
        limit: u32,
    ) -> impl Future<Output = sqlx::Result<Vec<(Redemption, i64)>>> + Send;

    /// So many that ended longer ago than this.
    fn ended(db_tx: &mut DbTx<Self>, age_ms: i64, limit: u32) -> impl Future<Output = sqlx::Result<Vec<i64>>> + Send;

    /// Deletes these, in a local transaction of its own, if the database is at this epoch; how many.
    fn delete(connection: &mut DbTx<Self>, ids: &[i64], epoch: i64) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// How many are kept, counted up to a limit.
    fn kept(db_tx: &mut DbTx<Self>, limit: u32) -> impl Future<Output = sqlx::Result<i64>> + Send;

    /// Locks these, in their order, and reads where they stand.
    fn standings(
        db_tx: &mut DbTx<Self>,
        ids: &[i64],
    ) -> impl Future<Output = sqlx::Result<Vec<(i64, State, i64)>>> + Send;

    /// Moves those that stand where they have to; how many.
    fn step(db_tx: &mut DbTx<Self>, steps: &[Step<'_>]) -> impl Future<Output = sqlx::Result<u64>> + Send;
}

struct Statements {
    keep: &'static str,
    by_key: &'static str,
    by_order: &'static str,
    refuse: &'static str,
    again: &'static str,
    promise: &'static str,
    give_up: &'static str,
    forget: &'static str,
    due: &'static str,
    take: &'static str,
    ended: &'static str,
    delete: &'static str,
    kept: &'static str,
    standings: &'static str,
    step: &'static str,
}

macro_rules! columns {
    ($key:literal, $now:literal, $rest:literal) => {
        concat!(
            "SELECT redemption_id, user_id, shop_id, order_id, ",
            $key,
            ", digest, content, state, refusal, attempt, tries,
            due_ms, promised, created_ms, ended_ms, refunded_ms, ",
            $now,
            " - created_ms FROM redemption ",
            $rest
        )
    };
}

#[cfg(feature = "sqlite")]
macro_rules! sqlite {
    ($name:literal, $rest:literal) => {
        concat!("-- ", $name, "\n", columns!("idempotency_key", "CAST(unixepoch('subsec') * 1000 AS INTEGER)", $rest))
    };
}

#[cfg(feature = "sqlite")]
const SQLITE: Statements = Statements {
    keep: "-- redemption_keep
        INSERT INTO redemption(redemption_id, user_id, shop_id, order_id, idempotency_key, digest, content, state,
            due_ms, created_ms)
        SELECT $1, $2, $3, $4, $5, $6, $7, 0, CAST(unixepoch('subsec') * 1000 AS INTEGER) + $8,
            CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM tercet_fence_meta WHERE epoch = $9 ON CONFLICT DO NOTHING",
    by_key: sqlite!("redemption_by_key", "WHERE user_id = $1 AND shop_id = $2 AND idempotency_key = $3"),
    by_order: sqlite!(
        "redemption_by_order",
        "WHERE user_id = $1 AND shop_id = $2 AND order_id = $3 AND state NOT IN (3, 5)
        ORDER BY redemption_id DESC LIMIT 1"
    ),
    refuse: "-- redemption_refuse
        UPDATE redemption SET state = iif(promised = 1, 5, 3), refusal = $1,
            ended_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER)
        WHERE redemption_id = $2 AND attempt = $3 AND state IN (0, 1)
            AND (SELECT epoch FROM tercet_fence_meta) = $4",
    again: "-- redemption_again
        UPDATE redemption SET state = 0, attempt = attempt + 1,
            due_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) + $1
        WHERE redemption_id = $2 AND attempt = $3 AND state IN (0, 1)
            AND (SELECT epoch FROM tercet_fence_meta) = $4",
    promise: "-- redemption_promise
        UPDATE redemption SET promised = 1
        WHERE redemption_id = $1 AND state IN (0, 1) AND (SELECT epoch FROM tercet_fence_meta) = $2",
    give_up: "-- redemption_give_up
        UPDATE redemption SET state = 5, refusal = $1, ended_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER)
        WHERE redemption_id = $2 AND state = 0 AND (SELECT epoch FROM tercet_fence_meta) = $3",
    forget: "-- redemption_forget
        DELETE FROM redemption
        WHERE redemption_id = $1 AND state = 0 AND promised = 0 AND (SELECT epoch FROM tercet_fence_meta) = $2",
    due: sqlite!(
        "redemption_due",
        "WHERE state = $1 AND due_ms <= CAST(unixepoch('subsec') * 1000 AS INTEGER)
        AND NOT EXISTS (SELECT 1 FROM slot AS s WHERE s.slot = (redemption_id & 1023) AND s.state <> 1)
        ORDER BY due_ms LIMIT $2"
    ),
    take: "-- redemption_take
        UPDATE redemption SET tries = tries + 1, due_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) + $1
        WHERE redemption_id = $2 AND due_ms = $3 AND state IN (0, 5)
            AND (SELECT epoch FROM tercet_fence_meta) = $4",
    ended: "-- redemption_ended
        SELECT redemption_id FROM redemption INDEXED BY redemption_by_due
        WHERE state IN (2, 3, 4) AND due_ms < CAST(unixepoch('subsec') * 1000 AS INTEGER) - $1
            AND COALESCE(refunded_ms, ended_ms) < CAST(unixepoch('subsec') * 1000 AS INTEGER) - $1 LIMIT $2",
    delete: "-- redemption_delete
        DELETE FROM redemption WHERE redemption_id IN (SELECT value FROM json_each($1)) AND state IN (2, 3, 4)
            AND (SELECT epoch FROM tercet_fence_meta) = $2",
    kept: "-- redemption_kept
        SELECT COUNT(*) FROM (SELECT 1 FROM redemption WHERE state = 0 LIMIT $1) AS k",
    standings: "-- redemption_standings
        SELECT redemption_id, state, attempt FROM redemption
        WHERE redemption_id IN (SELECT value FROM json_each($1))",
    step: "-- redemption_step
        UPDATE redemption SET state = j.next,
            ended_ms = iif(j.next = 2 AND j.before = 1, CAST(unixepoch('subsec') * 1000 AS INTEGER), ended_ms),
            refunded_ms = iif(j.next = 4, CAST(unixepoch('subsec') * 1000 AS INTEGER), NULL),
            refund_operator = j.operator, refund_reason = j.reason
        FROM (SELECT value->>0 AS id, value->>1 AS before, value->>2 AS next, value->>3 AS attempt,
                  value->>4 AS operator, value->>5 AS reason FROM json_each($1)) AS j
        WHERE redemption.redemption_id = j.id AND redemption.state = j.before
            AND redemption.attempt = COALESCE(j.attempt, redemption.attempt)",
};

#[cfg(feature = "mysql")]
macro_rules! mysql {
    ($name:literal, $rest:literal) => {
        concat!(
            "-- ",
            $name,
            "\n",
            columns!(
                "CAST(idempotency_key AS CHAR CHARACTER SET utf8mb4)",
                "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
                $rest
            )
        )
    };
}

#[cfg(feature = "mysql")]
const MYSQL: Statements = Statements {
    keep: "-- redemption_keep
        INSERT IGNORE INTO redemption(redemption_id, user_id, shop_id, order_id, idempotency_key, digest, content,
            state, due_ms, created_ms)
        SELECT ?, ?, ?, ?, ?, ?, ?, 0, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + ?,
            CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) FROM tercet_fence_meta WHERE epoch = ? LOCK IN SHARE MODE",
    by_key: mysql!(
        "redemption_by_key",
        "FORCE INDEX (by_key) WHERE user_id = ? AND shop_id = ? AND idempotency_key = ?"
    ),
    by_order: mysql!(
        "redemption_by_order",
        "FORCE INDEX (of_order) WHERE user_id = ? AND shop_id = ? AND order_id = ?
        AND state NOT IN (3, 5) ORDER BY redemption_id DESC LIMIT 1"
    ),
    refuse: "-- redemption_refuse
        UPDATE redemption SET state = IF(promised = 1, 5, 3), refusal = ?,
            ended_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        WHERE redemption_id = ? AND attempt = ? AND state IN (0, 1)
            AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    again: "-- redemption_again
        UPDATE redemption SET state = 0, attempt = attempt + 1,
            due_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + ?
        WHERE redemption_id = ? AND attempt = ? AND state IN (0, 1)
            AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    promise: "-- redemption_promise
        UPDATE redemption SET promised = 1
        WHERE redemption_id = ? AND state IN (0, 1)
            AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    give_up: "-- redemption_give_up
        UPDATE redemption SET state = 5, refusal = ?, ended_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        WHERE redemption_id = ? AND state = 0 AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    forget: "-- redemption_forget
        DELETE FROM redemption
        WHERE redemption_id = ? AND state = 0 AND promised = 0
            AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    due: mysql!(
        "redemption_due",
        "FORCE INDEX (by_due) WHERE state = ?
        AND due_ms <= CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        AND NOT EXISTS (SELECT 1 FROM slot AS s WHERE s.slot = (redemption_id & 1023) AND s.state <> 1)
        ORDER BY due_ms LIMIT ?"
    ),
    take: "-- redemption_take
        UPDATE redemption SET tries = tries + 1, due_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + ?
        WHERE redemption_id = ? AND due_ms = ? AND state IN (0, 5)
            AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    ended: "-- redemption_ended
        SELECT r.redemption_id
        FROM (SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) - ? AS until_ms) AS j
        STRAIGHT_JOIN redemption r FORCE INDEX (by_due)
        WHERE r.state IN (2, 3, 4) AND r.due_ms < j.until_ms AND COALESCE(r.refunded_ms, r.ended_ms) < j.until_ms
        LIMIT ?",
    delete: "-- redemption_delete
        DELETE r FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) AS j
        STRAIGHT_JOIN redemption r FORCE INDEX (PRIMARY) ON r.redemption_id = j.id
        WHERE r.state IN (2, 3, 4) AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    kept: "-- redemption_kept
        SELECT COUNT(*) FROM (SELECT 1 FROM redemption FORCE INDEX (by_due) WHERE state = 0 LIMIT ?) AS k",
    standings: "-- redemption_standings
        SELECT r.redemption_id, r.state, r.attempt FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) AS j
        STRAIGHT_JOIN redemption r FORCE INDEX (PRIMARY) ON r.redemption_id = j.id FOR UPDATE",
    step: "-- redemption_step
        UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$[0]', before_ BIGINT PATH '$[1]',
            next_ BIGINT PATH '$[2]', attempt BIGINT PATH '$[3]',
            operator VARCHAR(64) CHARACTER SET utf8mb4 PATH '$[4]',
            reason VARCHAR(512) CHARACTER SET utf8mb4 PATH '$[5]')) AS j
        STRAIGHT_JOIN redemption r FORCE INDEX (PRIMARY) ON r.redemption_id = j.id
        SET r.state = j.next_,
            r.ended_ms = IF(j.next_ = 2 AND j.before_ = 1, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), r.ended_ms),
            r.refunded_ms = IF(j.next_ = 4, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), NULL),
            r.refund_operator = j.operator, r.refund_reason = j.reason
        WHERE r.state = j.before_ AND r.attempt = COALESCE(j.attempt, r.attempt)",
};

macro_rules! redemptions {
    ($database:ty, $sql:ident) => {
        impl Redemptions for $database {
            async fn change(
                connection: &mut DbTx<Self>,
                id: i64,
                change: Change<'_>,
                epoch: i64,
            ) -> sqlx::Result<bool> {
                let query = match change {
                    Change::Keep(own, due_after_ms) => {
                        let query = sqlx::query($sql.keep).bind(id).bind(own.user_id).bind(own.shop_id);
                        let query = query.bind(own.order_id);
                        query.bind(&own.idempotency_key).bind(&own.digest).bind(&own.content).bind(due_after_ms)
                    }
                    Change::Refuse { attempt, refusal } => {
                        sqlx::query($sql.refuse).bind(refusal).bind(id).bind(attempt)
                    }
                    Change::Again { attempt, due_after_ms } => {
                        sqlx::query($sql.again).bind(due_after_ms).bind(id).bind(attempt)
                    }
                    Change::GiveUp(refusal) => sqlx::query($sql.give_up).bind(refusal).bind(id),
                    Change::Promise => sqlx::query($sql.promise).bind(id),
                    Change::Forget => sqlx::query($sql.forget).bind(id),
                    Change::Take { due_ms, due_after_ms } => {
                        sqlx::query($sql.take).bind(due_after_ms).bind(id).bind(due_ms)
                    }
                };
                Ok(query.bind(epoch).execute(connection).await?.rows_affected() == 1)
            }

            async fn by_key(
                db_tx: &mut DbTx<Self>,
                user_id: i64,
                (shop_id, key): (i64, &str),
            ) -> sqlx::Result<Option<Redemption>> {
                let query = sqlx::query($sql.by_key).bind(user_id).bind(shop_id).bind(key);
                let row = query.fetch_optional(db_tx).await?;
                row.map(|row| read!(row)).transpose()
            }

            async fn by_order(
                db_tx: &mut DbTx<Self>,
                user_id: i64,
                (shop_id, order_id): (i64, i64),
            ) -> sqlx::Result<Option<Redemption>> {
                let query = sqlx::query($sql.by_order).bind(user_id).bind(shop_id).bind(order_id);
                let row = query.fetch_optional(db_tx).await?;
                row.map(|row| read!(row)).transpose()
            }

            async fn due(db_tx: &mut DbTx<Self>, state: State, limit: u32) -> sqlx::Result<Vec<(Redemption, i64)>> {
                let query = sqlx::query($sql.due).bind(state as i64).bind(i64::from(limit));
                let rows = query.fetch_all(db_tx).await?;
                rows.iter().map(|row| Ok((read!(row)?, row.try_get(16)?))).collect()
            }

            async fn ended(db_tx: &mut DbTx<Self>, age_ms: i64, limit: u32) -> sqlx::Result<Vec<i64>> {
                sqlx::query_scalar($sql.ended).bind(age_ms).bind(i64::from(limit)).fetch_all(db_tx).await
            }

            async fn delete(connection: &mut DbTx<Self>, ids: &[i64], epoch: i64) -> sqlx::Result<u64> {
                Ok(sqlx::query($sql.delete).bind(json(ids)).bind(epoch).execute(connection).await?.rows_affected())
            }

            async fn kept(db_tx: &mut DbTx<Self>, limit: u32) -> sqlx::Result<i64> {
                sqlx::query_scalar($sql.kept).bind(i64::from(limit)).fetch_one(db_tx).await
            }

            async fn standings(db_tx: &mut DbTx<Self>, ids: &[i64]) -> sqlx::Result<Vec<(i64, State, i64)>> {
                let rows: Vec<(i64, i64, i64)> =
                    sqlx::query_as($sql.standings).bind(json(ids)).fetch_all(db_tx).await?;
                rows.into_iter().map(|(id, state, attempt)| Ok((id, State::from_number(state)?, attempt))).collect()
            }

            async fn step(db_tx: &mut DbTx<Self>, steps: &[Step<'_>]) -> sqlx::Result<u64> {
                if steps.is_empty() {
                    return Ok(0);
                }
                let row = |step: &Step<'_>| {
                    let (operator, reason) = step.refund.unzip();
                    let (from, to) = (step.from as i64, step.to as i64);
                    (step.redemption_id, from, to, step.attempt, operator.map(str::to_owned), reason.map(str::to_owned))
                };
                let mut rows: Vec<_> = steps.iter().map(row).collect();
                rows.sort_unstable();
                Ok(sqlx::query($sql.step).bind(json(&rows)).execute(db_tx).await?.rows_affected())
            }
        }
    };
}

/// A redemption out of a row.
macro_rules! read {
    ($row:ident) => {
        (|| -> sqlx::Result<Redemption> {
            Ok(Redemption {
                redemption_id: $row.try_get(0)?,
                user_id: $row.try_get(1)?,
                shop_id: $row.try_get(2)?,
                order_id: $row.try_get(3)?,
                idempotency_key: $row.try_get(4)?,
                digest: $row.try_get(5)?,
                content: $row.try_get(6)?,
                state: State::from_number($row.try_get(7)?)?,
                refusal: $row.try_get(8)?,
                attempt: $row.try_get(9)?,
                tries: $row.try_get(10)?,
                due_ms: $row.try_get(11)?,
                is_promised: $row.try_get::<i64, _>(12)? == 1,
                created_ms: $row.try_get(13)?,
                ended_ms: $row.try_get(14)?,
                refunded_ms: $row.try_get(15)?,
            })
        })()
    };
}

#[cfg(feature = "sqlite")]
redemptions!(sqlx::Sqlite, SQLITE);
#[cfg(feature = "mysql")]
redemptions!(sqlx::MySql, MYSQL);

fn json<T: serde::Serialize + ?Sized>(rows: &T) -> String {
    serde_json::to_string(rows).expect("numbers and texts have a form in JSON")
}
