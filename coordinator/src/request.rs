//! What the driver can be asked, and how it answers.

use tercet_core::{Event, Status, Timestamp, Xid};
use tercet_proto::admin::v1 as admin;
use tercet_proto::coordinator::v1 as pb;
use tokio::sync::{mpsc, oneshot};

use crate::caller::Incoming;
use crate::driver::satisfied;
use crate::live::Live;
use crate::names::status_name;
use crate::operate::Order;
use crate::plan::{Invalid, Plan};
use crate::scanner::Place;

/// What goes into the driver's inbox.
#[derive(Debug)]
pub enum Input {
    /// Make a transaction.
    Start {
        /// What was declared, begun or prepared.
        plan: Box<Plan>,
        /// When to answer.
        wait: Waits,
        /// Whom to answer.
        answer: Answer,
    },
    /// Add a branch to one that was begun.
    AddBranch {
        /// Which.
        xid: Xid,
        /// The index that it is to have; without one it gets the next.
        index: Option<u32>,
        /// The branch, unchecked.
        branch: Box<pb::Branch>,
        /// Whom to answer, once it is durable.
        answer: oneshot::Sender<Result<Added, Error>>,
    },
    /// Commit or roll back.
    Finish {
        /// Which.
        xid: Xid,
        /// Which of the two.
        end: End,
        /// When to answer.
        wait: Waits,
        /// Whom to answer.
        answer: Answer,
    },
    /// Take up a transaction that was read from the store.
    Adopt {
        /// The transaction, as stored.
        live: Box<Live>,
        /// What has happened to it.
        event: Event,
    },
    /// The scanner found a branch's row in `compensation_log` due.
    Retry {
        /// The transaction, as stored.
        live: Box<Live>,
        /// Which branch.
        branch: u8,
        /// Kept until the branch's attempt is over.
        place: Place,
    },
    /// Something has happened to a transaction in memory.
    Wake {
        /// Which.
        xid: Xid,
        /// What.
        event: Event,
    },
    /// An operator wants something done, or only to know what would be.
    Operate {
        /// To which.
        xid: Xid,
        /// As stored, for when it is not in memory.
        live: Option<Box<Live>>,
        /// What, by whom and why.
        order: Box<Order>,
        /// Whom to answer, once it is durable.
        answer: oneshot::Sender<Result<admin::Changed, Error>>,
    },
    /// Show a transaction with all that memory knows beyond the store, if it is here.
    Look {
        /// Which.
        xid: Xid,
        /// Whom to show it.
        answer: oneshot::Sender<Option<Box<Live>>>,
    },
    /// Participants have answered.
    Replies(Vec<Incoming>),
    /// A service that had no session has one.
    Connected {
        /// Its name.
        service: String,
    },
    /// The node's lease was renewed.
    Lease {
        /// When it is no longer to be relied on.
        end: Timestamp,
    },
}

impl Input {
    /// The one transaction that it concerns, if it is about one.
    pub fn xid(&self) -> Option<Xid> {
        match self {
            Self::AddBranch { xid, .. }
            | Self::Finish { xid, .. }
            | Self::Wake { xid, .. }
            | Self::Operate { xid, .. }
            | Self::Look { xid, .. } => Some(*xid),
            Self::Start { .. }
            | Self::Adopt { .. }
            | Self::Retry { .. }
            | Self::Replies(_)
            | Self::Connected { .. }
            | Self::Lease { .. } => None,
        }
    }

    /// Answers whoever waits for it with an error, and then there is nothing left of it; without anybody it stays.
    pub fn refuse(self, error: impl Fn() -> Error) -> Option<Self> {
        match self {
            Self::Start { answer, .. } | Self::Finish { answer, .. } => answer.send(Err(error())),
            Self::AddBranch { answer, .. } => Added::send(answer, Err(error())),
            Self::Operate { answer, .. } => drop(answer.send(Err(error()))),
            Self::Look { .. }
            | Self::Adopt { .. }
            | Self::Retry { .. }
            | Self::Wake { .. }
            | Self::Replies(_)
            | Self::Connected { .. }
            | Self::Lease { .. } => return Some(self),
        }
        None
    }
}

/// How an initiator wants its transaction to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Confirmed.
    Commit,
    /// Cancelled.
    Rollback {
        /// Why, for people.
        reason: String,
    },
}

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It is durable.
    Accepted,
    /// The outcome is durable.
    Decided,
    /// Every branch has ended.
    Ended,
}

impl From<pb::Wait> for Waits {
    fn from(wait: pb::Wait) -> Self {
        match wait {
            pb::Wait::Accepted => Self::Accepted,
            pb::Wait::Unspecified | pb::Wait::Decided => Self::Decided,
            pb::Wait::Ended => Self::Ended,
        }
    }
}

