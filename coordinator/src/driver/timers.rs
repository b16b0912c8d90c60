//! What is due: the timers of transactions, and the patience of those who wait for the store.

use std::cmp::Reverse;

use tercet_core::{Event, Timestamp};

use super::Driver;
use crate::caller::Caller;
use crate::clock::Clock;
use crate::limits;
use crate::store::Store;

impl<S: Store, C: Caller, K: Clock + Clone> Driver<S, C, K> {
    /// Lets go of the timers of what is over: a deadline may be a day away, and what has it ends in milliseconds.
    pub(super) fn prune_timers(&mut self) {
        if self.timers.len() > 2 * self.slots.len() + limits::TIMERS_SPARE {
            let set = self.slots.iter().filter(|(_, slot)| slot.timer < Timestamp::MAX);
            self.timers = set.map(|(xid, slot)| Reverse((slot.timer, *xid))).collect();
        }
    }

    /// Does all that is due now.
    pub(super) fn fire(&mut self, now: Timestamp) {
        if now >= self.silence.at {
            self.tell_silence(now);
        }
        while let Some(Reverse((at, xid))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(slot) = self.slots.get_mut(&xid) else { continue };
            if slot.timer == at {
                slot.timer = Timestamp::MAX;
            }
            if slot.writing {
                // Whatever the write leads to sets the timer again.
                continue;
            }
            match slot.live.tx.wake_at() {
                Some(due) if due <= now => self.feed(xid, Event::Woken, now),
                Some(_) | None => self.settle(xid),
            }
        }
    }
}
