//! What is due: the timers of transactions, and the patience of those who wait for the store.

use std::cmp::Reverse;

use tercet_core::{Event, Timestamp};

use super::Driver;
use crate::caller::Caller;
use crate::clock::Clock;
use crate::store::Store;

impl<S: Store, C: Caller, K: Clock + Clone> Driver<S, C, K> {
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
