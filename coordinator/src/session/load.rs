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

    /// Whether calls have waited for too long already: for more than the next answers, or for longer than they have
    /// left. A service that is merely slow takes all that wait with its next answer.
    pub(super) fn behind(&self, clock: &impl Clock) -> bool {
        let Some(oldest) = self.queue.front() else { return false };
        let waited_ms = clock.monotonic().saturating_sub(oldest.at).as_millis() as u64;
        let left_ms = || oldest.outgoing.call.not_after.ms_since(clock.now());
        waited_ms > limits::BEHIND_MS && (self.queue.len() > self.concurrency() || waited_ms > left_ms())
    }

    /// Drops what may no longer begin: the machine has given it up and calls again, or has gone.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        self.queue.retain(|queued| queued.outgoing.call.not_after > now);
        self.sweep_at = (2 * self.queue.len()).max(SWEEP_MIN);
    }
}
