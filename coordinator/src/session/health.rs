//! How services are doing, for operators and for metrics.

use std::time::Duration;

use tercet_core::{Operation, Reply, Timestamp};

use super::{Inner, Service, Session, Sessions};
use crate::caller::Outgoing;
use crate::clock::Clock;
use crate::live::{Words, truncate};
use crate::{canary, limits};

/// One instance of a service, for listings.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its service.
    pub service: String,
    /// Its own name.
    pub instance: String,
    /// Its version.
    pub version: String,
    /// Calls of its service that no session has taken yet.
    pub queued: usize,
    /// Calls that it has not answered yet.
    pub in_flight: usize,
    /// Most calls that it takes before it answers one.
    pub concurrency: usize,
    /// Since it last answered a canary or a call, or was opened.
    pub canary_age: Duration,
}

/// How a service is doing, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It answers.
    Healthy,
    /// Some batch of calls waits for its answer for longer than [`limits::SLOW_MS`].
    Slow,
    /// Calls wait for too long to be taken: new transactions that name it are refused.
    Behind,
    /// Its sessions have no room and it has answered nothing for [`limits::STUCK_MS`]: it gets no retries.
    Stuck,
    /// No instance is connected.
    Absent,
}

impl State {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Healthy, Self::Slow, Self::Behind, Self::Stuck, Self::Absent];

    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Slow => "slow",
            Self::Behind => "behind",
            Self::Stuck => "stuck",
            Self::Absent => "absent",
        }
    }
}

/// How a service is doing.
#[derive(Clone, Debug)]
pub struct Health {
    /// Its name.
    pub service: String,
    /// In a word.
    pub state: State,
    /// Its sessions.
    pub sessions: usize,
    /// Calls that no session has taken yet.
    pub queued: usize,
    /// Calls without an answer.
    pub in_flight: usize,
    /// For how long the oldest batch without an answer has been under way; zero: none is.
    pub oldest_batch: Duration,
    /// Answers since the start: done, refused, not now, unknown.
    pub replies: [u64; 4],
    /// What went wrong last, if anything did since the start.
    pub failure: Option<Failure>,
}

/// Something that a service did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// In words, at most [`limits::REASON_BYTES_MAX`] of a participant's own.
    pub text: String,
}

/// What is wrong with an answer, in words: nothing with a refusal of a try.
pub(super) fn fault(call: &Outgoing, reply: Reply, words: &Words) -> Option<String> {
    let what = match (reply, call.call.operation) {
        (Reply::Unknown, _) => "answered nothing that says anything to",
        (Reply::Refused, Operation::Confirm | Operation::Cancel) => "refused",
        (Reply::Refused, Operation::Try | Operation::Ask)
        | (Reply::Done | Reply::NotNow { .. } | Reply::Unreachable, _) => return None,
    };
    let mut reason = words.reason.clone();
    truncate(&mut reason, limits::REASON_BYTES_MAX);
    let (operation, xid) = (crate::names::operation_name(call.call.operation), call.xid);
    let colon = if reason.is_empty() { "" } else { ": " };
    Some(format!("{what} the {operation} of {xid}{colon}{reason}"))
}

impl Inner {
    /// All services but the coordinator's own.
    pub(super) fn participants(&self) -> impl Iterator<Item = (&String, &Service)> {
        self.services.iter().filter(|(name, _)| *name != canary::NAME)
    }
}

impl Sessions {
    /// Services with at least one session.
    pub fn connected(&self) -> Vec<String> {
        let inner = self.lock();
        let connected = inner.participants().filter(|(_, service)| !service.sessions.is_empty());
        connected.map(|(name, _)| name.clone()).collect()
    }

    /// Whether a service has a session.
    pub fn has(&self, name: &str) -> bool {
        self.lock().services.get(name).is_some_and(|service| !service.sessions.is_empty())
    }

    /// Every service that has registered since the start, by name.
    pub fn health(&self) -> Vec<Health> {
        let inner = self.lock();
        inner.participants().map(|(name, service)| service.health(name, &self.clock)).collect()
    }

    /// Has each service's metrics say how it is doing.
    pub fn measure(&self) {
        let inner = self.lock();
        // The coordinator's own too: it has metrics like any other, which must not say that nobody is there.
        for (name, service) in &inner.services {
            service.metrics.measure(&service.health(name, &self.clock));
        }
    }

    /// Every instance, by service.
    pub fn instances(&self) -> Vec<Instance> {
        let now = self.clock.monotonic();
        let inner = self.lock();
        let all = inner.participants().flat_map(|(name, service)| {
            service.sessions.iter().map(|session| Instance {
                service: name.clone(),
                instance: session.instance.clone(),
                version: session.version.clone(),
                queued: service.queue.len(),
                in_flight: session.in_flight(),
                concurrency: session.concurrency,
                canary_age: now.saturating_sub(session.canary.answered_at),
            })
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| (&a.service, &a.instance).cmp(&(&b.service, &b.instance)));
        all
    }
}

impl Service {
    fn health(&self, name: &str, clock: &impl Clock) -> Health {
        let now = clock.monotonic();
        let oldest_batch = self.oldest_batch().map_or(Duration::ZERO, |sent| now.saturating_sub(sent));
        let state = match self.sessions.is_empty() {
            true => State::Absent,
            false if self.stuck(now) => State::Stuck,
            false if self.behind(clock) => State::Behind,
            false if oldest_batch > Duration::from_millis(limits::SLOW_MS) => State::Slow,
            false => State::Healthy,
        };
        Health {
            service: name.to_owned(),
            state,
            sessions: self.sessions.len(),
            queued: self.queue.len(),
            in_flight: self.outstanding(),
            oldest_batch,
            replies: self.replies,
            failure: self.failure.clone(),
        }
    }
}

impl Session {
    /// What went wrong when it ended for this reason: nothing when it had said that it leaves and left nothing undone.
    pub(super) fn lost(&self, why: &str, now: Timestamp) -> Option<Failure> {
        let Self { instance, outstanding, .. } = self;
        let text = || format!("lost the session of {instance}: {why}; {outstanding} calls had no answer");
        (!self.leaving || *outstanding > 0).then(|| Failure { at: now, text: text() })
    }
}
