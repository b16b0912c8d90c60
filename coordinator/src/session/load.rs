//! How busy services are: what they take, what waits for them, and who is behind.

use std::time::Duration;

use tercet_core::Timestamp;

use super::{SWEEP_MIN, Service, Sessions};
use crate::clock::Clock;
use crate::limits;
use crate::scanner::Room;

impl Sessions {
    /// How many calls each connected service takes, for retries: one that has just come back is not handed all at once
    /// what it missed, and one that answers nothing is handed nothing more.
    pub fn rooms(&self) -> Vec<Room> {
        let monotonic = self.clock.monotonic();
        let inner = self.lock();
        let connected = inner.participants().filter(|(_, service)| !service.sessions.is_empty());
        connected.map(|(name, service)| service.room(name, monotonic)).collect()
    }

    /// The first of these services that is behind with the calls that wait for it.
    pub fn behind<'a>(&self, mut services: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let inner = self.lock();
        let behind = |name: &str| inner.services.get(name).is_some_and(|one| one.behind(&self.clock));
        services.find(|name| behind(name))
    }
}

/// How quickly a service answers while calls wait for it: sums that forget, of about the last eight answers.
#[derive(Debug, Default)]
pub(super) struct Pace {
    seconds: f64,
    calls: f64,
}

impl Pace {
    /// So many calls were answered, so long after the answer before.
    pub(super) fn answered(&mut self, calls: usize, after: Duration) {
        const KEPT: f64 = 7.0 / 8.0;
        self.seconds = KEPT * self.seconds + after.as_secs_f64();
        self.calls = KEPT * self.calls + calls as f64;
    }

    /// How long one more would wait behind so many (Little's law). Nothing is known before the first answer.
    fn wait(&self, queued: usize) -> Duration {
        let each = self.seconds / self.calls.max(1.0);
        Duration::try_from_secs_f64(each * queued as f64).unwrap_or(Duration::MAX)
    }
}

impl Service {
    /// Calls that all its sessions together take.
    fn concurrency(&self) -> usize {
        self.sessions.iter().filter(|session| !session.leaving).map(|session| session.concurrency).sum()
    }

    fn room(&self, name: &str, monotonic: Duration) -> Room {
        let back_ms = monotonic.saturating_sub(self.back_at).as_millis() as u64;
        let ramped = self.concurrency() as u64 * back_ms.min(limits::RAMP_MS) / limits::RAMP_MS;
        let calls = if self.stuck(monotonic) || self.concurrency() == 0 { 0 } else { ramped.max(1) as usize };
        Room { service: name.to_owned(), calls, busy: self.queue.len() + self.outstanding() }
    }

    /// Calls that have no answer yet.
    pub(super) fn outstanding(&self) -> usize {
        self.sessions.iter().map(|session| session.outstanding).sum()
    }

    /// When the oldest batch without an answer was sent.
    pub(super) fn oldest_batch(&self) -> Option<Duration> {
        self.sessions.iter().flat_map(|session| &session.batches).map(|batch| batch.sent_at).min()
    }

    /// Whether no session has room and none has answered for long. One that had nothing to answer is not silent.
    pub(super) fn stuck(&self, monotonic: Duration) -> bool {
        let full = self.sessions.iter().all(|session| session.free().0 == 0);
        let silent = |since: Duration| monotonic.saturating_sub(since) > Duration::from_millis(limits::STUCK_MS);
        full && self.oldest_batch().is_some_and(|sent| silent(sent.max(self.answered_at)))
    }

    /// Whether calls that wait have waited, or one more would wait, for too long: for more than the next answers, or
    /// for longer than they have left. A service that is merely slow takes all that wait with its next answer.
    pub(super) fn behind(&self, clock: &impl Clock) -> bool {
        let Some(oldest) = self.queue.front() else { return false };
        let waited_ms = clock.monotonic().saturating_sub(oldest.at).as_millis() as u64;
        let left_ms = || oldest.outgoing.call.not_after.ms_since(clock.now());
        let most = Duration::from_millis(limits::BEHIND_MS);
        let late = waited_ms > limits::BEHIND_MS;
        let many = self.queue.len() > self.concurrency();
        many && (late || self.pace.wait(self.queue.len()) > most) || late && waited_ms > left_ms()
    }

    /// Takes what may no longer begin off the queue.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        let Self { queue, expired, .. } = self;
        queue.retain(|queued| {
            let waits = queued.outgoing.call.not_after > now;
            if !waits {
                expired.push(queued.outgoing.clone());
            }
            waits
        });
        self.sweep_at = (2 * self.queue.len()).max(SWEEP_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_as_long_as_its_service_takes_for_it() {
        let mut pace = Pace::default();
        assert_eq!(pace.wait(1_000), Duration::ZERO, "nothing is known yet");
        (0..20).for_each(|_| pace.answered(10, Duration::from_millis(50)));
        assert_eq!(pace.wait(20).as_millis().next_multiple_of(10), 100);
        (0..40).for_each(|_| pace.answered(100, Duration::from_millis(50)));
        assert!(pace.wait(20) < Duration::from_millis(15), "it has become quicker");
    }
}
