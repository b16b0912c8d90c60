//! Deletes redemptions that ended long ago: nobody asks for them any more, and their orders can not be taken back.
//! Several processes do no harm: each deletes what it finds.

use std::collections::BTreeMap;

use tercet::beside::{Failure, Stop};
use tercet::fence::Dialect;
use tercet_shards::Slot;
use tokio::time::sleep;
use tracing::{info, warn};

use super::Redemption;
use super::limits::{ANSWER_MAX, PURGE_INTERVAL, PURGE_ROWS};
use crate::metrics;
use crate::store::redemptions::Redemptions;

const DAY_MS: i64 = 86_400_000;

impl<Db: Redemptions + Dialect> Redemption<Db> {
    /// Deletes what is too old, until `stop` is asked for.
    pub(super) async fn purge(&self, mut stop: Stop) -> Result<(), Failure> {
        while !stop.is_requested() {
            for (at, pool) in self.shards.pools().iter().enumerate() {
                loop {
                    let some = tokio::time::timeout(ANSWER_MAX, self.purge_some(at, pool)).await;
                    match some.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                        Ok(0) => break,
                        Ok(rows) => info!(rows, database = at, "redemptions that ended long ago are deleted"),
                        Err(error) => {
                            warn!(%error, database = at, "old redemptions could not be deleted yet");
                            break;
                        }
                    }
                    if stop.is_requested() {
                        return Ok(());
                    }
                }
            }
            tokio::select! {
                () = sleep(PURGE_INTERVAL) => {}
                () = stop.requested() => {}
            }
        }
        Ok(())
    }

    /// So many of one database: a transaction for each slot, so that nothing else waits for long. What moves is left
    /// for a later round, as is all of a database that serves something else than it did.
    async fn purge_some(&self, at: usize, pool: &sqlx::Pool<Db>) -> sqlx::Result<u64> {
        let age_ms = i64::from(self.settings.retention_days) * DAY_MS;
        let ids = Db::ended(&mut *pool.acquire().await?, age_ms, PURGE_ROWS).await?;
        let view = self.shards.slots().view();
        let mut slots: BTreeMap<Slot, Vec<i64>> = BTreeMap::new();
        for id in ids {
            let slot = Slot::of_id(id);
            if view.database(slot) == at {
                slots.entry(slot).or_default().push(id);
            }
        }
        let mut gone = 0;
        for (slot, ids) in slots {
            if view.is_served(slot) {
                gone += Db::delete(&mut *pool.acquire().await?, &ids, view.epoch(at)).await?;
            }
        }
        metrics::purged(gone);
        Ok(gone)
    }
}
