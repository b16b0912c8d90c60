//! What happens next: `step()` alone knows the rules.

use alloc::vec::Vec;

use crate::Timestamp;
use crate::operate::{Act, act};
use crate::tx::{Branch, Cause, Operation, Parked, Progress, Status, Tx};

/// How long a confirm, a cancel or an ask waits in memory for its service to connect before it goes to the log.
pub const UNREACHABLE_PATIENCE_MS: u64 = 5_000;

/// What a participant answered. Only its own words make the first three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// It is done; asked: the local transaction did commit.
    Done,
    /// Final; asked: the local transaction did not commit and will not.
    Refused,
    /// Nothing was done; ask again after this long.
    NotNow {
        /// Milliseconds.
        delay_ms: u32,
    },
    /// Anything may have happened.
    Unknown,
    /// No instance is connected, and nothing was sent.
    Unreachable,
}

/// What can happen to a transaction. Any of them may come late, again, or never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed, or the transaction has just been made or read from the store.
    Woken,
    /// A call was answered.
    Replied {
        /// Of which branch.
        branch: u8,
        /// Which operation it answers.
        operation: Operation,
        /// Which attempt it answers.
        attempt: u32,
        /// The answer.
        reply: Reply,
    },
    /// A service that had no instance has one.
    Reachable {
        /// The branch that waits for it.
        branch: u8,
    },
    /// The scanner found a branch's row in `compensation_log` due.
    Retry {
        /// Which branch.
        branch: u8,
    },
    /// The initiator is about to call the try of one more branch.
    BranchAdded(Branch),
    /// The initiator wants it confirmed.
    CommitAsked,
    /// The initiator wants it cancelled.
    RollbackAsked,
    /// A person wants something.
    Operator(Act),
}

/// A call to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// Of which branch.
    pub branch: u8,
    /// Which operation.
    pub operation: Operation,
    /// Attempts that failed before this one.
    pub attempt: u32,
    /// The participant may not begin it later.
    pub not_after: Timestamp,
}

/// What becomes of a branch's row in `compensation_log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowStatus {
    /// The scanner calls the branch again at this time.
    Pending(Timestamp),
    /// The operation succeeded, or is no longer needed.
    Done,
    /// Parked.
    Failed,
}

/// A change to a row of `compensation_log`; belongs to the same write as the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Compensation {
    /// Of which branch.
    pub branch: u8,
    /// Which operation waits.
    pub operation: Operation,
    /// What becomes of it.
    pub status: RowStatus,
    /// Attempts so far.
    pub retry_count: u32,
}

/// What a timeline says of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// A branch said no.
    Refused(Operation, u8),
    /// A branch said not now.
    NotNow(Operation, u8),
    /// A call had no answer that says anything.
    Unknown(Operation, u8),
    /// No instance of the branch's service is connected.
    Unreachable(Operation, u8),
    /// The branch goes on through `compensation_log`.
    Logged(Operation, u8),
    /// The branch waits for a person.
    Parked(Operation, u8),
    /// A person had the branch called at once.
    Retried(Operation, u8),
    /// A person parked the branch.
    Held(Operation, u8),
    /// A person handed the parked branch back to the scanner.
    Resumed(Operation, u8),
    /// A person did by hand what the branch would not.
    Resolved(Operation, u8),
    /// A person gave the branch another retry policy.
    PolicySet(Operation, u8),
    /// Decided: confirm.
    Confirming,
    /// Decided: cancel, for the transaction's cause.
    Cancelling,
}

/// What one step wants done. Reuse it: [`Effects::clear`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The new state has to be durable, together with `compensations`, before any of `calls` is made or anyone is told.
    pub persist: bool,
    /// Calls to make.
    pub calls: Vec<Call>,
    /// Rows of `compensation_log` to write.
    pub compensations: Vec<Compensation>,
    /// What was out of the ordinary, for the timeline.
    pub notes: Vec<Note>,
    /// How many acts of a person were carried out. What did not apply did not count.
    pub acted: u32,
}

