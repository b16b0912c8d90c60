//! Redemptions that are kept: the SQL, both dialects side by side.
//!
//! What a process changes of its own accord it changes by one statement, which reads the epoch in the same breath: it
//! does nothing in a database that is past the one by which its caller knows that the redemption's slot is there, and
//! the epoch stays until it is committed.

use sqlx::Row as _;
use tercet::participant::DbTx;
use tercet::xid::Xid;

use super::{Store, broken};
#[cfg(feature = "mysql")]
use statements::MYSQL;
#[cfg(feature = "sqlite")]
use statements::SQLITE;

mod statements;

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
    /// It was done, and is being taken back by a transaction whose outcome is open, or not noted yet.
    Refunding = 6,
}

impl State {
    fn from_number(number: i64) -> sqlx::Result<Self> {
        use State::{Done, GivenUp, Kept, Refunded, Refunding, Refused, Submitted};
        let all = [Kept, Submitted, Done, Refused, Refunded, GivenUp, Refunding];
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
    /// When it was taken back, or that began, by the database.
    pub refunded_ms: Option<i64>,
    /// Which transaction has taken it back, or is about it.
    pub refund_xid: Option<Xid>,
}

impl Redemption {
    /// One that is kept, and was not submitted yet: of no digest and content, asked for and due at 0.
    pub fn kept(redemption_id: i64, user_id: i64, (shop_id, order_id): (i64, i64), idempotency_key: String) -> Self {
        Self {
            redemption_id,
            user_id,
            shop_id,
            order_id,
            idempotency_key,
            digest: String::new(),
            content: Vec::new(),
            state: State::Kept,
            refusal: String::new(),
            attempt: 0,
            tries: 0,
            due_ms: 0,
            is_promised: false,
            created_ms: 0,
            ended_ms: None,
            refunded_ms: None,
            refund_xid: None,
        }
    }
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
    /// Of one to [`State::Refunding`]: by whom.
    pub refund: Option<Refund<'a>>,
}

/// Who takes a redemption back, and why.
#[derive(Clone, Copy, Debug)]
pub struct Refund<'a> {
    /// In which transaction.
    pub xid: Xid,
    /// Which person.
    pub operator: &'a str,
    /// Why.
    pub reason: &'a str,
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
    /// Notes of one that is being taken back by this transaction that nothing undoes that any more.
    TakenBack(Xid),
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
                    Change::TakenBack(xid) => sqlx::query($sql.taken_back).bind(id).bind(xid.to_string()),
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
                rows.iter().map(|row| Ok((read!(row)?, row.try_get(17)?))).collect()
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
                let mut rows: Vec<_> = steps.iter().map(step_row).collect();
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
                refund_xid: $row.try_get::<Option<String>, _>(16)?.map(|xid| xid_of(&xid)).transpose()?,
            })
        })()
    };
}

#[cfg(feature = "sqlite")]
redemptions!(sqlx::Sqlite, SQLITE);
#[cfg(feature = "mysql")]
redemptions!(sqlx::MySql, MYSQL);

/// As the statement takes it.
fn step_row<'a>(step: &Step<'a>) -> StepRow<'a> {
    let &Step { redemption_id, from, to, attempt, refund } = step;
    let (xid, by) = refund.map(|own| (own.xid.to_string(), (own.operator, own.reason))).unzip();
    let (operator, reason) = by.unzip();
    (redemption_id, from as i64, to as i64, attempt, xid, operator, reason)
}

type StepRow<'a> = (i64, i64, i64, Option<i64>, Option<String>, Option<&'a str>, Option<&'a str>);

fn xid_of(text: &str) -> sqlx::Result<Xid> {
    text.parse().map_err(|_| broken("the transaction that takes a redemption back"))
}

fn json<T: serde::Serialize + ?Sized>(rows: &T) -> String {
    serde_json::to_string(rows).expect("numbers and texts have a form in JSON")
}
