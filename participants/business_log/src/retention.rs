//! Deletes what is too old. Several instances do no harm: each deletes what it finds.

use std::time::Duration;

use sqlx::Pool;
use tercet::beside::{Failure, Stop};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::limits::{PURGE_INTERVAL, PURGE_ROWS};
use crate::store::Store;

const DAY_MS: i64 = 86_400_000;

/// The job of one database.
#[derive(Debug)]
pub(crate) struct Purging<Db: Store> {
    pool: Pool<Db>,
    days: u32,
}

impl<Db: Store> Purging<Db> {
    pub(crate) const fn new(pool: Pool<Db>, days: u32) -> Self {
        Self { pool, days }
    }

    pub(crate) async fn run(self, mut stop: Stop) -> Result<(), Failure> {
        while self.days > 0 && !stop.is_requested() {
            let pause = match self.purge().await {
                // There may be more.
                Ok(PURGE_ROWS) => Duration::ZERO,
                Ok(_) => PURGE_INTERVAL,
                Err(error) => {
                    warn!(%error, "old entries could not be deleted yet");
                    PURGE_INTERVAL
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.requested() => {}
            }
        }
        Ok(())
    }

    async fn purge(&self) -> sqlx::Result<i64> {
        let mut db = self.pool.acquire().await?;
        let gone = Db::purge(&mut db, i64::from(self.days) * DAY_MS, PURGE_ROWS).await?;
        if gone > 0 {
            info!(entries = gone, "old entries deleted");
        }
        Ok(gone)
    }
}
