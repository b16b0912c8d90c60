//! What a service does besides answering calls: relaying its events, consuming those of others, scheduled jobs.

use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// Tells a piece of work when its service stops.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Ends when the service stops: finish what is under way, and begin nothing new.
    pub async fn requested(&mut self) {
        // Without a sender nobody can ask any more, and everything stops.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// Whether it has ended already.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl From<watch::Receiver<bool>> for Stop {
    fn from(stopped: watch::Receiver<bool>) -> Self {
        Self(stopped)
    }
}

/// Why a piece of work can not go on.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) start: Box<dyn FnOnce(Stop) -> BoxFuture<'static, Result<(), Failure>> + Send>,
}
