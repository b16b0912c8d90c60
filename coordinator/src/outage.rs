//! What is done again and again, and does not work for a while: said once when that begins and once when it is over.

use std::error::Error;

use tracing::{info, warn};

/// One such thing.
#[derive(Debug)]
pub struct Outage {
    what: &'static str,
    failures: u64,
}

impl Outage {
    /// It works. `what` names it in the log.
    pub fn new(what: &'static str) -> Self {
        Self { what, failures: 0 }
    }

    /// It has failed, perhaps not for the first time.
    pub fn failed(&mut self, error: &(dyn Error + 'static)) {
        self.failures += 1;
        if self.failures == 1 {
            warn!(error, "{}: failed, and is tried again; this is said once", self.what);
        }
    }

    /// It has worked.
    pub fn over(&mut self) {
        if self.failures > 0 {
            info!(failures = self.failures, "{}: works again", self.what);
            self.failures = 0;
        }
    }
}
