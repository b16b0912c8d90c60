//! The door: what may come in when there is more to do than can be done.
//!
//! A new transaction is refused, by name and with a time to come again, while the coordinator or one of the services
//! that it names is behind with what it has taken already. Refusing is the cheapest thing there is, so that an
//! overload costs those inside next to nothing: it comes before the request is looked at any further, and takes no more
//! of the thread's time than `turnstile.rs` lets it. Nothing that has been accepted is ever shed. Limits that only the
//! driver knows are in `driver/admission.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tercet_proto::coordinator::v1::Branch;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::driver::Gauges;
use crate::request::{Error, Input};
use crate::session::Sessions;
use crate::{limits, metrics};

/// In front of a driver. Clones are one.
#[derive(Clone)]
pub struct Door {
    inbox: mpsc::Sender<Input>,
    gauges: Arc<Gauges>,
    sessions: Sessions,
}

impl Door {
    /// The door to this driver and these services.
    pub fn new(inbox: mpsc::Sender<Input>, gauges: Arc<Gauges>, sessions: Sessions) -> Self {
        Self { inbox, gauges, sessions }
    }

    /// Whether a transaction with these branches may begin now. A refusal leaves when there is time for it.
    ///
    /// # Errors
    /// What it has to wait for.
    pub async fn admit(&self, branches: &[Branch]) -> Result<(), Error> {
        let admitted = self.admitted(branches);
        if admitted.is_err() {
            self.gauges.turnstile.pass().await;
        }
        admitted
    }

    /// The same at once, for a stream, which is not read faster than it is answered.
    ///
    /// # Errors
    /// What it has to wait for.
    pub fn admitted(&self, branches: &[Branch]) -> Result<(), Error> {
        let services = branches.iter().map(|branch| branch.service.as_str());
        let refusal = self.busy().or_else(|| {
            let service = self.sessions.behind(services)?.to_owned();
            Some(Error::ServiceOverloaded { service, what: "call delay in ms", limit: limits::BEHIND_MS as usize })
        });
        refusal.inspect(metrics::overloaded).map_or(Ok(()), Err)
    }

    /// What this coordinator is behind with, whatever comes. A stream is not read meanwhile: its client waits instead.
    pub fn busy(&self) -> Option<Error> {
        // What is accepted goes on through the same inbox, and is never refused below its own limit.
        if self.inbox.max_capacity() - self.inbox.capacity() > limits::INBOX_STARTS_MAX {
            return Some(Error::Overloaded { what: "waiting requests", limit: limits::INBOX_STARTS_MAX });
        }
        if self.gauges.behind.load(Ordering::Relaxed) {
            return Some(Error::Overloaded { what: "commit delay in ms", limit: limits::BEHIND_MS as usize });
        }
        None
    }

    /// Puts something into the inbox.
    ///
    /// # Errors
    /// When it is full, or the driver gone.
    pub fn put(&self, input: Input) -> Result<(), Error> {
        self.inbox.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) => Error::Overloaded { what: "waiting requests", limit: limits::INBOX_MAX },
            TrySendError::Closed(_) => Error::Stopping,
        })
    }

    /// Whether the driver is gone.
    pub fn is_closed(&self) -> bool {
        self.inbox.is_closed()
    }
}