impl Effects {
    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.persist = false;
        self.calls.clear();
        self.compensations.clear();
        self.notes.clear();
        self.acted = 0;
    }
}

/// Moves `tx` by one event and adds to `effects` what that wants done. Pure: the same arguments, the same result. An
/// event that is late or comes again is legal and changes nothing.
pub fn step(tx: &mut Tx, event: Event, now: Timestamp, effects: &mut Effects) {
    if tx.status.ended() {
        return;
    }
    let rested = tx.rests();
    expire(tx, now, effects);
    match (tx.status, event) {
        (Status::Trying | Status::Confirming | Status::Cancelling, Event::Woken) => wake(tx, now, effects),
        (
            Status::Trying | Status::Confirming | Status::Cancelling,
            Event::Replied { branch, operation, attempt, reply },
        ) => {
            if tx.operation(branch) == Some(operation) {
                replied(tx, branch, operation, (attempt, reply), now, effects);
            }
        }
        (Status::Trying | Status::Confirming | Status::Cancelling, Event::Reachable { branch }) => {
            call_again(tx, branch, Progress::Unreachable);
        }
        (Status::Trying | Status::Confirming | Status::Cancelling, Event::Retry { branch }) => {
            call_again(tx, branch, Progress::Logged);
        }
        (Status::Trying, Event::BranchAdded(branch)) => add(tx, branch, effects),
        (Status::Trying, Event::CommitAsked) => {
            if tx.manual || tx.asks() {
                decide(tx, Status::Confirming, effects);
            }
        }
        (Status::Trying, Event::RollbackAsked) => roll_back(tx, effects),
        (Status::Trying | Status::Confirming | Status::Cancelling, Event::Operator(wanted)) => {
            act(tx, wanted, now, effects);
        }
        (
            Status::Confirming | Status::Cancelling,
            Event::BranchAdded(_) | Event::CommitAsked | Event::RollbackAsked,
        )
        | (Status::Confirmed | Status::Cancelled, _) => {}
    }
    proceed(tx, now, effects);
    // What leaves memory has to be found again by its durable state alone.
    effects.persist |= !rested && tx.rests();
}

/// Cancels what is undecided at its deadline. Before anything else, so that a commit that comes too late loses.
fn expire(tx: &mut Tx, now: Timestamp, effects: &mut Effects) {
    if tx.status == Status::Trying && now >= tx.deadline && !tx.asks() {
        tx.cause = Some(Cause::Deadline);
        decide(tx, Status::Cancelling, effects);
    }
}

fn add(tx: &mut Tx, mut branch: Branch, effects: &mut Effects) {
    if tx.manual && tx.branches.len() < crate::BRANCHES_MAX {
        // The initiator calls it from now on: nothing to send, and everything may have arrived.
        branch.progress = Progress::Done;
        branch.sent = 1;
        tx.branches.push(branch);
        effects.persist = true;
    }
}

fn roll_back(tx: &mut Tx, effects: &mut Effects) {
    if tx.asks() {
        // The word of one thread is not enough: another may still commit. The question leaves a row that stops it.
        for branch in tx.branches.iter_mut().filter(|branch| branch.progress == Progress::Delayed) {
            branch.progress = Progress::Due;
        }
    } else {
        tx.cause = Some(Cause::RolledBack);
        decide(tx, Status::Cancelling, effects);
    }
}

/// Something that was due by time: an answer that did not come, a delay that is over.
fn wake(tx: &mut Tx, now: Timestamp, effects: &mut Effects) {
    for index in 0..tx.branches.len() as u16 {
        let index = index as u8;
        let branch = &mut tx.branches[usize::from(index)];
        if branch.wake_at > now {
            continue;
        }
        match branch.progress {
            Progress::Called => {
                if let Some(operation) = tx.operation(index) {
                    effects.notes.push(Note::Unknown(operation, index));
                    failed(tx, index, operation, 0, now, effects);
                }
            }
            Progress::Delayed => branch.progress = Progress::Due,
            Progress::Unreachable => {
                if let Some(operation) = tx.operation(index) {
                    log(tx, index, operation, now, effects);
                }
            }
            Progress::Due | Progress::Done | Progress::Logged | Progress::Parked(_) | Progress::Skipped => {}
        }
    }
}

