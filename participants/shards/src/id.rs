//! Ids of 63 bits: 41 of milliseconds since 2026, 7 of the node, 5 of a sequence, 10 of the slot.
//!
//! A node writes only times into ids that lie within its lease, and the leases of one node never overlap. So no two ids
//! are equal, however long a process was frozen and whatever its clock says: the check is of the id itself, not of the
//! moment at which it is made.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::slot::{SLOT_BITS, SLOTS, Slot};

const SEQUENCE_BITS: u32 = 5;
const NODE_BITS: u32 = 7;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;

/// How many nodes there are.
pub(crate) const NODES: u8 = 1 << NODE_BITS;

/// 2026-01-01T00:00:00Z. The last id is made in the year 2095.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// How long somebody waits for an id.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Between two looks for a lease.
const LEASE_POLL: Duration = Duration::from_millis(10);

/// Why there is no id. Answer that the system is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No node id could be leased: the database does not answer, or all are taken.
    #[error("there is no lease on a node id")]
    NoLease,
    /// Too many ids of one slot at once.
    #[error("slot {0:?} has no more ids at the moment")]
    Exhausted(Slot),
}

/// What an id says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// When it was made, in milliseconds since 1970; after a clock was set back, up to that much later.
    pub time_ms: i64,
    /// By whom.
    pub node: u8,
    /// Counts the ids of one slot, node and millisecond.
    pub sequence: u8,
    /// For whom.
    pub slot: Slot,
}

impl Parts {
    /// What this id says.
    pub const fn of(id: i64) -> Self {
        let bits = id.cast_unsigned() >> SLOT_BITS;
        Self {
            time_ms: (bits >> (SEQUENCE_BITS + NODE_BITS)).cast_signed() + EPOCH_MS,
            node: (bits >> SEQUENCE_BITS) as u8 & (NODES - 1),
            sequence: (bits & SEQUENCE_MASK) as u8,
            slot: Slot::of_id(id),
        }
    }
}

const fn compose(ticks: u64, node: u8, slot: Slot) -> i64 {
    let ms = ticks >> SEQUENCE_BITS;
    let above = ms << NODE_BITS | node as u64;
    ((above << SEQUENCE_BITS | ticks & SEQUENCE_MASK) << SLOT_BITS | slot.number() as u64).cast_signed()
}

/// What a lease allows: a node, and the times that it may write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) node: u8,
    /// The first.
    pub(crate) floor_ms: i64,
    /// When the floor was given.
    pub(crate) since: Instant,
    /// The first that it may not.
    pub(crate) until_ms: i64,
    /// A reading of the database's clock, and when it was taken.
    pub(crate) clock: (i64, Instant),
}

impl Window {
    /// The time to write now. Where the clock is behind what others may have written (it was set back, or the last
    /// holder died), time goes on from there at half its speed until the clock has caught up.
    pub(crate) fn now_ms(&self, now: Instant) -> i64 {
        let since = |then: Instant| now.saturating_duration_since(then).as_millis() as i64;
        (self.clock.0 + since(self.clock.1)).max(self.floor_ms + since(self.since) / 2)
    }
}

/// Why there is no id yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The slot has no more in this millisecond.
    Millisecond,
    /// The lease has ended, or has not begun.
    Lease,
}

/// Makes ids, rising in each slot, while somebody [keeps](crate::node::Keeper) the lease.
#[derive(Debug)]
pub struct Ids {
    window: RwLock<Option<Window>>,
    /// The last millisecond and sequence of each slot, as one number: counting on leads into the next millisecond.
    last: Vec<AtomicU64>,
}

