//! The door: what may come in when there is more to do than can be done.
//!
//! A new transaction is refused, by name and with a time to come again, while the coordinator or one of the services
//! that it names is behind with what it has taken already. Refusing is the cheapest thing there is, so that an
//! overload costs those inside next to nothing: it comes before the request is looked at any further, and takes no more
//! of the thread's time than `turnstile.rs` lets it. Nothing that has been accepted is ever shed. Limits that only the
//! driver knows are in `driver/admission.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

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

    /// Lets a request for a transaction with these branches in. Otherwise the request is let go of, and its refusal
    /// leaves when there is time for it, or its caller has no more patience.
    ///
    /// # Errors
    /// What it has to wait for.
    pub async fn admit<R>(
        &self,
        request: R,
        branches: impl Fn(&R) -> &[Branch],
        patience: Option<Duration>,
    ) -> Result<R, Error> {
        let Err(refusal) = self.admitted(branches(&request)) else { return Ok(request) };
        drop(request);
        let pass = self.gauges.turnstile.pass();
        match patience {
            // It is decided, whichever of the two ends first.
            Some(patience) => drop(tokio::time::timeout(patience, pass).await),
            None => pass.await,
        }
        Err(refusal)
    }

    /// The same at once, for a stream, which is not read faster than it is answered.
    ///
    /// # Errors
    /// What it has to wait for.
    pub fn admitted(&self, branches: &[Branch]) -> Result<(), Error> {
        let refusal = self.busy().or_else(|| self.behind(branches));
        refusal.inspect(metrics::overloaded).map_or(Ok(()), Err)
    }

    /// Whether one more branch may come to what is let in already.
    ///
    /// # Errors
    /// What it has to wait for.
    pub fn extends(&self, branch: &Branch) -> Result<(), Error> {
        self.behind(std::slice::from_ref(branch)).inspect(metrics::overloaded).map_or(Ok(()), Err)
    }

    /// The first of these services that is behind.
    fn behind(&self, branches: &[Branch]) -> Option<Error> {
        let services = branches.iter().map(|branch| branch.service.as_str());
        let service = self.sessions.behind(services)?.to_owned();
        Some(Error::ServiceOverloaded { service, what: "call delay in ms", limit: limits::BEHIND_MS as usize })
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

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_waits_holds_no_request_and_comes_while_its_caller_waits() {
        let (inbox, _inputs) = mpsc::channel(8);
        let gauges = Arc::new(Gauges::default());
        gauges.behind.store(true, Ordering::Relaxed);
        let door = Door::new(inbox, Arc::clone(&gauges), Sessions::new(SystemClock::start()));
        // The only one that may leave, and it does not.
        let (mut first, mut second) = (Box::pin(gauges.turnstile.pass()), Box::pin(gauges.turnstile.pass()));
        while gauges.turnstile.pass().now_or_never().is_some() {}
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        let request = Arc::new(());
        let held: Weak<()> = Arc::downgrade(&request);
        let patience = Duration::from_millis(5);
        let mut refused = Box::pin(door.admit(request, |_| &[], Some(patience)));
        assert!((&mut refused).now_or_never().is_none(), "others leave before it");
        assert!(held.upgrade().is_none(), "nobody needs it any more");
        let began = tokio::time::Instant::now();
        assert!(matches!(refused.await, Err(Error::Overloaded { .. })));
        assert!(began.elapsed() <= Duration::from_millis(limits::REFUSALS_MS));
    }
}
