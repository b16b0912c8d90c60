//! The canaries of each session: asked in turn, sent when there is a place for them, and how long ago they were
//! answered.

use std::time::Duration;

use tercet_core::Operation;
use tracing::warn;

use super::{Inner, Service, Session, SessionId, Sessions, next_message};
use crate::caller::Outgoing;
use crate::clock::Clock as _;
use crate::{canary, limits};

/// What one session owes its canaries.
#[derive(Debug)]
pub(super) struct Canary {
    /// Waits for a place in the window.
    waiting: Option<Outgoing>,
    /// Since when one was meant for it and none has an answer.
    meant_at: Option<Duration>,
    /// Since when one that was put before it has no answer.
    asked_at: Option<Duration>,
    /// When one was last meant for it.
    chosen_at: Duration,
    /// When it last answered one, or a call, or was opened.
    pub(super) answered_at: Duration,
    /// Whether its silence has been told.
    told: bool,
}

impl Canary {
    pub(super) fn new(now: Duration) -> Self {
        Self { waiting: None, meant_at: None, asked_at: None, chosen_at: Duration::ZERO, answered_at: now, told: false }
    }

    /// The session has answered one.
    pub(super) fn answered(&mut self, now: Duration) {
        (self.meant_at, self.asked_at) = (None, None);
        self.lives(now);
    }

    fn is_due(&self, now: Duration) -> bool {
        // One that was meant for it and has not come may still come.
        let silence_ms = if self.meant_at.is_some() { 2 * limits::CANARY_MS } else { limits::CANARY_MS / 2 };
        let last = self.answered_at.max(self.chosen_at);
        self.asked_at.is_none() && now.saturating_sub(last) >= Duration::from_millis(silence_ms)
    }

    /// Since when it has answered nothing although one was meant for it.
    fn silent_since(&self) -> Option<Duration> {
        self.meant_at.map(|meant_at| meant_at.max(self.answered_at))
    }

    /// For how long one has waited for its session to answer anything.
    fn owed(&self, now: Duration) -> Duration {
        self.asked_at.map_or(Duration::ZERO, |asked_at| now.saturating_sub(asked_at.max(self.answered_at)))
    }

    /// The session has answered a batch, whatever was in it.
    pub(super) fn lives(&mut self, now: Duration) {
        (self.answered_at, self.told) = (now, false);
    }
}

impl Sessions {
    /// The sessions whose turn it is to get a canary: those that owe no answer to one, and have answered nothing
    /// lately. Who had one longest ago comes first.
    pub fn next_canaries(&self) -> Vec<(String, SessionId)> {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let mut free: Vec<_> = inner
            .services
            .iter_mut()
            .filter(|(name, _)| *name != canary::NAME)
            .flat_map(|(name, service)| service.sessions.iter_mut().map(move |session| (name, session)))
            .filter(|(_, session)| !session.leaving && session.canary.is_due(now))
            .collect();
        if free.len() > limits::CANARIES_MAX {
            free.select_nth_unstable_by_key(limits::CANARIES_MAX, |(_, session)| session.canary.chosen_at);
            free.truncate(limits::CANARIES_MAX);
        }
        let chosen = free.into_iter().map(|(name, session)| {
            session.canary.chosen_at = now;
            session.canary.meant_at.get_or_insert(now);
            (name.clone(), session.id)
        });
        chosen.collect()
    }

    /// When a participant was last heard, if no session of any service has answered anything although canaries were
    /// meant for some since; `None`: the one that was heard last owes nothing since. One that came is heard, and one
    /// that leaves owes nothing.
    pub fn silent_since(&self) -> Option<Duration> {
        let inner = self.lock();
        let sessions = || inner.participants().flat_map(|(_, service)| &service.sessions);
        let last = sessions().map(|session| session.canary.answered_at).max()?;
        let mut owing = sessions().filter(|session| !session.leaving).filter_map(|one| one.canary.silent_since());
        // Not what a session says of itself: with the one that has been silent for longest that would be gone.
        owing.any(|since| since >= last).then_some(inner.heard_at)
    }

    /// When a participant last answered, or came.
    pub fn heard_at(&self) -> Duration {
        self.lock().heard_at
    }

    /// For each service the longest time for which one of its sessions has been asked and has answered nothing. Logs a
    /// session that owes an answer for long, once.
    pub fn canary_ages(&self) -> Vec<(String, Duration)> {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let services = inner.services.iter_mut().filter(|(name, _)| *name != canary::NAME);
        let ages = services.map(|(name, service)| {
            for session in &mut service.sessions {
                let owes = session.canary.owed(now);
                if owes > Duration::from_millis(limits::CANARY_STUCK_MS) && !session.canary.told {
                    session.canary.told = true;
                    let ms = owes.as_millis() as u64;
                    warn!(service = name, instance = session.instance, ms, "a session does not answer its canary");
                }
            }
            let ages = service.sessions.iter().map(|session| session.canary.owed(now));
            (name.clone(), ages.max().unwrap_or_default())
        });
        ages.collect()
    }
}

impl Inner {
    /// A session of this service has answered, or come.
    pub(super) fn heard(&mut self, service: &str, now: Duration) {
        if service != canary::NAME {
            self.heard_at = now;
        }
    }

    /// Puts a canary before its session. False: that is not there, or it is a call that participants are not asked.
    pub(super) fn ask(&mut self, id: SessionId, call: &Outgoing, now: Duration) -> bool {
        let Some(service) = self.services.get_mut(call.service()) else { return false };
        let session = service.sessions.iter_mut().find(|session| session.id == id);
        let Some(session) = session.filter(|_| call.call.operation == Operation::Try) else { return false };
        session.canary.asked_at.get_or_insert(now);
        session.canary.meant_at.get_or_insert(now);
        session.canary.waiting = Some(call.clone());
        service.canaries += 1;
        if !service.dirty {
            service.dirty = true;
            self.dirty.push(call.service().to_owned());
        }
        true
    }
}

impl Session {
    /// Calls without an answer, canaries left out.
    pub(super) fn in_flight(&self) -> usize {
        let calls = self.batches.iter().flat_map(|batch| &batch.calls);
        calls.filter(|call| canary::session_of(call).is_none()).count()
    }
}

impl Service {
    /// Sends the canaries for which there is a place by now.
    pub(super) fn send_canaries(&mut self, now: Duration) {
        self.canaries = 0;
        for session in &mut self.sessions {
            let room = session.batches.len() < session.window;
            let Some(call) = session.canary.waiting.take_if(|_| room) else {
                self.canaries += usize::from(session.canary.waiting.is_some());
                continue;
            };
            // A stream that is full or closed owes the answer all the same.
            if let Ok(permit) = session.down.try_reserve() {
                permit.send(next_message(
                    (&mut session.last, &mut session.outstanding, &mut session.batches),
                    &mut session.signing,
                    vec![call],
                    now,
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_asked_owes_nothing_however_long_it_is_silent() {
        let at = Duration::from_secs;
        let mut canary = Canary::new(at(0));
        assert_eq!(canary.owed(at(100)), at(0));
        canary.asked_at = Some(at(100));
        assert_eq!(canary.owed(at(103)), at(3));
        canary.lives(at(104));
        assert_eq!(canary.owed(at(106)), at(2), "it has answered calls meanwhile");
        canary.answered(at(107));
        assert_eq!(canary.owed(at(109)), at(0));
    }
}
