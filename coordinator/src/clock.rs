//! The one place that reads the system's time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tercet_core::Timestamp;
use tokio::time::Instant;

/// Tells the time. Never goes back.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;

    /// From here on it is at least `floor`, because a time like that has been stored. A clock that somebody moves by
    /// hand may ignore it.
    fn raise(&self, _floor: Timestamp) {}

    /// Time since some moment that stays the same, for measuring.
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.now().0)
    }
}

/// Ends when `clock` shows `at`, at once if that has passed.
pub async fn sleep_until(clock: &impl Clock, at: Timestamp) {
    let wait_ms = at.ms_since(clock.now());
    if wait_ms > 0 {
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

/// The system's time at the start of the process, and from then on the monotonic time that has passed: setting the
/// system's clock moves nothing. Clones are one clock.
#[derive(Clone, Debug)]
pub struct SystemClock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    /// Milliseconds since 1970 at `start`.
    start_ms: AtomicU64,
}

impl SystemClock {
    /// A clock that shows the system's time.
    #[expect(clippy::disallowed_methods, reason = "the place where the system's time comes in")]
    pub fn start() -> Self {
        // A system whose time lies before 1970 has no time: counting starts at 0.
        let start_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Self::at(Timestamp(start_ms))
    }

    /// A clock that shows `now` and goes on from there, for simulations of processes whose system tells a wrong time.
    pub fn at(now: Timestamp) -> Self {
        Self { shared: Arc::new(Shared { start: Instant::now(), start_ms: AtomicU64::new(now.0) }) }
    }

    fn passed_ms(&self) -> u64 {
        self.shared.start.elapsed().as_millis() as u64
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.shared.start_ms.load(Ordering::Relaxed) + self.passed_ms())
    }

    fn raise(&self, floor: Timestamp) {
        self.shared.start_ms.fetch_max(floor.0.saturating_sub(self.passed_ms()), Ordering::Relaxed);
    }

    fn monotonic(&self) -> Duration {
        self.shared.start.elapsed()
    }
}

/// A clock that stands until it is moved, for tests and simulations. Clones are one clock.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now_ms: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self { now_ms: Arc::new(AtomicU64::new(now.0)) }
    }

    /// Moves it forward.
    pub fn pass_ms(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now_ms.load(Ordering::Relaxed))
    }

    fn raise(&self, floor: Timestamp) {
        self.now_ms.fetch_max(floor.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_raised_and_never_lowered() {
        let clock = SystemClock::start();
        let far = clock.now().after_ms(60_000);
        clock.raise(far);
        assert!(clock.now() >= far && clock.now() < far.after_ms(30_000));
        clock.raise(Timestamp(1));
        assert!(clock.clone().now() >= far);
    }
}