fn replied(
    tx: &mut Tx,
    index: u8,
    operation: Operation,
    (attempt, reply): (u32, Reply),
    now: Timestamp,
    effects: &mut Effects,
) {
    let branch = &mut tx.branches[usize::from(index)];
    if branch.finished() {
        return;
    }
    // A final word counts whenever it comes; anything else only for the call that waits for it.
    let awaited = branch.progress == Progress::Called && branch.attempts == attempt;
    match reply {
        Reply::Done => {
            // Out of the log, or out of parking, in the store as well.
            effects.persist |= matches!(branch.progress, Progress::Logged | Progress::Parked(_)) || branch.logged;
            close_row(branch, index, operation, effects);
            branch.progress = Progress::Done;
        }
        Reply::Refused => {
            if matches!(branch.progress, Progress::Parked(_)) {
                return;
            }
            effects.notes.push(Note::Refused(operation, index));
            match operation {
                Operation::Try | Operation::Ask => {
                    tx.cause = Some(Cause::Refused { branch: index });
                    decide(tx, Status::Cancelling, effects);
                }
                Operation::Confirm | Operation::Cancel => park(tx, index, operation, Parked::Refused, effects),
            }
        }
        Reply::NotNow { delay_ms } => {
            if awaited {
                effects.notes.push(Note::NotNow(operation, index));
                failed(tx, index, operation, delay_ms, now, effects);
            }
        }
        Reply::Unknown => {
            if awaited {
                effects.notes.push(Note::Unknown(operation, index));
                failed(tx, index, operation, 0, now, effects);
            }
        }
        Reply::Unreachable => {
            if awaited {
                unreachable(tx, index, operation, now, effects);
            }
        }
    }
}

/// An attempt has failed. `delay_ms`: the participant wants at least this much time.
fn failed(tx: &mut Tx, index: u8, operation: Operation, delay_ms: u32, now: Timestamp, effects: &mut Effects) {
    let xid = tx.xid;
    let branch = &mut tx.branches[usize::from(index)];
    branch.attempts = branch.attempts.saturating_add(1);
    let quick = branch.attempts < branch.retry.quick_attempts && !branch.logged;
    // A try is bounded by the deadline alone.
    if operation == Operation::Try || quick {
        branch.progress = Progress::Delayed;
        let delay_ms = branch.retry.delay_ms(xid, index, branch.attempts).max(delay_ms.into());
        branch.wake_at = now.after_ms(delay_ms);
    } else if branch.attempts < branch.retry.attempts {
        log(tx, index, operation, now.after_ms(delay_ms.into()), effects);
    } else {
        park(tx, index, operation, Parked::Exhausted, effects);
    }
}

/// Nothing was sent, so it is no attempt.
fn unreachable(tx: &mut Tx, index: u8, operation: Operation, now: Timestamp, effects: &mut Effects) {
    let branch = &mut tx.branches[usize::from(index)];
    branch.sent = branch.sent.saturating_sub(1);
    if branch.logged {
        // Its row is there: the scanner comes again when the lease on it ends.
        branch.progress = Progress::Logged;
        return;
    }
    effects.notes.push(Note::Unreachable(operation, index));
    branch.progress = Progress::Unreachable;
    branch.wake_at = match operation {
        Operation::Try => Timestamp::MAX,
        Operation::Confirm | Operation::Cancel | Operation::Ask => now.after_ms(UNREACHABLE_PATIENCE_MS),
    };
}

/// Hands a branch over to the scanner.
fn log(tx: &mut Tx, index: u8, operation: Operation, not_before: Timestamp, effects: &mut Effects) {
    let xid = tx.xid;
    let branch = &mut tx.branches[usize::from(index)];
    branch.progress = Progress::Logged;
    branch.logged = true;
    let next = not_before.after_ms(branch.retry.delay_ms(xid, index, branch.attempts));
    branch.wake_at = next;
    row(branch, (index, operation), RowStatus::Pending(next), effects);
    effects.notes.push(Note::Logged(operation, index));
    effects.persist = true;
}

