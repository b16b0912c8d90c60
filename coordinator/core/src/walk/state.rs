//! What the walk asks of a node and of a transaction, and makes of them.

use super::*;

/// What tells one branch of a plan from another.
pub(super) fn small(branch: &Branch) -> (u8, u32, bool, u32, u64, u32) {
    let progress = match branch.progress {
        Progress::Due => 0,
        Progress::Called => 1,
        Progress::Delayed => 2,
        Progress::Unreachable => 3,
        Progress::Done => 4,
        Progress::Logged => 5,
        Progress::Skipped => 6,
        Progress::Parked(Parked::Refused) => 7,
        Progress::Parked(Parked::Exhausted) => 8,
        Progress::Parked(Parked::ByPerson) => 9,
    };
    (progress, branch.attempts, branch.logged, branch.sent, branch.wake_at.0, branch.retry.attempts)
}

/// An honest initiator commits when every try that it called has succeeded.
pub(super) fn commits(node: &Node, tx: &Tx) -> bool {
    let tried = node.fences.iter().take(tx.branches.len()).all(|fence| *fence == Fence::Tried);
    tx.manual && tx.status == Status::Trying && tried
}

/// What a store keeps of a transaction.
pub(super) fn stored(tx: &Tx) -> Tx {
    let mut tx = tx.clone();
    for branch in &mut tx.branches {
        branch.progress = match branch.progress {
            Progress::Called | Progress::Delayed | Progress::Unreachable | Progress::Due if branch.logged => {
                Progress::Logged
            }
            Progress::Called | Progress::Delayed | Progress::Unreachable | Progress::Due => Progress::Due,
            Progress::Done | Progress::Logged | Progress::Parked(_) | Progress::Skipped => branch.progress,
        };
        branch.attempts = if branch.logged { branch.attempts } else { 0 };
        (branch.sent, branch.wake_at) = (0, Timestamp(0));
    }
    tx
}

pub(super) fn hash(key: &RandomState, node: &Node) -> u64 {
    key.hash_one(node)
}

pub(super) fn is_confirm(status: Status) -> bool {
    matches!(status, Status::Confirming | Status::Confirmed)
}

pub(super) fn is_cancel(status: Status) -> bool {
    matches!(status, Status::Cancelling | Status::Cancelled)
}

pub(super) fn expires(tx: &Tx, clock: u64) -> bool {
    tx.status == Status::Trying && clock >= DEADLINE
}

pub(super) fn status_of(node: &Node, tx: &Tx) -> Status {
    node.durable.as_ref().map_or(tx.status, |durable| durable.status)
}

/// The participant behind its fence: the truth table of the design.
pub(super) fn run(fence: Fence, operation: Operation, branch: &Branch, accepts: bool) -> (Fence, Reply) {
    let tries = branch.operations.has(Operation::Try);
    match (operation, fence) {
        (Operation::Try, Fence::None) if accepts => (Fence::Tried, Reply::Done),
        (Operation::Try, Fence::None) => (Fence::Refused, Reply::Refused),
        (Operation::Try, Fence::Tried | Fence::Confirmed) => (fence, Reply::Done),
        (Operation::Try, Fence::Cancelled | Fence::Refused) => (fence, Reply::Refused),
        (Operation::Confirm, Fence::None) if !tries => (Fence::Confirmed, Reply::Done),
        (Operation::Confirm, Fence::Tried) => (Fence::Confirmed, Reply::Done),
        (Operation::Confirm, Fence::Confirmed) => (fence, Reply::Done),
        (Operation::Confirm, Fence::None | Fence::Cancelled | Fence::Refused) => panic!("confirm of {fence:?}"),
        (Operation::Cancel, Fence::None | Fence::Tried) => (Fence::Cancelled, Reply::Done),
        (Operation::Cancel, Fence::Cancelled | Fence::Refused) => (fence, Reply::Done),
        (Operation::Cancel, Fence::Confirmed) => panic!("cancel of {fence:?}"),
        (Operation::Ask, Fence::None) => (Fence::Cancelled, Reply::Refused),
        (Operation::Ask, Fence::Confirmed) => (fence, Reply::Done),
        (Operation::Ask, Fence::Cancelled) => (fence, Reply::Refused),
        (Operation::Ask, Fence::Tried | Fence::Refused) => panic!("asked a branch that was tried"),
    }
}

pub(super) fn rows_after(mut rows: [Row; 3], changes: &[Compensation]) -> [Row; 3] {
    for change in changes {
        rows[usize::from(change.branch)] = match change.status {
            RowStatus::Pending(_) => Row::Pending,
            RowStatus::Done => Row::Done,
            RowStatus::Failed => Row::Failed,
        };
    }
    rows
}

/// What has nothing left to do by itself leaves memory.
pub(super) fn settle(mut node: Node) -> Node {
    if let Memory::Running(tx) = &node.memory
        && tx.wake_at().is_none()
    {
        node.memory = Memory::Empty;
    }
    node
}

/// Takes out what makes no difference, so that the walk ends.
pub(super) fn normal(mut tx: Tx) -> Tx {
    if let Some(Cause::Refused { branch }) = &mut tx.cause {
        *branch = 0;
    }
    for branch in &mut tx.branches {
        // Time-outs are 0 here, so whatever waits may end its wait at once, a try without a session excepted.
        branch.wake_at = if branch.wake_at == Timestamp::MAX { Timestamp::MAX } else { Timestamp(0) };
        let counts = !branch.finished() && (tx.status.decided() || branch.operations.has(Operation::Ask));
        branch.attempts = if counts { branch.attempts.min(2) } else { 0 };
        branch.sent = if tx.status == Status::Trying { branch.sent.min(2) } else { 1 };
    }
    tx
}
