//! The auditor's way to participants: down one session of each service that has promised something, in turn.

use std::sync::PoisonError;

use tercet_proto::admin::v1 as admin;
use tercet_proto::participant::v1 as pb;

use super::Sessions;
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
        let inner = self.lock();
        let mut auditor = self.auditor();
        for (name, service) in &inner.services {
            let promising: Vec<_> =
                service.sessions.iter().filter(|session| session.promises && !session.leaving).collect();
            let Some(session) = promising.get(turn % promising.len().max(1)) else { continue };
            let Some(audit) = auditor.ask(name, now) else { continue };
            let message = pb::OpenResponse { message: Some(pb::open_response::Message::Audit(audit)) };
            // A stream that is full is asked again when its answer is overdue.
            drop(session.down.try_send(Ok(message)));
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
