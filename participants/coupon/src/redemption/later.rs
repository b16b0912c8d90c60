//! What was kept, submitted by a job that every process of the service runs: whoever takes a row has it until it is due
//! again, and two that submit the same one submit the same transaction.

use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use tercet::fence::Dialect;
use tercet_rules::Fault;
use tercet_shards::Slot;
use tracing::{debug, warn};

use super::Redemption;
use super::limits::{AGAIN_MS, KEPT_MAX, KEPT_MS_MAX, LATER_AT_ONCE, LATER_ROWS, TICK, TRIES_MAX};
use super::redeem::For;
use super::trial::{busy, database};
use crate::metrics;
use crate::store::redemptions::{Redemption as Row, Redemptions};

/// How long the job leaves a redemption alone that it has submitted so often before.
fn pause_ms(tries: i64) -> i64 {
    let (least, most) = AGAIN_MS;
    least.saturating_mul(1 << tries.clamp(0, 30)).min(most)
}

impl<Db: Redemptions + Dialect> Redemption<Db> {
    /// Submits what is due, until `stop` ends.
    pub(super) async fn submit_kept(&self, stop: impl Future<Output = ()> + Send) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let round = async {
                tokio::time::sleep(TICK).await;
                for at in 0..self.kept.len() {
                    if let Err(fault) = self.round(at).await {
                        warn!(%fault, database = at, "kept redemptions wait for the next round");
                    }
                }
            };
            tokio::select! {
                () = &mut stop => return,
                () = round => {}
            }
        }
    }

    async fn round(&self, at: usize) -> Result<(), Fault> {
        let pool = &self.shards.pools()[at];
        let kept = {
            let mut connection = pool.acquire().await.map_err(database)?;
            Db::kept(&mut connection, KEPT_MAX as u32).await.map_err(database)?
        };
        self.kept[at].store(kept, Ordering::Relaxed);
        metrics::waiting(at, kept);
        loop {
            let due = {
                let mut connection = pool.acquire().await.map_err(database)?;
                Db::due(&mut connection, LATER_ROWS).await.map_err(database)?
            };
            // Those of a slot that has left are taken where it is.
            let view = self.shards.slots().view();
            let own = |(row, _): &(Row, i64)| view.database(Slot::of_user(row.user_id)) == at;
            let due: Vec<(Row, i64)> = due.into_iter().filter(own).collect();
            let rows = due.len();
            let all = due.into_iter().map(|(row, age_ms)| self.later(row, age_ms));
            let done: Vec<Result<(), Fault>> =
                futures_util::stream::iter(all).buffer_unordered(LATER_AT_ONCE).collect().await;
            done.into_iter().collect::<Result<(), Fault>>()?;
            if rows < LATER_ROWS as usize || self.is_away() {
                return Ok(());
            }
        }
    }

    /// Submits one that is due, or gives it up.
    async fn later(&self, row: Row, age_ms: i64) -> Result<(), Fault> {
        let is_old = age_ms > KEPT_MS_MAX || row.tries >= TRIES_MAX;
        if self.is_away() && !is_old {
            return Ok(());
        }
        {
            let mut db_tx = self.begin(row.user_id).await?;
            if is_old {
                // None of its transactions can begin after this: see the fence of `honour`.
                let refusal = busy().reason();
                let given_up = Db::give_up(&mut db_tx, row.redemption_id, Some(&refusal)).await.map_err(database)?;
                db_tx.commit().await.map_err(database)?;
                if given_up {
                    metrics::given_up();
                }
                return Ok(());
            }
            let taken = Db::take(&mut db_tx, row.redemption_id, row.due_ms, pause_ms(row.tries));
            if !taken.await.map_err(database)? {
                return Ok(());
            }
            db_tx.commit().await.map_err(database)?;
        }
        let told = self.submit(&row, For::Later).await;
        debug!(redemption = row.redemption_id, done = told.is_ok(), "a kept redemption was submitted");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::pause_ms;

    #[test]
    fn pauses_double_up_to_the_longest() {
        assert_eq!([0, 1, 2, 3, 4, 63, i64::MAX].map(pause_ms), [1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000]);
    }
}
