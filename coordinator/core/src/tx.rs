//! The global transaction: all that survives a crash, and the little that does not.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::{RetryPolicy, Timestamp, Xid};

/// Most branches of one transaction.
pub const BRANCHES_MAX: usize = 256;

/// Where a transaction stands. The first three wait for branches; the last two are its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Tries (or the question to a message's sender) are under way; nothing is decided.
    Trying,
    /// Decided: every branch is confirmed, however long it takes.
    Confirming,
    /// Decided: every branch that may hold something is cancelled, however long it takes.
    Cancelling,
    /// Every branch has confirmed.
    Confirmed,
    /// Every branch that may have held something has cancelled.
    Cancelled,
}

impl Status {
    /// Whether the transaction has ended.
    pub const fn ended(self) -> bool {
        matches!(self, Self::Confirmed | Self::Cancelled)
    }

    /// Whether the outcome is final.
    pub const fn decided(self) -> bool {
        !matches!(self, Self::Trying)
    }
}

/// What can be asked of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reserve, or in a saga: do.
    Try,
    /// Make final, or deliver.
    Confirm,
    /// Release, or compensate.
    Cancel,
    /// Of a message's sender: did your local transaction commit?
    Ask,
}

impl Operation {
    const fn bit(self) -> u8 {
        match self {
            Self::Try => 1,
            Self::Confirm => 2,
            Self::Cancel => 4,
            Self::Ask => 8,
        }
    }
}

/// The operations that a branch has. A mode is nothing but a choice of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operations(u8);

impl Operations {
    /// Try, confirm, cancel.
    pub const TCC: Self = Self::of(&[Operation::Try, Operation::Confirm, Operation::Cancel]);
    /// Try and cancel.
    pub const SAGA: Self = Self::of(&[Operation::Try, Operation::Cancel]);
    /// Confirm alone.
    pub const RECEIVER: Self = Self::of(&[Operation::Confirm]);
    /// Ask alone.
    pub const SENDER: Self = Self::of(&[Operation::Ask]);

    const fn of(operations: &[Operation]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < operations.len() {
            bits |= operations[at].bit();
            at += 1;
        }
        Self(bits)
    }

    /// As stored; `None` for bits that mean nothing.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits < 16 { Some(Self(bits)) } else { None }
    }

    /// For storing.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether `operation` is among them.
    pub const fn has(self, operation: Operation) -> bool {
        self.0 & operation.bit() != 0
    }
}

/// Why a transaction is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// This branch refused its try, or this sender said that its local transaction did not commit.
    Refused {
        /// Its index.
        branch: u8,
    },
    /// Not every try had succeeded, or no commit had come, by the deadline.
    Deadline,
    /// The initiator asked for it.
    RolledBack,
    /// A person decided in the initiator's place.
    Forced,
}

/// Why a branch is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parked {
    /// It refused a confirm or a cancel, which a participant may not.
    Refused,
    /// Its attempts are used up.
    Exhausted,
    /// A person wanted it.
    ByPerson,
}

/// How far a branch is with its operation of the present phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    /// To be called as soon as those before it are done.
    Due,
    /// Called; without an answer by `wake_at` the answer is unknown.
    Called,
    /// To be called again at `wake_at`.
    Delayed,
    /// No instance of its service is connected and nothing was sent. Not an attempt.
    Unreachable,
    /// Succeeded.
    Done,
    /// Has a row in `compensation_log`, and the scanner wakes it.
    Logged,
    /// Waits for a person.
    Parked(Parked),
    /// Has nothing to do in this phase.
    Skipped,
}

/// One participant's part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Branch {
    /// What it can be asked.
    pub operations: Operations,
    /// Branches that have to be done before this one; cancels go the other way round. No cycles: see [`acyclic`].
    pub after: Box<[u8]>,
    /// When and how often it is tried again.
    pub retry: RetryPolicy,
    /// How long one call may take.
    pub call_timeout_ms: u32,
    /// How far it is.
    pub progress: Progress,
    /// Attempts of the present operation that have failed.
    pub attempts: u32,
    /// Whether its operation has an open row in `compensation_log`.
    pub logged: bool,
    /// Calls of its try that may have arrived. Only a branch that has none may be left without a cancel. Not durable:
    /// after a restart every branch may have been called.
    pub sent: u32,
    /// When the next thing happens by itself; of one in `compensation_log`, when its row is due. Not durable: after a
    /// restart everything is due at once.
    pub wake_at: Timestamp,
}

impl Branch {
    /// A branch that nothing has happened to.
    pub fn new(operations: Operations, after: &[u8], retry: RetryPolicy, call_timeout_ms: u32) -> Self {
        Self {
            operations,
            after: after.into(),
            retry,
            call_timeout_ms,
            progress: Progress::Due,
            attempts: 0,
            logged: false,
            sent: 0,
            wake_at: Timestamp(0),
        }
    }

    /// Whether nothing remains to do for it in this phase.
    pub const fn finished(&self) -> bool {
        match self.progress {
            Progress::Done | Progress::Skipped => true,
            Progress::Due
            | Progress::Called
            | Progress::Delayed
            | Progress::Unreachable
            | Progress::Logged
            | Progress::Parked(_) => false,
        }
    }
}

