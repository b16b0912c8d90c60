//! What was kept, submitted by a job that every process of the service runs: whoever takes a row has it until it is due
//! again, and two that submit the same one submit the same transaction. What came to nothing all the same is handed to
//! the coordinator as owed, so that it stands in its `compensation_log` and not only in a row here. And of refunds for
//! which nobody waits any more it notes that they are done.

use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tercet::action::Tcc;
use tercet::client::Wait;
use tercet::fence::Dialect;
use tercet::plan::{self, Plan, RetryPolicy};
use tercet_proto::coupon::v1 as pb;
use tercet_rules::Fault;
use tercet_shards::Slot;
use tracing::{debug, error, info, warn};

use super::Redemption;
use super::limits::{
    AGAIN_MS, DEADLINE, KEPT_MS_MAX, LATER_AT_ONCE, LATER_ROWS, OWED_AGAIN, OWED_LOOKS, TICK, TRIES_MAX,
};
use super::redeem::{For, content};
use super::trial::{busy, database, timely};
use crate::store::redemptions::{Change, Redemption as Row, Redemptions, State};
use crate::{OWED, metrics};

/// How long the job leaves a redemption alone that it has submitted so often before.
fn pause_ms(tries: i64) -> i64 {
    let (least, most) = AGAIN_MS;
    least.saturating_mul(1 << tries.clamp(0, 30)).min(most)
}

impl<Db: Redemptions + Dialect> Redemption<Db> {
    /// Submits what is due, until `stop` ends. A database that does not answer holds up its own alone.
    pub(super) async fn submit_kept(&self, stop: impl Future<Output = ()> + Send) {
        let rounds = join_all((0..self.kept.len()).map(|at| self.rounds(at)));
        tokio::select! {
            () = stop => {}
            _ = rounds => {}
        }
    }

    /// Without end.
    async fn rounds(&self, at: usize) {
        loop {
            tokio::time::sleep(TICK).await;
            if let Err(fault) = self.round(at).await {
                warn!(%fault, database = at, "kept redemptions wait for the next round");
            }
        }
    }

    async fn round(&self, at: usize) -> Result<(), Fault> {
        let pool = &self.shards.pools()[at];
        let kept = timely(async {
            let mut connection = pool.acquire().await.map_err(database)?;
            Db::kept(&mut connection, self.settings.kept_max).await.map_err(database)
        });
        let kept = kept.await?;
        self.kept[at].store(kept, Ordering::Relaxed);
        metrics::waiting(at, kept);
        self.all_due(at, State::Kept).await?;
        self.all_due(at, State::GivenUp).await?;
        self.all_due(at, State::Refunding).await
    }

    /// Does what is due for those that stand there.
    async fn all_due(&self, at: usize, state: State) -> Result<(), Fault> {
        let pool = &self.shards.pools()[at];
        let mut oldest_ms = 0;
        loop {
            let due = timely(async {
                let mut connection = pool.acquire().await.map_err(database)?;
                Db::due(&mut connection, state, LATER_ROWS).await.map_err(database)
            });
            let due = due.await?;
            // Those of a slot that has left are taken where it is.
            let view = self.shards.slots().view();
            let own = |(row, _): &(Row, i64)| view.database(Slot::of_user(row.user_id)) == at;
            let due: Vec<(Row, i64)> = due.into_iter().filter(own).collect();
            let rows = due.len();
            oldest_ms = due.iter().map(|(_, age_ms)| *age_ms).fold(oldest_ms, i64::max);
            if state == State::Kept {
                metrics::oldest(at, oldest_ms);
            }
            let all = due.into_iter().map(|(row, age_ms)| async move {
                match row.state {
                    State::GivenUp => timely(self.owe(&row)).await,
                    State::Refunding => timely(self.end_refund(&row)).await,
                    State::Kept | State::Submitted | State::Done | State::Refused | State::Refunded => {
                        timely(self.later(row, age_ms)).await
                    }
                }
            });
            let done: Vec<Result<(), Fault>> =
                futures_util::stream::iter(all).buffer_unordered(LATER_AT_ONCE).collect().await;
            done.into_iter().collect::<Result<(), Fault>>()?;
            if rows < LATER_ROWS as usize || self.is_away() {
                return Ok(());
            }
        }
    }

    /// Hands one that came to nothing to the coordinator.
    async fn owe(&self, row: &Row) -> Result<(), Fault> {
        if self.is_away() {
            return Ok(());
        }
        if !self.take(row).await? {
            return Ok(());
        }
        let plan = plan(row).map_err(|error| {
            error!(%error, redemption = row.redemption_id, "what is owed is no plan");
            busy()
        })?;
        match self.client.submit(plan, Wait::Decided).await {
            Ok(_) => info!(redemption = row.redemption_id, order = row.order_id, "owed from now on"),
            Err(error) => {
                warn!(%error, redemption = row.redemption_id, "what is owed could not be handed over yet");
                self.now_away();
            }
        }
        Ok(())
    }

    /// Finds out what became of a refund for which nobody waits.
    async fn end_refund(&self, row: &Row) -> Result<(), Fault> {
        if self.is_away() || !self.take(row).await? {
            return Ok(());
        }
        self.look_back(row).await.map(drop)
    }

    /// Takes one that is due, to be due again after a while; whether nobody else has.
    async fn take(&self, row: &Row) -> Result<bool, Fault> {
        let take = Change::Take { due_ms: row.due_ms, due_after_ms: pause_ms(row.tries) };
        self.change(row.user_id, row.redemption_id, take).await
    }

    /// Submits one that is due, or gives it up.
    async fn later(&self, row: Row, age_ms: i64) -> Result<(), Fault> {
        let is_old = age_ms > KEPT_MS_MAX || row.tries >= TRIES_MAX;
        if self.is_away() && !is_old {
            return Ok(());
        }
        if is_old {
            // None of its transactions can begin after this: see the fence of `honour`.
            if self.change(row.user_id, row.redemption_id, Change::GiveUp(&busy().reason())).await? {
                metrics::given_up(metrics::GivenUp::Late);
            }
            return Ok(());
        }
        if !self.take(&row).await? {
            return Ok(());
        }
        let told = self.submit(&row, For::Later).await;
        debug!(redemption = row.redemption_id, done = told.is_ok(), "a kept redemption was submitted");
        Ok(())
    }
}

/// Stands for what the row was promised, with the coordinator's patience and then a person's.
fn plan(row: &Row) -> anyhow::Result<Plan<Tcc>> {
    let &Row { redemption_id, user_id, shop_id, order_id, tries, .. } = row;
    let coupons = content(row)?.combination.unwrap_or_default().deductions;
    let coupon_id = coupons.first().map_or(0, |own| own.coupon_id);
    let (first, most) = OWED_AGAIN;
    let retry = RetryPolicy {
        first_delay: Some(first),
        delay_max: Some(most),
        quick_attempts: Some(1),
        attempts: Some(OWED_LOOKS),
        ..RetryPolicy::default()
    };
    let mut plan = plan::tcc().idempotency_key(format!("owed/{redemption_id}/{tries}")).deadline(DEADLINE);
    let owed = OWED.with(&pb::Owed { redemption_id, user_id, order_id, shop_id })?;
    plan.branch(owed.business_key(format!("coupon/{coupon_id}")).retry(retry));
    Ok(plan.build()?)
}

#[cfg(test)]
mod tests {
    use super::pause_ms;

    #[test]
    fn pauses_double_up_to_the_longest() {
        assert_eq!([0, 1, 2, 3, 4, 63, i64::MAX].map(pause_ms), [1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000]);
    }
}
