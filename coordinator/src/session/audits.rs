//! The auditor's way to participants: down one session of each service that has promised something, in turn.

use std::sync::PoisonError;

use tercet_proto::admin::v1 as admin;
use tercet_proto::participant::v1 as pb;

use super::wire::sealed;
use super::{Session, Sessions};
use crate::auditor::{Auditor, ROUND};
use crate::clock::Clock as _;

impl Sessions {
    /// Asks for the books of all services, again and again. Never ends.
    pub async fn audit(self) {
        for turn in 0.. {
            tokio::time::sleep(ROUND).await;
            self.ask_all(turn);
        }
    }

    fn ask_all(&self, turn: usize) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let mut auditor = self.auditor();
        for (name, service) in &mut inner.services {
            if !service.sessions.is_empty() {
                let by = |session: &Session, invariant: &str| session.invariants.iter().any(|own| own == invariant);
                auditor.keep(name, |invariant| service.sessions.iter().any(|session| by(session, invariant)));
            }
            let mut promising: Vec<_> = service
                .sessions
                .iter_mut()
                .filter(|session| !session.invariants.is_empty() && !session.leaving)
                .collect();
            let at = turn % promising.len().max(1);
            let Some(session) = promising.get_mut(at) else { continue };
            let Some(audit) = auditor.ask(name, now) else { continue };
            // A stream that is full is asked again when its answer is overdue.
            if let Ok(permit) = session.down.try_reserve() {
                permit.send(Ok(sealed(&mut session.signing, pb::open_response::Message::Audit(audit))));
            }
        }
        auditor.measure(now);
    }

    /// A service has answered the auditor.
    pub fn audited(&self, name: &str, audited: pb::Audited) {
        self.auditor().hear(name, audited, self.clock.monotonic());
    }

    /// Everything that is promised, and how it stands.
    pub fn invariants(&self) -> Vec<admin::Invariant> {
        self.auditor().list(self.clock.monotonic())
    }

    fn auditor(&self) -> std::sync::MutexGuard<'_, Auditor> {
        self.auditor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
