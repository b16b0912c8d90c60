//! Carries out what occasions were told.
//!
//! Each run is the batch `occasion/RUN` for its users: whoever tries it again finds what is there. A try has a number,
//! and only the latest one may change the run. What is refused is written down with its code; while nothing is known of
//! the outcome it is tried again, without end. A run that wants more than there is left is cut in two: the first gets
//! it, and the others are refused.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tercet::beside::{Failure, Stop};
use tercet::fence::Dialect;
use tercet_proto::coupon::v1 as pb;
use tercet_rules::{Code, Fault};
use tercet_shards::Slot;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::super::Issuing;
use super::super::limits::{EVENT_USERS_MAX, OCCASION_BATCH, RUNS_MAX};
use crate::metrics;
use crate::store::batches::{Batch, State};
use crate::store::occasions::{Occasion, Occasions, Run, Which};

/// Between two looks at what is due.
const LOOK: Duration = Duration::from_millis(250);
/// How long a process that dies keeps others from what it was trying.
const LEASE_MS: i64 = 15_000;
/// Before the second try of what is not known; doubled each time.
const AGAIN_MS: i64 = 500;
/// Between tries of what is not known for long.
const AGAIN_MS_MAX: i64 = 60_000;

/// Carries out what is due until it is told to stop. What it leaves is taken up where it is by whoever comes next.
pub(in crate::issuing) async fn run<Db: Occasions + Dialect>(
    issuing: Arc<Issuing<Db>>,
    mut stop: Stop,
) -> Result<(), Failure> {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way = FuturesUnordered::new();
    let mut is_more = false;
    loop {
        let is_time = tokio::select! {
            () = stop.requested() => return Ok(()),
            Some(()) = under_way.next() => is_more,
            _ = look.tick() => true,
        };
        let free = RUNS_MAX - under_way.len();
        if !is_time || free == 0 {
            continue;
        }
        match issuing.take_runs(free).await {
            Ok((runs, is_full)) => {
                is_more = is_full;
                under_way.extend(runs.into_iter().map(|run| issuing.carry_out(run)));
            }
            Err(error) => warn!(%error, "what is due for occasions can not be read"),
        }
    }
}

impl<Db: Occasions + Dialect> Issuing<Db> {
    /// Takes runs that are due, at most so many; whether there may be more.
    async fn take_runs(&self, limit: usize) -> sqlx::Result<(Vec<Run>, bool)> {
        let Some(now_ms) = self.ids.clock_ms() else { return Ok((Vec::new(), false)) };
        let mut connection = self.shards.home().acquire().await?;
        let due = Db::due_runs(&mut connection, now_ms, limit).await?;
        let (is_full, mut taken) = (due.len() == limit, Vec::new());
        for run in due {
            if Db::take_run(&mut connection, &run, now_ms + LEASE_MS).await? {
                taken.push(Run { tries: run.tries + 1, ..run });
            }
        }
        Ok((taken, is_full))
    }

    /// Tries a run, and writes down what came of it.
    async fn carry_out(&self, run: Run) {
        if let Err(error) = self.try_run(&run).await {
            warn!(run = run.run, %error, "a run of an occasion is tried again when its lease is over");
        }
    }

    async fn try_run(&self, run: &Run) -> anyhow::Result<()> {
        let (occasion, user_ids) = self.of_run(run).await?;
        let request = pb::IssueRequest {
            batch_id: batch_id(run),
            template_id: occasion.template_id,
            user_ids,
            coupons_per_user: u32::try_from(occasion.coupons_per_user)?,
            operator: occasion.operator.clone(),
            reason: occasion.reason.clone(),
        };
        match self.run_batch(&request, None).await {
            Ok(()) => self.end(run, None).await,
            Err(fault) if is_unknown(fault.code) => self.put_off(run).await,
            Err(fault) => match enough_for(&fault, &request) {
                Some(users) => self.split(run, &request, users).await,
                None => self.end(run, Some(fault.code)).await,
            },
        }
    }

    async fn of_run(&self, run: &Run) -> anyhow::Result<(Occasion, Vec<i64>)> {
        let mut connection = self.shards.home().acquire().await?;
        let occasion = Db::occasion(&mut connection, Which::Id(run.occasion_id)).await?;
        let occasion = occasion.ok_or(sqlx::Error::RowNotFound)?;
        let user_ids = Db::run_users(&mut connection, run.run, EVENT_USERS_MAX).await?;
        Ok((occasion, user_ids))
    }

