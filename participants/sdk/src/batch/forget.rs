//! Fence rows that nobody will ask for again.

use tracing::warn;

use super::Executor;
use super::connections::Connections;
use crate::fence::Dialect;
use crate::xid::Xid;

/// How many transactions may wait for the next round.
const FORGOTTEN_MAX: usize = 1 << 20;
/// How many transactions' rows one statement deletes.
const FORGET_ROWS: usize = 500;

/// The transactions whose rows the next round of forgetting deletes.
#[derive(Default)]
pub(super) struct Round {
    xids: Vec<Xid>,
    /// Whether the floor is above their calls everywhere.
    raised: bool,
}

impl<Db: Dialect> Executor<Db> {
    /// Raises the floor, and then deletes the rows of the transactions that the call before this one named: every call
    /// of theirs that was under way then has met the raised floor since.
    pub async fn forget(&self, floor_ms: u64, mut xids: Vec<Xid>) {
        if self.fence_id.is_none() {
            return;
        }
        let mut round = self.forgotten.lock().await;
        let old = if round.raised { std::mem::take(&mut round.xids) } else { Vec::new() };
        round.raised = true;
        for place in &self.places {
            if let Err(error) = self.forget_in(place, floor_ms, &old).await {
                warn!(service = self.service, %error, "fence rows stay for another round");
                round.raised = false;
            }
        }
        if !round.raised {
            // Deleting what is gone already does no harm.
            xids.extend(old);
        }
        round.xids.append(&mut xids);
        if round.xids.len() > FORGOTTEN_MAX {
            let rows = round.xids.len() - FORGOTTEN_MAX;
            warn!(service = self.service, transactions = rows, "fence rows of forgotten transactions stay for good");
            round.xids.truncate(FORGOTTEN_MAX);
        }
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
