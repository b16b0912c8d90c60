//! A service with several databases does not wait for one that hangs: its calls are told to come again, and cost the
//! calls of the other databases next to nothing. What was begun there goes on, and the fence knows what came of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// For how long a batch waits for a database while it waits for none that answered in time before.
pub(super) const PROBE: Duration = Duration::from_millis(50);
/// For how long a batch waits for a database that has answered in time so far: longer than a busy one takes, and so
/// short that transactions of other databases are in time.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// When a call is asked for again whose database is late.
pub(super) const AGAIN: Duration = Duration::from_millis(250);

/// Whether a database is late.
#[derive(Debug, Default)]
pub(super) struct Lateness(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_late: bool,
    running: usize,
}

impl Lateness {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets calls of a batch in. Of a late database, only while none are in: these find out whether it answers again.
    pub(super) fn admit(&self) -> Option<Turn<'_>> {
        let mut state = self.state();
        if state.is_late && state.running > 0 {
            return None;
        }
        state.running += 1;
        Some(Turn { of: self, patience: if state.is_late { PROBE } else { PATIENCE } })
    }

    /// A batch has waited for it long enough. Whether it was in time before.
    pub(super) fn given_up(&self) -> bool {
        !std::mem::replace(&mut self.state().is_late, true)
    }
}

/// Calls of a batch that run in one database.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    of: &'a Lateness,
    /// For how long the batch waits for them.
    pub(super) patience: Duration,
}

impl Turn<'_> {
    /// Some have come to their end. Whether it was late until now.
    pub(super) fn answered(&self) -> bool {
        std::mem::take(&mut self.of.state().is_late)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.of.state().running -= 1;
    }
}
