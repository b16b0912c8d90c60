//! Batches that nobody runs, and what operators do with those that there are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tercet::beside::{Failure, Stop};
use tercet::fence::Dialect;
use tercet_events::event::{Event, Payload};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::events::v1::OperatorChange;
use tercet_rules::{Code, Fault};
use tercet_shards::Slot;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::super::claims::busy;
use super::super::limits::LEFT_MAX;
use super::super::{Issuing, fields};
use super::database;
use crate::metrics;
use crate::store::batches::{Batch, State};
use crate::store::occasions::Occasions;

/// Between two looks at what nobody runs.
const LOOK: Duration = Duration::from_secs(2);
/// Between two deletions of lists that nobody needs.
const CLEAN: Duration = Duration::from_secs(600);
/// How old a list is by then: longer than a batch takes to be opened.
const OLD_MS: i64 = 86_400_000;

/// Goes on with batches that nobody runs, until it is told to stop. What it leaves, another goes on with.
pub(in crate::issuing) async fn run<Db: Occasions + Dialect>(
    issuing: Arc<Issuing<Db>>,
    mut stop: Stop,
) -> Result<(), Failure> {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut under_way, mut cleaned) = (FuturesUnordered::new(), Instant::now());
    loop {
        let is_time = tokio::select! {
            () = stop.requested() => return Ok(()),
            Some(()) = under_way.next() => false,
            _ = look.tick() => true,
        };
        let free = LEFT_MAX - under_way.len();
        if !is_time || free == 0 {
            continue;
        }
        match issuing.left(free).await {
            Ok(left) => under_way.extend(left.into_iter().map(|batch| go_on(&issuing, batch))),
            Err(error) => warn!(%error, "which batches nobody runs can not be read"),
        }
        if cleaned.elapsed() >= CLEAN {
            cleaned = Instant::now();
            if let Err(error) = issuing.drop_old_users().await {
                warn!(%error, "whom batches were for that came to nothing is deleted later");
            }
        }
    }
}

async fn go_on<Db: Occasions + Dialect>(issuing: &Issuing<Db>, batch: Batch) {
    if let Err(fault) = issuing.go_on(&batch).await {
        warn!(batch = batch.batch_id, %fault, "a batch that nobody runs does not go on");
    }
}

impl<Db: Occasions + Dialect> Issuing<Db> {
    async fn drop_old_users(&self) -> sqlx::Result<()> {
        Db::drop_old_users(&mut *self.shards.home().acquire().await?, OLD_MS).await
    }

    /// Batches that nobody runs, at most so many.
    async fn left(&self, limit: usize) -> sqlx::Result<Vec<Batch>> {
        let mut connection = self.shards.home().acquire().await?;
        let (running, stopped) = Db::unfinished(&mut connection).await?;
        metrics::batches(running, stopped);
        Db::left(&mut connection, limit).await
    }

    /// Runs a batch that nobody runs to its end.
    async fn go_on(&self, batch: &Batch) -> Result<(), Fault> {
        let runner = self.ids.next(Slot::of_user(0)).await.map_err(|_| busy())?;
        if !self.take_lease(batch.batch, runner).await? {
            return Ok(());
        }
        let mut connection = self.shards.home().acquire().await.map_err(database)?;
        let user_ids = Db::users(&mut connection, batch.batch).await.map_err(database)?;
        drop(connection);
        let request = pb::IssueRequest {
            batch_id: batch.batch_id.clone(),
            template_id: batch.template_id,
            coupons_per_user: u32::try_from(batch.coupons / (user_ids.len() as i64).max(1)).unwrap_or(0),
            user_ids,
            operator: batch.operator.clone(),
            reason: batch.reason.clone(),
        };
        info!(batch = batch.batch_id, "a batch that nobody ran goes on");
        self.issue_chunks(&request, batch, runner, None).await
    }

    /// Batches, newest first.
    pub(in crate::issuing) async fn list_batches(
        &self,
        request: &pb::ListIssuesRequest,
    ) -> Result<pb::ListIssuesResponse, Fault> {
        let (limit, state) = (fields::batches(request.limit)?, fields::batch_state(request.state)?);
        let before = if request.before > 0 { request.before } else { i64::MAX };
        let mut connection = self.shards.home().acquire().await.map_err(database)?;
        let found = Db::list(&mut connection, state, before, limit).await.map_err(database)?;
        drop(connection);
        let next = found.last().filter(|_| found.len() == limit as usize).map_or(0, |batch| batch.batch);
        let mut batches = Vec::with_capacity(found.len());
        for batch in &found {
            batches.push(self.view(batch).await?);
        }
        Ok(pb::ListIssuesResponse { batches, next })
    }

    /// Ends a batch: from now on nothing is issued of it that is not being written.
    pub(in crate::issuing) async fn end_batch(&self, request: &pb::EndIssueRequest) -> Result<pb::Batch, Fault> {
        let pb::EndIssueRequest { batch_id, operator, reason } = request;
        fields::named_batch(batch_id)?;
        fields::own_batch(batch_id)?;
        fields::by(operator, reason)?;
        let mut db_tx = self.shards.home().begin_with(Db::BEGIN_WRITE).await.map_err(database)?;
        let Some(batch) = Db::batch(&mut db_tx, batch_id).await.map_err(database)? else {
            return Err(Code::NotFound.fault([("what", "batch".to_owned()), ("id", batch_id.clone())]));
        };
        match batch.state {
            State::Opening => return Err(busy()),
            State::Running | State::Stopped => {
                let states = (batch.state, State::Ending);
                if !Db::step(&mut db_tx, batch.batch, states, "").await.map_err(database)? {
                    return Err(busy());
                }
                let change = OperatorChange {
                    what: "batch".to_owned(),
                    id: batch.batch,
                    operator: operator.clone(),
                    action: "end".to_owned(),
                    reason: reason.clone(),
                    before: written(&batch, batch.state),
                    after: written(&batch, State::Ending),
                    ..OperatorChange::default()
                };
                let told = Event::new(0, Payload::OperatorChange(change));
                self.outbox.append::<Db>(&mut db_tx, [told]).await.map_err(database)?;
                db_tx.commit().await.map_err(database)?;
            }
            State::Done | State::Ending | State::Ended => {}
        }
        self.get_batch(batch_id).await
    }
}

/// A batch as the log has it, at this point of it.
fn written(batch: &Batch, state: State) -> String {
    let Batch { batch_id, template_id, version, coupons, .. } = batch;
    let state = match state {
        State::Opening => "opening",
        State::Running => "running",
        State::Done => "done",
        State::Stopped => "stopped",
        State::Ending => "ending",
        State::Ended => "ended",
    };
    let json = serde_json::json!({
        "batch_id": batch_id,
        "template_id": template_id,
        "version": version,
        "coupons": coupons,
        "state": state,
    });
    json.to_string()
}
