//! The coordinator's clock, as a participant knows it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The store's clock, from what heartbeats say. It is behind by the shortest time that a heartbeat took.
#[derive(Debug, Default)]
pub(crate) struct StoreClock(Mutex<Option<(u64, Instant)>>);

impl StoreClock {
    /// Takes the first reading of a session. It counts whatever was known: a coordinator whose system's clock was set
    /// back while it was down starts behind what its last start told, and is right by its own calls.
    pub(crate) fn begin(&self, now_ms: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now_ms, Instant::now()));
    }

    /// Takes a reading that has just come.
    pub(crate) fn read(&self, now_ms: u64) {
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The reading that took least on its way is the largest.
        if known.is_none_or(|(then_ms, then)| then_ms + millis(now - then) < now_ms) {
            *known = Some((now_ms, now));
        }
    }

    /// Whether it is past this for certain.
    pub(crate) fn has_passed(&self, at_ms: u64) -> bool {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.is_some_and(|(then_ms, then)| then_ms + millis(then.elapsed()) > at_ms)
    }

    /// When it will show this; `None` before the first reading.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_reading_that_took_least_counts() {
        let clock = StoreClock::default();
        assert_eq!(clock.instant_of(5), None);
        let start = Instant::now();
        clock.read(1_000);
        tokio::time::advance(Duration::from_millis(50)).await;
        let at_1_100 = |ms| Some(start + Duration::from_millis(ms));
        // One that was held up says less than is known.
        clock.read(1_020);
        assert_eq!(clock.instant_of(1_100), at_1_100(100));
        clock.read(1_080);
        assert_eq!(clock.instant_of(1_100), at_1_100(70));
        assert_eq!(clock.instant_of(1_000), at_1_100(50), "what is past is past");
        assert!(clock.has_passed(1_079) && !clock.has_passed(1_080));
        // A coordinator that starts again with less is believed.
        clock.begin(900);
        assert!(clock.has_passed(899) && !clock.has_passed(900));
    }
}