/// A global transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tx {
    /// Its name.
    pub xid: Xid,
    /// Where it stands.
    pub status: Status,
    /// The initiator calls the tries itself, adds branches, and says when to commit.
    pub manual: bool,
    /// Past it an undecided transaction is cancelled. Of a prepared message: when the sender is asked.
    pub deadline: Timestamp,
    /// Why it is cancelled, if it is.
    pub cause: Option<Cause>,
    /// Its branches; at most [`BRANCHES_MAX`].
    pub branches: Vec<Branch>,
}

impl Tx {
    /// A transaction at its beginning. What `after` names must exist and be acyclic: the caller has checked.
    pub fn new(xid: Xid, manual: bool, deadline: Timestamp, branches: Vec<Branch>) -> Self {
        assert!(
            branches.len() <= BRANCHES_MAX && acyclic(&branches),
            "a plan is checked before it becomes a transaction"
        );
        let mut tx = Self { xid, status: Status::Trying, manual, deadline, cause: None, branches };
        for branch in &mut tx.branches {
            begin(branch, deadline);
        }
        tx
    }

    /// Makes of what was read from the store what may be driven again: all that could have been sent counts as sent,
    /// and all that is not in the log or parked is due, with all its quick attempts before it.
    pub fn recover(&mut self) {
        for branch in &mut self.branches {
            branch.sent = 1;
            match branch.progress {
                Progress::Called | Progress::Delayed | Progress::Unreachable | Progress::Due => {
                    branch.progress = Progress::Due;
                    branch.attempts = 0;
                    if self.status == Status::Trying {
                        begin(branch, self.deadline);
                    }
                }
                Progress::Done | Progress::Logged | Progress::Parked(_) | Progress::Skipped => {}
            }
        }
    }

    /// The operation that the present phase asks of a branch, if it has one.
    pub fn operation(&self, branch: u8) -> Option<Operation> {
        let operations = self.branches.get(usize::from(branch))?.operations;
        let of_phase = |operation: Operation| operations.has(operation).then_some(operation);
        match self.status {
            Status::Trying => of_phase(Operation::Ask).or_else(|| of_phase(Operation::Try)),
            Status::Confirming => of_phase(Operation::Confirm),
            Status::Cancelling => of_phase(Operation::Cancel),
            Status::Confirmed | Status::Cancelled => None,
        }
    }

    /// Whether a sender is asked how its local transaction ended; then no deadline can cancel it.
    pub fn asks(&self) -> bool {
        self.branches.iter().any(|branch| branch.operations.has(Operation::Ask))
    }

    /// When something happens by itself, `None` when nothing does: it has ended, or all its work waits for the scanner
    /// or for a person.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let deadline = (self.status == Status::Trying && !self.asks()).then_some(self.deadline);
        let branches = self.branches.iter().filter_map(|branch| match branch.progress {
            Progress::Called | Progress::Delayed | Progress::Unreachable => Some(branch.wake_at),
            // Due and not called yet: something else comes before it, and has its own time.
            Progress::Due | Progress::Done | Progress::Logged | Progress::Parked(_) | Progress::Skipped => None,
        });
        if self.status.ended() { None } else { branches.chain(deadline).min() }
    }

    /// Whether all the work that remains is in `compensation_log` or parked, or waits for such work: then the
    /// transaction needs neither an owner nor memory, and only the log's rows lead back to it.
    pub fn rests(&self) -> bool {
        let waits = |(index, branch): (usize, &Branch)| branch.finished() || branch.logged || !self.ready(index as u8);
        !self.status.ended() && (self.status.decided() || self.asks()) && self.branches.iter().enumerate().all(waits)
    }

    /// Whether all that has to come before a branch in this phase has come.
    pub(crate) fn ready(&self, index: u8) -> bool {
        let finished = |other: &u8| self.branches[usize::from(*other)].finished();
        match self.status {
            Status::Trying | Status::Confirming => self.branches[usize::from(index)].after.iter().all(finished),
            Status::Cancelling => self.branches.iter().all(|other| other.finished() || !other.after.contains(&index)),
            Status::Confirmed | Status::Cancelled => false,
        }
    }
}

/// Puts a branch at the start of the first phase.
fn begin(branch: &mut Branch, deadline: Timestamp) {
    (branch.progress, branch.wake_at) = if branch.operations.has(Operation::Ask) {
        (Progress::Delayed, deadline)
    } else if branch.operations.has(Operation::Try) {
        (Progress::Due, Timestamp(0))
    } else {
        (Progress::Skipped, Timestamp(0))
    };
}

/// Whether every `after` names a branch that exists and no branch comes, in the end, after itself (Kahn 1962).
pub fn acyclic(branches: &[Branch]) -> bool {
    let mut placed = alloc::vec![false; branches.len()];
    loop {
        let before = placed.iter().filter(|done| **done).count();
        for (index, branch) in branches.iter().enumerate() {
            placed[index] = branch.after.iter().all(|other| placed.get(usize::from(*other)) == Some(&true));
        }
        let after = placed.iter().filter(|done| **done).count();
        if after == branches.len() || after == before {
            return after == branches.len();
        }
    }
}