fn park(tx: &mut Tx, index: u8, operation: Operation, why: Parked, effects: &mut Effects) {
    let branch = &mut tx.branches[usize::from(index)];
    branch.progress = Progress::Parked(why);
    branch.logged = true;
    row(branch, (index, operation), RowStatus::Failed, effects);
    effects.notes.push(Note::Parked(operation, index));
    effects.persist = true;
}

/// Writes the branch's row in the log.
pub(crate) fn row(branch: &Branch, (index, operation): (u8, Operation), status: RowStatus, effects: &mut Effects) {
    let retry_count = branch.attempts;
    effects.compensations.push(Compensation { branch: index, operation, status, retry_count });
}

/// Closes the branch's row in the log, if it has one.
pub(crate) fn close_row(branch: &mut Branch, index: u8, operation: Operation, effects: &mut Effects) {
    if branch.logged {
        branch.logged = false;
        row(branch, (index, operation), RowStatus::Done, effects);
    }
}

fn call_again(tx: &mut Tx, index: u8, waits: Progress) {
    if let Some(branch) = tx.branches.get_mut(usize::from(index))
        && branch.progress == waits
    {
        branch.progress = Progress::Due;
    }
}

/// Decides the outcome and puts every branch at the start of the second phase.
pub(crate) fn decide(tx: &mut Tx, status: Status, effects: &mut Effects) {
    for index in 0..tx.branches.len() as u16 {
        let index = index as u8;
        let first = tx.operation(index);
        let branch = &mut tx.branches[usize::from(index)];
        if let Some(operation) = first {
            close_row(branch, index, operation, effects);
        }
        let needed = match status {
            Status::Confirming => branch.operations.has(Operation::Confirm),
            Status::Cancelling => branch.operations.has(Operation::Cancel) && branch.sent > 0,
            Status::Trying | Status::Confirmed | Status::Cancelled => false,
        };
        branch.progress = if needed { Progress::Due } else { Progress::Skipped };
        branch.attempts = 0;
    }
    effects.notes.push(if status == Status::Confirming { Note::Confirming } else { Note::Cancelling });
    effects.persist = true;
    // Calls of the first phase that this step was about to make would only be in the way.
    effects.calls.clear();
    tx.status = status;
}

/// Does what is possible now: decides, calls, ends.
fn proceed(tx: &mut Tx, now: Timestamp, effects: &mut Effects) {
    if tx.status == Status::Trying {
        let tried = tx.branches.iter().all(Branch::finished);
        if tried && !tx.manual {
            decide(tx, Status::Confirming, effects);
        }
    }
    for index in 0..tx.branches.len() as u16 {
        let index = index as u8;
        let due = tx.branches[usize::from(index)].progress == Progress::Due && tx.ready(index);
        if let (true, Some(operation)) = (due, tx.operation(index)) {
            call(tx, index, operation, now, effects);
        }
    }
    let finished = tx.branches.iter().all(Branch::finished);
    tx.status = match tx.status {
        Status::Confirming if finished => Status::Confirmed,
        Status::Cancelling if finished => Status::Cancelled,
        Status::Trying | Status::Confirming | Status::Cancelling | Status::Confirmed | Status::Cancelled => tx.status,
    };
    effects.persist |= tx.status.ended();
}

fn call(tx: &mut Tx, index: u8, operation: Operation, now: Timestamp, effects: &mut Effects) {
    let branch = &mut tx.branches[usize::from(index)];
    branch.progress = Progress::Called;
    branch.sent = branch.sent.saturating_add(1);
    branch.wake_at = now.after_ms(branch.call_timeout_ms.into());
    let not_after = match operation {
        Operation::Try => branch.wake_at.min(tx.deadline),
        Operation::Confirm | Operation::Cancel | Operation::Ask => branch.wake_at,
    };
    effects.calls.push(Call { branch: index, operation, attempt: branch.attempts, not_after });
}
