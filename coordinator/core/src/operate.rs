//! What a person can do to a transaction: events like any other, bound by the same rules.
//!
//! The first durable decision stays the outcome, whoever would like another one, and no act on a branch touches the
//! others. What does not apply changes nothing and does not count in [`Effects::acted`].

use crate::step::{Effects, Note, RowStatus, close_row, decide, row};
use crate::tx::{Branch, Cause, Operation, Parked, Progress, Status, Tx};
use crate::{RetryPolicy, Timestamp};

/// What an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Call a branch that waits (for time, its service, the scanner or a person) at once, all its attempts before it.
    Retry {
        /// Which branch.
        branch: u8,
    },
    /// Let a branch wait for a person. A try can not be parked: its deadline bounds it.
    Park {
        /// Which branch.
        branch: u8,
    },
    /// Hand a parked branch to the scanner, all its attempts before it.
    Resume {
        /// Which branch.
        branch: u8,
    },
    /// A person has done what a parked confirm or cancel would have done.
    Resolve {
        /// Which branch.
        branch: u8,
    },
    /// Another retry policy, from the next failed attempt on.
    SetRetry {
        /// Of which branch.
        branch: u8,
        /// The policy.
        policy: RetryPolicy,
    },
    /// Decide to confirm in the initiator's place.
    ForceConfirm,
    /// Decide to cancel in the initiator's place.
    ForceCancel,
}

impl Act {
    /// The branch that it is about, if it is about one.
    pub const fn branch(self) -> Option<u8> {
        match self {
            Self::Retry { branch }
            | Self::Park { branch }
            | Self::Resume { branch }
            | Self::Resolve { branch }
            | Self::SetRetry { branch, .. } => Some(branch),
            Self::ForceConfirm | Self::ForceCancel => None,
        }
    }
}

impl Tx {
    /// Whether nothing but the initiator's commit, or the word of a message's sender, is missing for a confirm. A try
    /// that has not succeeded could not be confirmed.
    pub fn confirmable(&self) -> bool {
        let tried = |branch: &Branch| branch.finished() || branch.operations.has(Operation::Ask);
        self.status == Status::Trying && self.branches.iter().all(tried)
    }
}

/// Carries out an act on a transaction that has not ended.
pub(crate) fn act(tx: &mut Tx, act: Act, now: Timestamp, effects: &mut Effects) {
    match (tx.status, act) {
        (Status::Trying, Act::ForceConfirm) => {
            if tx.confirmable() {
                effects.acted += 1;
                decide(tx, Status::Confirming, effects);
            }
        }
        (Status::Trying, Act::ForceCancel) => {
            effects.acted += 1;
            tx.cause = Some(Cause::Forced);
            decide(tx, Status::Cancelling, effects);
        }
        (
            Status::Trying | Status::Confirming | Status::Cancelling,
            Act::Retry { branch }
            | Act::Park { branch }
            | Act::Resume { branch }
            | Act::Resolve { branch }
            | Act::SetRetry { branch, .. },
        ) => {
            if let Some(operation) = tx.operation(branch) {
                on_branch(tx, act, (branch, operation), now, effects);
            }
        }
        (Status::Confirming | Status::Cancelling, Act::ForceConfirm | Act::ForceCancel)
        | (Status::Confirmed | Status::Cancelled, _) => {}
    }
}

/// An act on a branch that the present phase asks `operation` of.
fn on_branch(tx: &mut Tx, act: Act, (index, operation): (u8, Operation), now: Timestamp, effects: &mut Effects) {
    let ready = tx.ready(index);
    let branch = &mut tx.branches[usize::from(index)];
    let note = match (act, branch.progress) {
        (Act::Retry { .. }, Progress::Delayed | Progress::Unreachable | Progress::Logged | Progress::Parked(_)) => {
            again(branch, (index, operation), ready, now, effects);
            branch.progress = Progress::Due;
            Note::Retried(operation, index)
        }
        (Act::Resume { .. }, Progress::Parked(_)) => {
            again(branch, (index, operation), ready, now, effects);
            branch.progress = if branch.logged { Progress::Logged } else { Progress::Due };
            Note::Resumed(operation, index)
        }
        (
            Act::Park { .. },
            Progress::Due | Progress::Called | Progress::Delayed | Progress::Unreachable | Progress::Logged,
        ) if operation != Operation::Try => {
            branch.progress = Progress::Parked(Parked::ByPerson);
            branch.logged = true;
            row(branch, (index, operation), RowStatus::Failed, effects);
            Note::Held(operation, index)
        }
        // The answer to a question is the decision: that is forced, and not resolved.
        (Act::Resolve { .. }, Progress::Parked(_)) if matches!(operation, Operation::Confirm | Operation::Cancel) => {
            close_row(branch, index, operation, effects);
            branch.progress = Progress::Done;
            Note::Resolved(operation, index)
        }
        (Act::SetRetry { policy, .. }, _) if policy != branch.retry && !branch.finished() => {
            branch.retry = policy;
            Note::PolicySet(operation, index)
        }
        (Act::Retry { .. }, Progress::Due | Progress::Called | Progress::Done | Progress::Skipped)
        | (Act::Park { .. } | Act::SetRetry { .. }, _)
        | (
            Act::Resume { .. } | Act::Resolve { .. },
            Progress::Due
            | Progress::Called
            | Progress::Delayed
            | Progress::Unreachable
            | Progress::Done
            | Progress::Logged
            | Progress::Parked(_)
            | Progress::Skipped,
        )
        | (Act::ForceConfirm | Act::ForceCancel, _) => return,
    };
    effects.acted += 1;
    effects.notes.push(note);
    effects.persist = true;
}

/// All attempts lie before the branch again. One whose turn has not come needs no row: whatever comes before it leads
/// to it.
fn again(branch: &mut Branch, (index, operation): (u8, Operation), ready: bool, now: Timestamp, effects: &mut Effects) {
    branch.attempts = 0;
    if branch.logged && ready {
        branch.wake_at = now;
        row(branch, (index, operation), RowStatus::Pending(now), effects);
    } else {
        close_row(branch, index, operation, effects);
    }
}
