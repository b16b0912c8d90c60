//! How a transaction stands, as the coordinator told it.

use std::fmt;

use bytes::Bytes;
use tercet_proto::coordinator::v1 as pb;

use super::{Error, xid_of};
use crate::xid::Xid;

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Its tries are under way, or not all of them are added yet.
    Trying,
    /// Its outcome stands: confirmed. Branches are being told.
    Confirming,
    /// Its outcome stands: cancelled. Branches are being told.
    Cancelling,
    /// Ended: all branches are confirmed.
    Confirmed,
    /// Ended: all branches are cancelled.
    Cancelled,
}

impl Status {
    pub(super) fn from_wire(status: pb::Status) -> Option<Self> {
        match status {
            pb::Status::Unspecified => None,
            pb::Status::Trying => Some(Self::Trying),
            pb::Status::Confirming => Some(Self::Confirming),
            pb::Status::Cancelling => Some(Self::Cancelling),
            pb::Status::Confirmed => Some(Self::Confirmed),
            pb::Status::Cancelled => Some(Self::Cancelled),
        }
    }

    /// From the name that [`fmt::Display`] gives it.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Trying, Self::Confirming, Self::Cancelling, Self::Confirmed, Self::Cancelled]
            .into_iter()
            .find(|status| status.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Confirming => "confirming",
            Self::Cancelling => "cancelling",
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
        }
    }

    /// How it ends; `None` while that is open.
    pub fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Trying => None,
            Self::Confirming | Self::Confirmed => Some(Outcome::Confirmed),
            Self::Cancelling | Self::Cancelled => Some(Outcome::Cancelled),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a transaction ends. Final, even while branches are still being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Every branch takes effect.
    Confirmed,
    /// No branch takes effect.
    Cancelled,
}

/// Why a transaction did not take effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undone {
    /// Its outcome is final: nothing of it takes effect.
    #[error("cancelled: {reason}")]
    Cancelled {
        /// What a participant, the initiator or the deadline gave as the reason.
        reason: String,
    },
    /// Its outcome is still open: it was accepted only, or a call by call transaction goes on.
    #[error("not decided yet")]
    Undecided,
}

/// How a transaction stands. Always a durable state, never one that could still be lost.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    xid: Xid,
    status: Status,
    wire: pb::TransactionView,
}

impl View {
    pub(super) fn from_answer(wire: Option<pb::TransactionView>) -> Result<Self, Error> {
        let wire = wire.ok_or_else(|| Error::unreadable("no transaction"))?;
        let status = Status::from_wire(wire.status()).ok_or_else(|| Error::unreadable("an unknown status"))?;
        Ok(Self { xid: xid_of(&wire.xid)?, status, wire })
    }

    /// The transaction's name.
    pub fn xid(&self) -> Xid {
        self.xid
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        self.status
    }

    /// How it ends; `None` while that is open.
    pub fn outcome(&self) -> Option<Outcome> {
        self.status.outcome()
    }

    /// Every branch has ended.
    pub fn ended(&self) -> bool {
        match self.status {
            Status::Confirmed | Status::Cancelled => true,
            Status::Trying | Status::Confirming | Status::Cancelling => false,
        }
    }

    /// Why it was cancelled; empty when it was not.
    pub fn reason(&self) -> &str {
        &self.wire.reason
    }

    /// The "no" of a participant that cancelled it. `None` where it is not cancelled, and where time, its initiator or
    /// a person cancelled it: then nobody has said no, and the same again may well be done.
    pub fn refusal(&self) -> Option<&pb::Refusal> {
        self.wire.refusal.as_ref()
    }

    /// What a branch's try (its confirm, where it has no try) answered; `None` where there is no such branch. Takes the
    /// plan's [`Handle`](crate::plan::Handle) or the branch's number.
    pub fn result(&self, branch: impl Into<u32>) -> Option<&Bytes> {
        let at = usize::try_from(branch.into()).ok()?;
        self.wire.branches.get(at).map(|branch| &branch.result)
    }

    /// It was accepted earlier, under the same idempotency key.
    pub fn repeated(&self) -> bool {
        self.wire.repeated
    }

    /// This view, when the transaction is confirmed.
    ///
    /// # Errors
    /// When it is cancelled, or not decided yet.
    pub fn confirmed(self) -> Result<Self, Undone> {
        match self.outcome() {
            Some(Outcome::Confirmed) => Ok(self),
            Some(Outcome::Cancelled) => Err(Undone::Cancelled { reason: self.wire.reason }),
            None => Err(Undone::Undecided),
        }
    }

    /// Everything the coordinator told: branches, labels, timeline.
    pub fn details(&self) -> &pb::TransactionView {
        &self.wire
    }
}