    async fn end(&self, run: &Run, refusal: Option<Code>) -> anyhow::Result<()> {
        let now_ms = self.now_ms()?;
        let mut db_tx = self.shards.home().begin_with(Db::BEGIN_WRITE).await?;
        let ended = Db::end_run(&mut db_tx, run, refusal.map(Code::name), now_ms).await?;
        db_tx.commit().await?;
        if ended {
            let outcome = refusal.map_or("done", Code::name);
            metrics::occasion(outcome, run.users);
            debug!(occasion = run.occasion_id, run = run.run, users = run.users, outcome, "a run of an occasion ended");
        }
        Ok(())
    }

    async fn put_off(&self, run: &Run) -> anyhow::Result<()> {
        metrics::occasion("later", run.users);
        let doubled = AGAIN_MS << run.tries.clamp(1, 16);
        let due_ms = self.now_ms()? + doubled.min(AGAIN_MS_MAX);
        Ok(Db::put_off(&mut *self.shards.home().acquire().await?, run, due_ms).await?)
    }

    /// Cuts a run in two. A row in the place of its batch keeps whoever still tries it as it was from opening that.
    async fn split(&self, run: &Run, request: &pb::IssueRequest, users: usize) -> anyhow::Result<()> {
        let ids = [self.number().await?, self.number().await?];
        let closed = Batch {
            batch: self.number().await?,
            batch_id: request.batch_id.clone(),
            digest: String::new(),
            template_id: request.template_id,
            version: 0,
            claimed_ms: 0,
            valid_from_ms: 0,
            valid_until_ms: 0,
            coupons: 0,
            state: State::Opening,
            refusal: String::new(),
            operator: request.operator.clone(),
            reason: request.reason.clone(),
            started_ms: 0,
            ended_ms: None,
        };
        let now_ms = self.now_ms()?;
        let mut db_tx = self.shards.home().begin_with(Db::BEGIN_WRITE).await?;
        let is_closed = Db::open_batch(&mut db_tx, &closed).await?
            && Db::step(&mut db_tx, closed.batch, (State::Opening, State::Done), "").await?;
        let first = (users as i64, request.user_ids[users - 1]);
        if is_closed && Db::split_run(&mut db_tx, run, first, ids).await? {
            let others = Run { run: ids[1], users: run.users - first.0, tries: 0, ..run.clone() };
            let refusal = Code::SoldOut.name();
            Db::end_run(&mut db_tx, &others, Some(refusal), now_ms).await?;
            db_tx.commit().await?;
            metrics::occasion(refusal, others.users);
            return Ok(());
        }
        // It is open by now, or another's.
        db_tx.rollback().await?;
        self.put_off(run).await
    }

    async fn number(&self) -> anyhow::Result<i64> {
        Ok(self.ids.next(Slot::of_user(0)).await?)
    }

    fn now_ms(&self) -> anyhow::Result<i64> {
        self.ids.clock_ms().ok_or_else(|| anyhow::anyhow!("the clock is not known"))
    }
}

/// Whether it says that nothing is known of the outcome, or that we are at fault.
fn is_unknown(code: Code) -> bool {
    [Code::SystemBusy, Code::Timeout, Code::Internal].contains(&code)
}

/// Its caller's name for the batch of a run.
pub(in crate::issuing) fn batch_id(run: &Run) -> String {
    format!("{OCCASION_BATCH}{}", run.run)
}

/// For how many users of a batch that is refused there is enough, where it is for some of them.
fn enough_for(fault: &Fault, request: &pb::IssueRequest) -> Option<usize> {
    let free = fault.argument("free").filter(|_| fault.code == Code::SoldOut)?;
    let users = free.parse::<usize>().ok()? / request.coupons_per_user as usize;
    (1..request.user_ids.len()).contains(&users).then_some(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_given_to_as_many_as_it_is_enough_for() {
        let request = pb::IssueRequest { user_ids: vec![5, 6, 7], coupons_per_user: 2, ..pb::IssueRequest::default() };
        let sold_out = |free: &str| Code::SoldOut.fault([("final", "false".to_owned()), ("free", free.to_owned())]);
        for (free, users) in [("0", None), ("1", None), ("2", Some(1)), ("5", Some(2)), ("6", None), ("x", None)] {
            assert_eq!(enough_for(&sold_out(free), &request), users, "{free}");
        }
        assert_eq!(enough_for(&Code::SoldOut.fault([]), &request), None);
        assert_eq!(enough_for(&Code::NotOffered.fault([("free", "2".to_owned())]), &request), None);
    }
}
