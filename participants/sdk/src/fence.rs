//! Makes the classic anomalies impossible: repeats, a cancel without a try, a try after its cancel, a call that comes
//! long after everyone forgot it.
//!
//! One row for each (xid, branch) lives beside the business rows and is written in the same local transaction. One
//! upsert both writes the wanted state and tells the state before it (`prev`), from which [`verdict`] decides:
//!
//! | wanted \ before | no row | 1 tried | 2 confirmed | 3 cancelled | 4 refused |
//! |---|---|---|---|---|---|
//! | try | run | repeat | repeat | late: refused | refused again, same reason |
//! | confirm | run if the branch has no try, else a fault | run | repeat | fault | fault |
//! | cancel | empty: recorded, done | run | fault | done | done, nothing to undo |
//! | ask | "no", and row 3 stays | – | "yes" | "no" | – |
//!
//! A fault is answered *refused*, which in a confirm or cancel waits for a person. The answer to *ask* is done for
//! "yes, it committed" and refused for "no".
//!
//! Rows go only after the coordinator has durably forgotten their transaction: first the floor rises above every call
//! that may still be on its way, and a round later the rows are deleted. A call whose `not_after` is at or below the
//! floor touches nothing.
//!
//! Where parts of a service's rows move between databases, the rows of the fence carry their part, and a batch touches
//! nothing in a database that is past the epoch by which it was placed: see [`Place`](crate::participant::Place).

use bytes::Bytes;
use tercet_proto::participant::v1 as pb;

use crate::context::Context;
use crate::participant::{Answer, DbTx};
use crate::xid::Xid;

#[cfg(any(test, feature = "conformance"))]
#[doc(hidden)]
pub mod conformance;
mod guard;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use guard::{CommitError, commit_sender, guard};
pub use sql::prepare;
pub(crate) use sql::{Marks, Sql, check_table};

/// A database that can hold a fence: `sqlx::Sqlite`, `sqlx::Postgres` or `sqlx::MySql` (MariaDB too), by feature.
pub trait Dialect: Sql {
    /// A pool for this URL, with the settings that the fence needs. On SQLite: the file is made when missing, WAL,
    /// every commit synced. A service passes it to [`Service::new`](crate::service::Service::new) and may use it
    /// itself.
    ///
    /// # Errors
    /// When the URL is not one, or the database can not be reached.
    fn open(url: &str) -> impl Future<Output = Result<sqlx::Pool<Self>, sqlx::Error>> + Send;
}

/// An operation of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Try,
    Confirm,
    Cancel,
    Ask,
}

impl Operation {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Try => "try",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
            Self::Ask => "ask",
        }
    }

    pub(crate) const fn on_the_wire(self) -> pb::Operation {
        match self {
            Self::Try => pb::Operation::Try,
            Self::Confirm => pb::Operation::Confirm,
            Self::Cancel => pb::Operation::Cancel,
            Self::Ask => pb::Operation::Ask,
        }
    }

    /// `None` for what a newer coordinator may send.
    pub(crate) const fn of(operation: pb::Operation) -> Option<Self> {
        match operation {
            pb::Operation::Unspecified => None,
            pb::Operation::Try => Some(Self::Try),
            pb::Operation::Confirm => Some(Self::Confirm),
            pb::Operation::Cancel => Some(Self::Cancel),
            pb::Operation::Ask => Some(Self::Ask),
        }
    }

    /// The state that the upsert writes where there is no row.
    pub(crate) const fn wanted(self) -> State {
        match self {
            Self::Try => State::Tried,
            Self::Confirm => State::Confirmed,
            Self::Cancel | Self::Ask => State::Cancelled,
        }
    }
}

/// What a fence row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No row.
    None = 0,
    Tried = 1,
    Confirmed = 2,
    Cancelled = 3,
    Refused = 4,
}

impl State {
    pub(crate) fn from_number(number: i64) -> Result<Self, sqlx::Error> {
        Ok(match number {
            0 => Self::None,
            1 => Self::Tried,
            2 => Self::Confirmed,
            3 => Self::Cancelled,
            4 => Self::Refused,
            _ => return Err(sqlx::Error::Decode(format!("a fence row has the state {number}").into())),
        })
    }
}

/// One row of the upsert.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub(crate) xid: Xid,
    pub(crate) branch: u32,
    pub(crate) wanted: State,
    pub(crate) not_after_ms: u64,
    /// The part of the service's rows that it is about.
    pub(crate) part: Option<u16>,
}

impl Entry {
    pub(crate) const fn new(context: &Context, operation: Operation, part: Option<u16>) -> Self {
        let Context { xid, branch, not_after_ms } = *context;
        Self { xid, branch, wanted: operation.wanted(), not_after_ms, part }
    }

    /// As the row has it: -1 for what never moves.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(crate) fn part_number(&self) -> i64 {
        self.part.map_or(-1, i64::from)
    }

    pub(crate) const fn key(&self) -> (Xid, u32) {
        (self.xid, self.branch)
    }
}

/// What the upsert found for one row.
#[derive(Clone, Debug)]
pub struct Found {
    pub(crate) key: (Xid, u32),
    pub(crate) prev: State,
    /// One byte, the state that the rest belongs to; then a result, or the reason of a refusal.
    pub(crate) reply: Option<Vec<u8>>,
}