impl Ids {
    pub(crate) fn new() -> Self {
        Self { window: RwLock::new(None), last: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn set(&self, window: Option<Window>) {
        *self.window.write().unwrap_or_else(PoisonError::into_inner) = window;
    }

    /// The first millisecond that no id has.
    pub(crate) fn unused_ms(&self) -> i64 {
        let last = self.last.iter().map(|last| last.load(Ordering::SeqCst)).max().unwrap_or(0);
        (last >> SEQUENCE_BITS).cast_signed() + EPOCH_MS + 1
    }

    pub(crate) fn try_next(&self, slot: Slot, now: Instant) -> Result<i64, Wait> {
        // Held to the end, so that whoever ends the window knows the last id.
        let window = self.window.read().unwrap_or_else(PoisonError::into_inner);
        let window = window.as_ref().ok_or(Wait::Lease)?;
        let ticks = |ms: i64| u64::try_from(ms - EPOCH_MS).unwrap_or(0) << SEQUENCE_BITS;
        let (now, until) = (ticks(window.now_ms(now)), ticks(window.until_ms));
        let last = &self.last[slot.number()];
        let mut before = last.load(Ordering::SeqCst);
        loop {
            let next = (before + 1).max(now);
            if next >= until {
                return Err(Wait::Lease);
            }
            if next > now | SEQUENCE_MASK {
                return Err(Wait::Millisecond);
            }
            match last.compare_exchange_weak(before, next, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Ok(compose(next, window.node, slot)),
                Err(other) => before = other,
            }
        }
    }

    /// The database's clock, in milliseconds since 1970, behind by the time of one answer. `None` without a lease.
    pub fn clock_ms(&self) -> Option<i64> {
        let window = self.window.read().unwrap_or_else(PoisonError::into_inner);
        window.as_ref().map(|window| window.clock.0 + window.clock.1.elapsed().as_millis() as i64)
    }

    /// The next id of a slot. Waits where the slot has no more in this millisecond, or the lease is being renewed.
    ///
    /// # Errors
    /// Those of [`Error`], after 2 seconds.
    pub async fn next(&self, slot: Slot) -> Result<i64, Error> {
        let begun = Instant::now();
        loop {
            let now = Instant::now();
            let wait = match self.try_next(slot, now) {
                Ok(id) => return Ok(id),
                Err(wait) => wait,
            };
            if now - begun >= WAIT_MAX {
                return Err(match wait {
                    Wait::Millisecond => Error::Exhausted(slot),
                    Wait::Lease => Error::NoLease,
                });
            }
            tokio::time::sleep(if wait == Wait::Lease { LEASE_POLL } else { Duration::from_millis(1) }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    fn ids(node: u8, from_ms: i64, until_ms: i64) -> (Ids, Instant) {
        let (ids, now) = (Ids::new(), Instant::now());
        ids.set(Some(Window { node, floor_ms: from_ms, since: now, until_ms, clock: (from_ms, now) }));
        (ids, now)
    }

    #[test]
    fn an_id_says_when_by_whom_and_for_whom_it_was_made() {
        let from_ms = EPOCH_MS + (1 << 41) - 2;
        let (ids, now) = ids(127, from_ms, from_ms + 1);
        let made: Vec<i64> = (0..32).map(|_| ids.try_next(slot(1_023), now).unwrap()).collect();
        let parts = |sequence| Parts { time_ms: from_ms, node: 127, sequence, slot: slot(1_023) };
        assert_eq!(made.iter().map(|id| Parts::of(*id)).collect::<Vec<_>>(), (0..32).map(parts).collect::<Vec<_>>());
        assert!(made.iter().all(|id| *id > 0) && made.is_sorted());
    }

    #[test]
    fn a_slot_waits_for_the_next_millisecond_when_it_has_no_more() {
        let (ids, now) = ids(1, EPOCH_MS + 5, EPOCH_MS + 100);
        for _ in 0..32 {
            ids.try_next(slot(3), now).unwrap();
        }
        assert_eq!(ids.try_next(slot(3), now), Err(Wait::Millisecond));
        assert!(ids.try_next(slot(4), now).is_ok(), "the others have their own");
        let next = ids.try_next(slot(3), now + Duration::from_millis(1)).unwrap();
        assert_eq!((Parts::of(next).time_ms, Parts::of(next).sequence), (EPOCH_MS + 6, 0));
    }

    #[test]
    fn no_time_outside_the_lease_is_written_however_late_it_is() {
        let (ids, now) = ids(1, EPOCH_MS + 5, EPOCH_MS + 7);
        assert!(ids.try_next(slot(3), now + Duration::from_millis(1)).is_ok());
        for late_ms in [2, 3, 3_600_000] {
            assert_eq!(ids.try_next(slot(3), now + Duration::from_millis(late_ms)), Err(Wait::Lease));
        }
        ids.set(None);
        assert_eq!(ids.try_next(slot(3), now), Err(Wait::Lease));
    }

    #[test]
    fn behind_its_floor_time_goes_at_half_its_speed_until_the_clock_has_caught_up() {
        let now = Instant::now();
        let floor_ms = EPOCH_MS + 1_000;
        let window = Window { node: 1, floor_ms, since: now, until_ms: i64::MAX, clock: (EPOCH_MS, now) };
        let at = |seconds| window.now_ms(now + Duration::from_secs(seconds)) - EPOCH_MS;
        assert_eq!([at(0), at(1), at(2), at(3)], [1_000, 1_500, 2_000, 3_000]);
    }
}
