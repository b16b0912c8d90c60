//! What the driver shows of itself while it runs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::controls::Controls;
use crate::store::Backlog;
use crate::turnstile::Turnstile;

/// What the driver shows of itself.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Transactions in memory.
    pub live: AtomicU64,
    /// Those and the canaries in memory, which are not among them.
    pub under_way: AtomicU64,
    /// Transactions that ended since the start.
    pub ended: AtomicU64,
    /// Canaries that ended since the start, which are not among those.
    pub canaries: AtomicU64,
    /// Since one of either ended, while any is under way, in milliseconds.
    pub idle_ms: AtomicU64,
    /// Canaries for sessions that are under way.
    pub rounds: AtomicU64,
    /// Canaries for sessions that ended since the start.
    pub rounds_ended: AtomicU64,
    /// Since sessions were to be asked and none has answered, or nothing that asks them has ended, in milliseconds.
    pub silent_ms: AtomicU64,
    /// Commits since the start.
    pub commits: AtomicU64,
    /// Rows of those commits.
    pub rows: AtomicU64,
    /// When the commit under way began, in microseconds of the clock's monotonic time; 0: none is.
    pub commit_began_us: AtomicU64,
    /// What waited in `compensation_log` at the last beat.
    pub backlogs: Mutex<Vec<Backlog>>,
    /// What can be changed while it runs.
    pub controls: Controls,
    /// The disk under the store has no room for new transactions.
    pub disk_full: AtomicBool,
    /// The store has met that since it was last looked at.
    pub full_met: AtomicBool,
    /// What is queued for the store waits for too long: new transactions are refused.
    pub behind: AtomicBool,
    /// Where refusals wait for transactions to end.
    pub turnstile: Turnstile,
}

impl Gauges {
    /// The store had no room for a commit.
    pub fn meet_full(&self) {
        self.full_met.store(true, Ordering::Relaxed);
        self.disk_full.store(true, Ordering::Relaxed);
    }
}
