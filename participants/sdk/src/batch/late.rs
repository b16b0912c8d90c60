//! A service with several databases does not wait for one that hangs: its calls are told to come again, and cost the
//! calls of the other databases next to nothing. What was begun there goes on, and the fence knows what came of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// For how long a batch waits for a database that has answered in time so far: longer than a busy one takes, and so
/// short that transactions of other databases are in time. Tests, on machines that do more besides, have more.
pub(super) const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 3_000 } else { 500 });
/// For how long a batch waits for a database while it waits for none that answered in time before.
pub(super) const PROBE: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 50 });
/// Batches whose calls find out at a time whether a late database answers again: more than one, since one of them may
/// wait for a row that another transaction has.
pub(super) const PROBES_MAX: usize = 4;
/// When a call is asked for again whose database is late.
pub(super) const AGAIN: Duration = Duration::from_millis(250);

/// Whether a database is late.
#[derive(Debug, Default)]
pub(super) struct Lateness(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_late: bool,
    probes: usize,
}

impl Lateness {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets calls of a batch in: of a late database, only a few at a time.
    pub(super) fn admit(&self) -> Option<Turn<'_>> {
        let mut state = self.state();
        let is_probe = state.is_late;
        if is_probe && state.probes >= PROBES_MAX {
            return None;
        }
        state.probes += usize::from(is_probe);
        Some(Turn { of: self, is_probe })
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
    is_probe: bool,
}

impl Turn<'_> {
    /// For how long the batch waits for them.
    pub(super) fn patience(&self) -> Duration {
        if self.is_probe { PROBE } else { PATIENCE }
    }

    /// Some have come to their end. Whether it was late until now.
    pub(super) fn answered(&self) -> bool {
        std::mem::take(&mut self.of.state().is_late)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.of.state().probes -= 1;
        }
    }
}