impl Found {
    fn result(&self, of: State) -> Bytes {
        match self.reply.as_deref() {
            Some([state, result @ ..]) if *state == of as u8 => Bytes::copy_from_slice(result),
            Some(_) | None => Bytes::new(),
        }
    }

    fn reason(&self) -> String {
        String::from_utf8_lossy(&self.result(State::Refused)).into_owned()
    }
}

/// A row to be written once more, after the handler has answered.
#[derive(Clone, Debug)]
pub struct Settled {
    pub(crate) key: (Xid, u32),
    /// [`State::None`] deletes the row.
    pub(crate) state: State,
    /// `None` leaves it.
    pub(crate) reply: Option<Vec<u8>>,
}

impl Settled {
    /// The row as it was before the upsert.
    pub(crate) const fn put_back(key: (Xid, u32), prev: State) -> Self {
        Self { key, state: prev, reply: None }
    }

    /// The row with what repeats are answered.
    pub(crate) fn keep(key: (Xid, u32), state: State, bytes: &[u8]) -> Self {
        let reply = std::iter::once(state as u8).chain(bytes.iter().copied()).collect();
        Self { key, state, reply: Some(reply) }
    }
}

/// Whether a local transaction lost against another, and may win when it is run again.
pub fn is_conflict<Db: Dialect>(error: &sqlx::Error) -> bool {
    Db::is_conflict(error)
}

/// Whether the database still serves what it did at this epoch. Where it does, it goes on until the local transaction
/// ends: for those who write rows that move beside the fence, before they do.
///
/// # Errors
/// The database's.
pub async fn is_at<Db: Dialect>(db_tx: &mut DbTx<Db>, epoch: i64) -> Result<bool, sqlx::Error> {
    Ok(Db::marks(db_tx).await?.epoch == epoch)
}

/// Writes the wanted states and tells what was there before, in the order of `entries`, which are sorted by key and
/// have no key twice. `None` for those at or below the floor, which touch nothing; nothing at all where the database is
/// at another epoch.
pub(crate) async fn enter<Db: Dialect>(
    db_tx: &mut DbTx<Db>,
    entries: &[Entry],
    epoch: Option<i64>,
) -> Result<Option<Vec<Option<Found>>>, sqlx::Error> {
    let mut live: Vec<Entry> = entries.to_vec();
    let mut rows = Vec::new();
    while !live.is_empty() {
        rows = Db::enter(db_tx, &live, epoch).await?;
        if !rows.is_empty() {
            break;
        }
        let Marks { floor_ms, epoch: now } = Db::marks(db_tx).await?;
        if epoch.is_some_and(|epoch| epoch != now) {
            return Ok(None);
        }
        let before = live.len();
        live.retain(|entry| entry.not_after_ms > floor_ms);
        if live.len() == before {
            return Err(sqlx::Error::Protocol("the fence gave no row for calls above its floor".into()));
        }
    }
    if rows.len() != live.len() {
        return Err(sqlx::Error::Protocol("the fence gave too few rows".into()));
    }
    rows.sort_unstable_by_key(|row| row.key);
    let mut rows = rows.into_iter().peekable();
    Ok(Some(entries.iter().map(|entry| rows.next_if(|row| row.key == entry.key())).collect()))
}

/// What a call comes to, by the row that was there before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The handler runs; the row is as wanted.
    Run,
    /// The row says it.
    Say(Answer),
    /// The upsert must be undone: this call may leave no trace.
    Fault(&'static str),
}

/// The fence's table, a cell an arm.
pub(crate) fn verdict(operation: Operation, tried: bool, found: &Found) -> Verdict {
    use {Operation as O, State as S};
    match (operation, found.prev) {
        (O::Try, S::None) | (O::Confirm | O::Cancel, S::Tried) => Verdict::Run,
        (O::Confirm, S::None) if !tried => Verdict::Run,
        (O::Confirm, S::None) => Verdict::Fault("fence: confirm of a branch that was never tried"),
        (O::Try, S::Tried | S::Confirmed) => Verdict::Say(Answer::Done(found.result(S::Tried))),
        (O::Try, S::Cancelled) => Verdict::Say(Answer::refused("fence: the branch was cancelled before its try came")),
        (O::Try, S::Refused) => Verdict::Say(Answer::Refused(found.reason())),
        (O::Confirm, S::Confirmed) => Verdict::Say(Answer::Done(found.result(S::Confirmed))),
        (O::Confirm, S::Cancelled) => Verdict::Fault("fence: confirm of a branch that was cancelled"),
        (O::Confirm, S::Refused) => Verdict::Fault("fence: confirm of a branch whose try was refused"),
        (O::Cancel, S::None | S::Refused) => Verdict::Say(Answer::done()),
        (O::Cancel, S::Cancelled) => Verdict::Say(Answer::Done(found.result(S::Cancelled))),
        (O::Cancel, S::Confirmed) => Verdict::Fault("fence: cancel of a branch that was confirmed"),
        (O::Ask, S::Confirmed) => Verdict::Say(Answer::done()),
        (O::Ask, S::None | S::Cancelled) => Verdict::Say(Answer::refused("the local transaction did not commit")),
        (O::Ask, S::Tried | S::Refused) => {
            Verdict::Fault("fence: the sender's branch was tried, which senders are not")
        }
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests;
