//! How busy services are: what they take, what waits for them, and who is behind.

use std::time::Duration;

use tercet_core::Timestamp;

use super::{SWEEP_MIN, Service, Session, Sessions};
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

impl Session {
    /// Batches and calls that it has room for. None at all when it takes no more.
    pub(super) fn free(&self) -> (usize, usize) {
        let calls = self.concurrency.saturating_sub(self.outstanding);
        if self.leaving || calls == 0 { (0, 0) } else { (self.window.saturating_sub(self.batches.len()), calls) }
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
    use std::sync::Arc;

    use bytes::Bytes;
    use tercet_core::{Call, Operation, Reply, Xid};
    use tercet_proto::participant::v1 as pb;
    use tercet_proto::store::v1::{Branch, Plan};
    use tokio::sync::mpsc;
    use tonic::Status;

    use super::*;
    use crate::caller::{Caller as _, Outgoing};
    use crate::clock::SystemClock;
    use crate::session::SessionId;

    #[test]
    fn a_queue_is_as_long_as_its_service_takes_for_it() {
        let mut pace = Pace::default();
        assert_eq!(pace.wait(1_000), Duration::ZERO, "nothing is known yet");
        (0..20).for_each(|_| pace.answered(10, Duration::from_millis(50)));
        assert_eq!(pace.wait(20).as_millis().next_multiple_of(10), 100);
        (0..40).for_each(|_| pace.answered(100, Duration::from_millis(50)));
        assert!(pace.wait(20) < Duration::from_millis(15), "it has become quicker");
    }

    /// A session of the service "shop" with room for one call, and for one message.
    fn open(sessions: &Sessions) -> (SessionId, mpsc::Receiver<Result<pb::OpenResponse, Status>>) {
        let (down, messages) = mpsc::channel(1);
        let register = pb::Register { service: "shop".into(), window: 1, concurrency: 1, ..pb::Register::default() };
        let (id, _) = sessions.add(&register, down, None).expect("there is room");
        (id, messages)
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_waited_for_too_long_is_answered_as_not_sent() {
        let clock = SystemClock::start();
        let mut sessions = Sessions::new(clock.clone());
        let (id, mut messages) = open(&sessions);
        let branch = Branch { service: "shop".into(), ..Branch::default() };
        let plan = Arc::new(Plan { branches: vec![branch], ..Plan::default() });
        let not_after = clock.now().after_ms(100);
        for attempt in [0, 1] {
            let call = Call { branch: 0, operation: Operation::Confirm, attempt, not_after };
            assert!(sessions.call(Outgoing { xid: Xid([0; 16]), plan: Arc::clone(&plan), call }));
        }
        assert!(sessions.flush().is_empty());
        messages.recv().await.expect("the first is called").expect("it is no error");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let done = pb::Reply { answer: Some(pb::reply::Answer::Done(Bytes::new())) };
        let answers = sessions.answer("shop", id, pb::Replies { batch: 1, replies: vec![done] });
        let told = answers.expect("it has that batch").into_iter().map(|answer| (answer.attempt, answer.reply));
        assert_eq!(told.collect::<Vec<_>>(), [(0, Reply::Done), (1, Reply::Unreachable)]);
        assert!(messages.try_recv().is_err(), "the second is not called");
    }

    #[tokio::test]
    async fn a_beat_needs_room_for_what_it_says_and_no_more() {
        let sessions = Sessions::new(SystemClock::start());
        let (id, _messages) = open(&sessions);
        assert!(sessions.beat("shop", id), "there is nothing to forget");
        assert!(!sessions.beat("shop", id), "it is full");
    }
}
