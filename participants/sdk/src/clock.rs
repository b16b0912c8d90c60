//! The coordinator's clock, as a participant knows it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The store's clock, from what heartbeats say. It is behind by the shortest time that a heartbeat took.
#[derive(Debug, Default)]
pub(crate) struct StoreClock(Mutex<Option<(u64, Instant)>>);

impl StoreClock {
    /// Takes a reading that has just come.
    pub(crate) fn read(&self, now_ms: u64) {
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The reading that took least on its way is the largest.
        if known.is_none_or(|(then_ms, then)| then_ms + millis(now - then) < now_ms) {
            *known = Some((now_ms, now));
        }
    }

    /// When it will show this; `None` before the first reading, or for what is too far off to matter.
    pub(crate) fn instant_of(&self, at_ms: u64) -> Option<Instant> {
        let (then_ms, then) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        match at_ms.checked_sub(then_ms) {
            Some(ahead_ms) => then.checked_add(Duration::from_millis(ahead_ms)),
            None => Some(then),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
