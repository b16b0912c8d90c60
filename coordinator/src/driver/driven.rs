//! Transactions that their initiators drive call by call: a branch more, the end.

use tercet_core::{Event, Timestamp, Xid};
use tercet_proto::coordinator::v1 as pb;

use super::Driver;
use crate::caller::Caller;
use crate::clock::Clock;
use crate::metrics;
use crate::plan::{Invalid, Plan};
use crate::request::{Added, Answer, End, Error, Waiter, Waits};
use crate::store::Store;

impl<S: Store, C: Caller, K: Clock + Clone> Driver<S, C, K> {
    pub(super) fn add_branch(
        &mut self,
        xid: Xid,
        (index, branch): (Option<u32>, pb::Branch),
        answer: tokio::sync::oneshot::Sender<Result<Added, Error>>,
        now: Timestamp,
    ) {
        let Some(slot) = self.slots.get_mut(&xid) else { return Added::send(answer, Err(Error::NotHere)) };
        let live = &slot.live;
        if live.tx.status.decided() {
            return Added::send(answer, Err(Error::AlreadyDecided { status: live.tx.status }));
        }
        if !live.tx.manual {
            return Added::send(answer, Err(Error::Declared));
        }
        let not_after = slot.grant(slot.live.tx.deadline.min(self.lease_end));
        let live = &slot.live;
        let count = live.tx.branches.len();
        let at = index.map_or(count, |index| index as usize);
        let branch = match Plan::added(&live.plan, at.min(count), branch) {
            Ok(branch) if at < count => {
                // A repeat of what is durable already.
                let same = live.plan.branches[at] == branch;
                let added = Added { branch: at as u32, not_after };
                return Added::send(
                    answer,
                    if same { Ok(added) } else { Err(Error::BranchDiffers { index: at as u32 }) },
                );
            }
            Ok(_) if at > count => {
                let limit = format!("at most {count}, the next one");
                return Added::send(answer, Err(Error::Invalid(Invalid { field: "index".into(), limit })));
            }
            Ok(branch) => branch,
            Err(invalid) => return Added::send(answer, Err(Error::Invalid(invalid))),
        };
        // Of what comes call by call only this shows which services it is with.
        let known = live.plan.branches.iter().any(|other| other.service == branch.service);
        if !known && let Some(error) = self.overloaded_service(std::slice::from_ref(&branch), Waits::Accepted) {
            metrics::overloaded(&error);
            return Added::send(answer, Err(error));
        }
        let Some(slot) = self.slots.get_mut(&xid) else { return };
        let branch = slot.live.plan_branch(branch);
        slot.waiters.push(Waiter::Added { added: Added { branch: count as u32, not_after }, answer });
        self.feed(xid, Event::BranchAdded(branch), now);
    }

    pub(super) fn finish(&mut self, xid: Xid, end: End, (wait, answer): (Waits, Answer), now: Timestamp) {
        let Some(slot) = self.slots.get_mut(&xid) else { return answer.send(Err(Error::NotHere)) };
        let event = match end {
            End::Commit if !slot.live.tx.manual && !slot.live.tx.asks() => {
                return answer.send(Err(Error::Declared));
            }
            End::Commit => Event::CommitAsked,
            End::Rollback { reason } => {
                slot.live.roll_back(reason);
                Event::RollbackAsked
            }
        };
        slot.waiters.push(Waiter::View { wait, answer, repeated: false });
        self.feed(xid, event, now);
    }
}
