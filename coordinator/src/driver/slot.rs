//! One transaction in the driver's memory, and whom it has to tell.

use std::collections::VecDeque;

use tercet_core::{Note, Operation, Progress, Timestamp};
use tercet_proto::admin::v1 as admin;
use tercet_proto::coordinator::v1 as pb;
use tracing::{error, info, warn};

use crate::config::LEASE_MS;
use crate::live::Live;
use crate::metrics;
use crate::request::{Added, Error, Input, Waiter};
use crate::scanner::Place;
use crate::store::CANARY_MODE;

/// A transaction, and what waits for its write.
pub(super) struct Slot {
    pub(super) live: Live,
    pub(super) digest: u64,
    /// A write is under way or queued; what comes in meanwhile waits in `backlog`.
    pub(super) writing: bool,
    pub(super) backlog: VecDeque<Input>,
    /// To be made once the write has succeeded.
    pub(super) calls: Vec<tercet_core::Call>,
    pub(super) waiters: Vec<Waiter>,
    /// Of its branches that the scanner woke, until their attempts are over.
    pub(super) places: Vec<(u8, Place)>,
    /// The earliest timer that is set for it.
    pub(super) timer: Timestamp,
    /// Nobody may begin anything for it after this: see [`Slot::grant`].
    not_after: Timestamp,
}

impl Slot {
    pub(super) fn new(live: Live, digest: u64) -> Self {
        // The sender of a message was told at once that it may commit until it is asked by itself.
        let not_after = if live.tx.asks() { live.tx.deadline } else { Timestamp(0) };
        Self {
            not_after,
            live,
            digest,
            writing: false,
            backlog: VecDeque::new(),
            calls: Vec::new(),
            waiters: Vec::new(),
            places: Vec::new(),
            timer: Timestamp::MAX,
        }
    }

    /// One that was read from the store. Whoever drove it before may not know yet that it is over, and calls until its
    /// own lease ends.
    pub(super) fn adopted(live: Live, now: Timestamp) -> Self {
        let mut slot = Self::new(live, 0);
        slot.grant(now.after_ms(LEASE_MS));
        slot
    }

    /// Until when somebody may begin something for it. The only way to tell anybody: whoever lets it be forgotten
    /// earlier lets it be done after its end.
    pub(super) fn grant(&mut self, not_after: Timestamp) -> Timestamp {
        self.not_after = self.not_after.max(not_after);
        not_after
    }

    /// After this no participant needs to remember it any more, once it has ended.
    pub(super) fn forget_after(&self) -> Timestamp {
        self.not_after
    }

    pub(super) fn canary(&self) -> bool {
        self.live.plan.mode == u32::from(CANARY_MODE)
    }

    /// Answers those whose moment has come. Only called when the state in memory is the durable one.
    pub(super) fn tell(&mut self) {
        let status = self.live.tx.status;
        let live = &self.live;
        for waiter in self.waiters.extract_if(.., |waiter| waiter.satisfied(status)) {
            match waiter {
                Waiter::View { answer, repeated, .. } => {
                    answer.send(Ok(pb::TransactionView { repeated, ..live.view() }));
                }
                Waiter::Added { added, answer } => {
                    let taken = (added.branch as usize) < live.tx.branches.len();
                    let refused = Error::AlreadyDecided { status };
                    Added::send(answer, if taken { Ok(added) } else { Err(refused) });
                }
                Waiter::Changed { difference, answer } => {
                    let transaction = Some(live.view());
                    // Whoever asked may have gone.
                    drop(answer.send(Ok(admin::Changed { difference: Some(*difference), transaction })));
                }
            }
        }
    }

    /// Lets the scanner have the places of those branches whose attempts are over.
    pub(super) fn free_places(&mut self) {
        if !self.places.is_empty() {
            let branches = &self.live.tx.branches;
            let called = |branch: u8| {
                branches.get(usize::from(branch)).is_some_and(|branch| branch.progress == Progress::Called)
            };
            self.places.retain(|(branch, _)| called(*branch));
        }
    }

    /// Answers everyone: it leaves memory, and nobody can say when it goes on.
    pub(super) fn tell_rest(&mut self) {
        for waiter in std::mem::take(&mut self.waiters) {
            if let Waiter::View { answer, repeated, .. } = waiter {
                answer.send(Ok(pb::TransactionView { repeated, ..self.live.view() }));
            }
        }
    }

    pub(super) fn fail(&mut self, error: impl Fn() -> Error) {
        for waiter in std::mem::take(&mut self.waiters) {
            match waiter {
                Waiter::View { answer, .. } => answer.send(Err(error())),
                Waiter::Added { answer, .. } => Added::send(answer, Err(error())),
                Waiter::Changed { answer, .. } => drop(answer.send(Err(error()))),
            }
        }
    }
}

/// Counts the retries of what succeeds now, if it needed any.
pub(super) fn count_retries(live: &Live, index: u8, operation: Operation) {
    let at = usize::from(index);
    if let (Some(branch), Some(plan)) = (live.tx.branches.get(at), live.plan.branches.get(at))
        && branch.attempts > 0
        && !branch.finished()
        && live.tx.operation(index) == Some(operation)
    {
        metrics::succeeded(&plan.service, operation, branch.attempts);
    }
}

/// Counts and logs what was out of the ordinary.
pub(super) fn observe(live: &Live, note: Note) {
    let service = |branch: u8| live.plan.branches.get(usize::from(branch)).map_or("?", |branch| &branch.service);
    match note {
        Note::Parked(operation, branch) => {
            metrics::parked(service(branch), operation);
            error!(xid = %live.tx.xid, branch, service = service(branch), operation = ?operation, "branch parked");
        }
        Note::Logged(operation, branch) => {
            metrics::logged(service(branch), operation);
            warn!(xid = %live.tx.xid, branch, service = service(branch), operation = ?operation, "branch logged");
        }
        Note::NotNow(operation, branch) | Note::Unknown(operation, branch) => {
            metrics::retried(service(branch), operation);
        }
        Note::Retried(operation, branch)
        | Note::Held(operation, branch)
        | Note::Resumed(operation, branch)
        | Note::Resolved(operation, branch)
        | Note::PolicySet(operation, branch) => {
            let service = service(branch);
            info!(xid = %live.tx.xid, branch, service, operation = ?operation, "a person acted: {note:?}");
        }
        Note::Refused(..) | Note::Unreachable(..) | Note::Confirming | Note::Cancelling => {}
    }
}
