//! Operations that ran out of time. An initiator who gives little learns it, and nobody else has to; a database that
//! hangs is said aloud, but not for each batch.

use std::time::Duration;

use tokio::time::Instant;

/// What takes longer than this hangs. Nothing is said more often either.
const HANGS: Duration = Duration::from_secs(1);

/// Of one database.
#[derive(Debug, Default)]
pub(super) struct Overruns {
    /// Since when nothing but running out of time has happened.
    since: Option<Instant>,
    said: Option<Instant>,
    unsaid: usize,
}

impl Overruns {
    /// Some operations came to their end.
    pub(super) const fn ended(&mut self) {
        self.since = None;
    }

    /// So many operations that began then ran out of time by now. How many did so since it was said last, with these,
    /// if it is to be said again: they took long, or nothing else has happened for long.
    pub(super) fn over(&mut self, operations: usize, begun: Instant, now: Instant) -> Option<usize> {
        let hang = now - begun >= HANGS || now - *self.since.get_or_insert(begun) >= HANGS;
        self.unsaid += operations;
        if !hang || self.said.is_some_and(|said| now - said < HANGS) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_time_is_nothing_to_say_and_a_database_that_hangs_is_said_once_a_second() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut overruns = Overruns::default();
        // Others end between them.
        for second in 0..10 {
            assert_eq!(overruns.over(3, at(1_000 * second), at(1_000 * second + 900)), None);
            overruns.ended();
        }
        // Each has little time, and nothing else happens.
        let said: Vec<_> =
            (0..12).map(|turn| overruns.over(2, at(20_000 + 200 * turn), at(20_200 + 200 * turn))).collect();
        let mut expected = [None; 12];
        (expected[4], expected[9]) = (Some(30 + 10), Some(10));
        assert_eq!(said, expected);
        // One has much time, and all of it passes.
        overruns.ended();
        assert_eq!(overruns.over(1, at(30_000), at(31_000)), Some(5));
        // By then it is another matter.
        overruns.ended();
        assert_eq!(overruns.over(1, at(40_000), at(40_900)), None);
    }
}