/// One result for an entry of a stream.
pub type Entry = (u64, Result<pb::TransactionView, Error>);

/// Whom to answer with a transaction as it durably stands. Nobody may be listening any more.
#[derive(Debug)]
pub enum Answer {
    /// A call of its own.
    One(oneshot::Sender<Result<pb::TransactionView, Error>>),
    /// An entry of a stream, by its id.
    Entry(u64, mpsc::UnboundedSender<Entry>),
}

impl Answer {
    /// Whether nobody listens any more: the caller has given up, or its deadline has passed.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Entry(_, sender) => sender.is_closed(),
        }
    }

    /// Answers.
    pub fn send(self, result: Result<pb::TransactionView, Error>) {
        match self {
            Self::One(sender) => drop(sender.send(result)),
            Self::Entry(id, sender) => drop(sender.send((id, result))),
        }
    }
}

/// A branch that was added and is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// Its index.
    pub branch: u32,
    /// Its try may not begin later.
    pub not_after: Timestamp,
}

impl Added {
    /// Answers; nobody may be listening any more.
    pub fn send(answer: oneshot::Sender<Result<Self, Error>>, result: Result<Self, Error>) {
        drop(answer.send(result));
    }
}

/// Someone who waits for a transaction.
#[derive(Debug)]
pub enum Waiter {
    /// For its view.
    View {
        /// Until when.
        wait: Waits,
        /// Whom to tell.
        answer: Answer,
        /// It had been accepted before, under the same key.
        repeated: bool,
    },
    /// For the write of a branch.
    Added {
        /// What to tell.
        added: Added,
        /// Whom.
        answer: oneshot::Sender<Result<Added, Error>>,
    },
    /// For the write of what an operator wanted.
    Changed {
        /// What it changes.
        difference: Box<admin::Difference>,
        /// Whom to tell.
        answer: oneshot::Sender<Result<admin::Changed, Error>>,
    },
}

impl Waiter {
    /// Whether its moment has come, now that this status is durable.
    pub fn satisfied(&self, status: Status) -> bool {
        match self {
            Self::View { wait, .. } => satisfied(*wait, status),
            Self::Added { .. } | Self::Changed { .. } => true,
        }
    }
}

/// Why a request was not carried out. Nothing has been changed, unless the text says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field is outside its limit: change it.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no room: repeat it later.
    #[error("{what}: the limit of {limit} is reached")]
    Overloaded {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: usize,
    },
    /// There is no room for transactions with this service: repeat it later. Others are taken.
    #[error("{service}: {what}: the limit of {limit} is reached")]
    ServiceOverloaded {
        /// The service that can not keep up.
        service: String,
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: usize,
    },
    /// The idempotency key names a transaction with other content: use another key.
    #[error("idempotency_key: names transaction {xid}, whose content differs")]
    KeyReused {
        /// That transaction.
        xid: Xid,
    },
    /// Another branch has the index: it is not this one that is repeated.
    #[error("branch {index} exists, and its content differs")]
    BranchDiffers {
        /// The index.
        index: u32,
    },
    /// The transaction is not driven here at the moment: look into the store.
    #[error("the transaction is not in this coordinator's memory")]
    NotHere,
    /// There is no such transaction: it never was, or ended so long ago that it is purged.
    #[error("there is no such transaction")]
    NotFound,
    /// The outcome was decided before this came.
    #[error("already decided: it is {}", status_name(*.status))]
    AlreadyDecided {
        /// Where it stands.
        status: Status,
    },
    /// What an operator wants does not apply to the transaction as it stands.
    #[error("nothing to do: {why}")]
    NothingToDo {
        /// Why not.
        why: String,
    },
    /// This coordinator takes nothing new until an operator says otherwise: go to another, or wait.
    #[error("the coordinator drains and takes nothing new")]
    Draining,
    /// It was submitted whole, and decides itself.
    #[error("the transaction was declared by Submit and decides itself")]
    Declared,
    /// The store refuses the row, and will again.
    #[error("the store refuses it: {reason}")]
    Unstored {
        /// What it said.
        reason: String,
    },
    /// The disk under the store is full: nothing was begun. Repeat it when somebody has made room.
    #[error("the coordinator's disk is full: what is under way goes on, nothing new is taken")]
    DiskFull,
    /// The store does not answer.
    #[error("the store does not answer: {reason}")]
    Unavailable {
        /// What it said.
        reason: String,
    },
    /// The caller's time for its call is over before there is an answer: the outcome is not known yet. Ask again.
    #[error("no answer within the time-out of the call: the outcome is not known yet, Get tells it")]
    Late,
    /// This coordinator takes nothing new: go to another, or wait.
    #[error("the coordinator is stopping")]
    Stopping,
}
