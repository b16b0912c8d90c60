//! Fence rows that nobody will ask for again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::Executor;
use super::connections::Connections;
use crate::fence::Dialect;
use crate::xid::Xid;

/// How many transactions may wait for a round to name them, and as many again for the round after it.
pub(super) const FORGOTTEN_MAX: usize = 1 << 20;
/// How many transactions' rows one statement deletes.
const FORGET_ROWS: usize = 500;

/// The transactions that are to be forgotten.
#[derive(Default)]
pub(super) struct Forgotten {
    /// Those that no round has named yet, with the highest floor of theirs.
    pub(super) waiting: Mutex<(u64, Vec<Xid>)>,
    /// Whoever has it runs the next round, when that under way has ended.
    next: tokio::sync::Mutex<()>,
    round: tokio::sync::Mutex<Round>,
}

/// The transactions whose rows the next round of forgetting deletes.
#[derive(Default)]
struct Round {
    xids: Vec<Xid>,
    /// Whether the floor is above their calls everywhere.
    raised: bool,
}

impl<Db: Dialect> Executor<Db> {
    /// Raises the floor, and then deletes the rows of the transactions that the round before this one named: every call
    /// of theirs that was under way then has met the raised floor since. What comes while a round is under way shares
    /// the next one, however long a slow database takes, and is left to whoever waits for that.
    pub async fn forget(&self, floor_ms: u64, xids: Vec<Xid>) {
        if self.fence_id.is_none() {
            return;
        }
        self.wait_to_be_forgotten(floor_ms, xids);
        let Ok(next) = self.forgotten.next.try_lock() else { return };
        let mut round = self.forgotten.round.lock().await;
        // Before what waits is taken: who finds somebody here has been heard.
        drop(next);
        let (floor_ms, named) = std::mem::take(&mut *self.waiting());
        // Somebody else may have taken it.
        if floor_ms > 0 || !named.is_empty() {
            self.run_round(&mut round, floor_ms, named).await;
        }
    }

    fn wait_to_be_forgotten(&self, floor_ms: u64, xids: Vec<Xid>) {
        let mut waiting = self.waiting();
        waiting.0 = waiting.0.max(floor_ms);
        self.append(&mut waiting.1, xids);
    }

    fn waiting(&self) -> MutexGuard<'_, (u64, Vec<Xid>)> {
        self.forgotten.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, to: &mut Vec<Xid>, xids: Vec<Xid>) {
        let room = FORGOTTEN_MAX.saturating_sub(to.len());
        let rows = xids.len().saturating_sub(room);
        to.extend(xids.into_iter().take(room));
        if rows > 0 {
            warn!(service = self.service, transactions = rows, "fence rows of forgotten transactions stay for good");
        }
    }

    async fn run_round(&self, round: &mut Round, floor_ms: u64, named: Vec<Xid>) {
        let due: &[Xid] = if round.raised { &round.xids } else { &[] };
        let mut is_done = true;
        for place in &self.places {
            if let Err(error) = self.forget_in(place, floor_ms, due).await {
                warn!(service = self.service, %error, "fence rows stay for another round");
                is_done = false;
            }
        }
        // Those that are left may be gone in some databases: deleting them again does no harm.
        if is_done && round.raised {
            round.xids.clear();
        }
        round.raised = is_done;
        self.append(&mut round.xids, named);
    }

    async fn forget_in(&self, place: &Connections<Db>, floor_ms: u64, xids: &[Xid]) -> Result<(), sqlx::Error> {
        for chunk in std::iter::once(None).chain(xids.chunks(FORGET_ROWS).map(Some)) {
            // Calls have their turn between two statements.
            let _permit = place.writers.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let mut connection = place.connection().await?;
            match chunk {
                None => Db::raise_floor(&mut connection, floor_ms).await?,
                Some(xids) => Db::forget(&mut connection, xids).await?,
            }
            place.put(connection);
        }
        Ok(())
    }
}
