//! What a transaction will do if nothing comes before: the machine itself is asked, on a copy.

use crate::Timestamp;
use crate::step::{Call, Effects, Event, Reply, RowStatus, step};
use crate::tx::{Branch, Operation, Progress, Status, Tx};

/// More than the calls that a transaction makes before something else happens, when none of them can be made.
const TURNS_MAX: u32 = 1_000;

/// What happens next by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it has ended.
    Ended,
    /// Nothing: this parked branch waits for a person.
    Person {
        /// Which branch.
        branch: u8,
    },
    /// At this time, by the driver.
    Woken {
        /// When.
        at: Timestamp,
        /// What.
        what: What,
    },
    /// By the scanner, when it looks at this time.
    Scanned {
        /// When.
        at: Timestamp,
        /// The branch whose row it is.
        branch: u8,
        /// What.
        what: What,
    },
    /// Nothing before the service of this branch can be called again: then the scanner does it.
    Service {
        /// The branch whose row it is.
        branch: u8,
        /// What.
        what: What,
    },
}

/// What a step does, the most important of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The outcome is decided.
    Decide(Status),
    /// A branch is called.
    Call(Operation, u8),
    /// A call without an answer counts as unknown; the branch is called again at this time.
    AskAgain(Operation, u8, Timestamp),
    /// A branch goes on through `compensation_log`; the scanner takes it from this time on.
    Log(Operation, u8, Timestamp),
    /// A branch is parked.
    Park(Operation, u8),
    /// Nothing that could be seen.
    Nothing,
}

/// What `tx` does next by itself, from `now` on. A branch in `compensation_log` has the time of its row in `wake_at`:
/// who has read the transaction from a store puts it there. `scan` says when the scanner takes the row of a branch that
/// is due from a time on; `None`: not as its service stands now. `reaches` says whether the service of a branch can be
/// called at all: a call that can not is no event, and what comes of it is.
pub fn next(
    tx: &Tx,
    now: Timestamp,
    scan: impl Fn(u8, Timestamp) -> Option<Timestamp>,
    reaches: impl Fn(u8) -> bool,
) -> Next {
    let (mut tx, mut now) = (tx.clone(), now);
    // Each turn leaves a branch less to be called, or an attempt.
    for _ in 0..TURNS_MAX {
        let next = next_try(&tx, now, &scan);
        let Next::Woken { at, what: What::Call(..) } = next else { return next };
        let at = at.max(now);
        let mut effects = Effects::default();
        step(&mut tx, Event::Woken, at, &mut effects);
        if let Some(call) = effects.calls.iter().find(|call| reaches(call.branch)) {
            return Next::Woken { at, what: What::Call(call.operation, call.branch) };
        }
        for Call { branch, operation, attempt, .. } in core::mem::take(&mut effects.calls) {
            let unheard = Event::Replied { branch, operation, attempt, reply: Reply::Unreachable };
            step(&mut tx, unheard, at, &mut effects);
        }
        if let Some(told) = told(&effects) {
            return Next::Woken { at, what: told };
        }
        now = at;
    }
    Next::Woken { at: now, what: What::Nothing }
}

/// The same, where every service can be called.
fn next_try(tx: &Tx, now: Timestamp, scan: impl Fn(u8, Timestamp) -> Option<Timestamp>) -> Next {
    if tx.status.ended() {
        return Next::Ended;
    }
    let due = |(index, branch): (usize, &Branch)| branch.progress == Progress::Due && tx.ready(index as u8);
    // Just read from the store, it is due at once.
    let at_once = tx.branches.iter().enumerate().any(due).then_some(now);
    let woken = at_once.or_else(|| tx.wake_at());
    let logged = |(_, branch): &(usize, &Branch)| branch.progress == Progress::Logged;
    let rows = || tx.branches.iter().enumerate().filter(logged).map(|(index, branch)| (branch.wake_at, index as u8));
    let scanned = rows().filter_map(|(due, branch)| Some((scan(branch, due.max(now))?, branch))).min();
    match (woken, scanned) {
        (Some(at), None) => Next::Woken { at, what: what(tx, Event::Woken, at.max(now)) },
        (Some(at), Some((row, _))) if at <= row => Next::Woken { at, what: what(tx, Event::Woken, at.max(now)) },
        (_, Some((at, branch))) => Next::Scanned { at, branch, what: what(tx, Event::Retry { branch }, at.max(now)) },
        (None, None) => {
            if let Some((due, branch)) = rows().min() {
                return Next::Service { branch, what: what(tx, Event::Retry { branch }, due.max(now)) };
            }
            let parked = tx.branches.iter().position(|branch| matches!(branch.progress, Progress::Parked(_)));
            // What does not end, is not due and is in no log waits for a parked branch.
            Next::Person { branch: parked.unwrap_or_default() as u8 }
        }
    }
}

/// What is written in `compensation_log`.
fn told(effects: &Effects) -> Option<What> {
    effects.compensations.first().map(|change| match change.status {
        RowStatus::Pending(again) => What::Log(change.operation, change.branch, again),
        RowStatus::Failed => What::Park(change.operation, change.branch),
        RowStatus::Done => What::Nothing,
    })
}

fn what(tx: &Tx, event: Event, at: Timestamp) -> What {
    let mut after = tx.clone();
    let mut effects = Effects::default();
    step(&mut after, event, at, &mut effects);
    if after.status != tx.status {
        return What::Decide(after.status);
    }
    if let Some(call) = effects.calls.first() {
        return What::Call(call.operation, call.branch);
    }
    if let Some(told) = told(&effects) {
        return told;
    }
    let moved = tx.branches.iter().zip(&after.branches).position(|(before, after)| before != after);
    let moved = moved.and_then(|index| Some((tx.operation(index as u8)?, index as u8, after.branches[index].wake_at)));
    moved.map_or(What::Nothing, |(operation, index, again)| What::AskAgain(operation, index, again))
}
