//! Many coupons at once: one transaction of the coordinator reserves the stock of all and writes the batch down; then
//! its chunks go into the shards, each in a local transaction of its database with a row that says so.
//!
//! Whom a batch is for that somebody asked for is kept until it is done: so he may go away, and the process that runs
//! it may die, and another goes on with it ([`run`]) once its lease is over.
//!
//! A chunk is of one slot, and what it holds follows from the list of users, so whoever runs the batch again, here or
//! elsewhere, skips the chunks that are there, wherever slots have moved meanwhile. Small ones share a local
//! transaction. A lease keeps two from running one batch side by side, which would only cost them time: the second to
//! write a chunk finds its row. The stock counts as issued from the start, since every batch is run to its end;
//! [`Progress`] tells how far it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use sha2::{Digest as _, Sha256};
use tercet::action::{Saga, Tcc};
use tercet::client::{Outcome, Wait};
use tercet::fence::Dialect;
use tercet::participant::Moves as _;
use tercet::plan::{self, Plan};
use tercet_events::event::Event;
use tercet_proto::coupon::v1 as pb;
use tercet_proto::stock::v1::{Reserve, Restock};
use tercet_rules::{Code, Fault, Refusal};
use tercet_shards::Slot;
use tokio::sync::mpsc::Sender;
use tracing::{error, warn};

use super::claims::busy;
use super::limits::{CALL_TIMEOUT, CHUNK, CLOSE_DEADLINE};
use super::{Issuing, fields};
use crate::store::batches::{Batch, State};
use crate::store::occasions::Occasions;
use crate::store::{self, Status, Store};
use crate::told::{self, By};
use crate::{CLOSE, OPEN, metrics, stock};

/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);
/// How long a runner that says nothing keeps the batch.
const LEASE_MS: i64 = 5_000;
/// How long a chunk is tried before the batch stops.
const PATIENCE: Duration = Duration::from_secs(30);
/// Users of a row of a list.
const PART: usize = 10_000;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

mod left;

pub(super) use left::run;

/// Where progress goes, for as long as somebody listens.
pub type Progress = Sender<Result<pb::Batch, tonic::Status>>;

/// A part of a batch: so many coupons of users of one slot.
struct Chunk {
    chunk: i64,
    /// Each as often as he gets a coupon.
    user_ids: Vec<i64>,
}

/// What is missing in a database: the chunks of each local transaction, and the epoch by which it serves their slots.
struct Lane {
    database: usize,
    epoch: i64,
    lots: Vec<Vec<Chunk>>,
}

fn database(error: sqlx::Error) -> Fault {
    error!(%error, "the database of batches");
    busy()
}

impl<Db: Occasions + Dialect> Issuing<Db> {
    /// Runs a batch to its end, or watches it where it runs elsewhere; told to whoever wants to know. Without anybody,
    /// its caller has it run again by himself, and whom it is for is not kept.
    ///
    /// # Errors
    /// Why it is not begun, or can not go on.
    pub(super) async fn run_batch(&self, request: &pb::IssueRequest, progress: Option<&Progress>) -> Result<(), Fault> {
        fields::issue(request)?;
        let digest = digest(request);
        let batch = match self.batch(&request.batch_id).await? {
            Some(batch) if batch.digest != digest => return Err(Code::KeyReused.fault([])),
            Some(batch) if batch.state != State::Opening => batch,
            Some(_) | None => self.open_batch(request, &digest, progress.is_some()).await?,
        };
        let runner = self.ids.next(Slot::of_user(0)).await.map_err(|_| busy())?;
        loop {
            let batch = self.batch(&batch.batch_id).await?.ok_or_else(busy)?;
            let told = self.tell(&batch, progress).await?;
            let has_ended = matches!(batch.state, State::Done | State::Ending | State::Ended);
            if has_ended || !told {
                return Ok(());
            }
            if self.take_lease(batch.batch, runner).await? {
                return self.issue_chunks(request, &batch, runner, progress).await;
            }
            tokio::time::sleep(TELL).await;
        }
    }

    /// How far a batch is.
    pub(super) async fn get_batch(&self, batch_id: &str) -> Result<pb::Batch, Fault> {
        let missing = || Code::NotFound.fault([("what", "batch".to_owned()), ("id", batch_id.to_owned())]);
        let batch = self.batch(batch_id).await?.ok_or_else(missing)?;
        self.view(&batch).await
    }

    async fn batch(&self, batch_id: &str) -> Result<Option<Batch>, Fault> {
        let mut connection = self.shards.home().acquire().await.map_err(database)?;
        Db::batch(&mut connection, batch_id).await.map_err(database)
    }

    async fn take_lease(&self, batch: i64, runner: i64) -> Result<bool, Fault> {
        let mut connection = self.shards.home().acquire().await.map_err(database)?;
        Db::lease(&mut connection, batch, runner, LEASE_MS).await.map_err(database)
    }

    /// The batch as it is, counted where its coupons are.
    async fn view(&self, batch: &Batch) -> Result<pb::Batch, Fault> {
        let issued: i64 = self.written(batch).await?.values().sum();
        let state = match batch.state {
            State::Opening | State::Running => pb::BatchState::Running,
            State::Done => pb::BatchState::Done,
            State::Stopped => pb::BatchState::Stopped,
            State::Ending => pb::BatchState::Ending,
            State::Ended => pb::BatchState::Ended,
        };
        let refusal = (!batch.refusal.is_empty())
            .then(|| pb::Refusal { code: batch.refusal.clone(), arguments: BTreeMap::new() });
        Ok(pb::Batch {
            batch_id: batch.batch_id.clone(),
            template_id: batch.template_id,
            version: u32::try_from(batch.version).unwrap_or(0),
            state: state.into(),
            coupons: batch.coupons.unsigned_abs(),
            issued: issued.unsigned_abs(),
            refusal,
            started_ms: batch.started_ms,
            ended_ms: batch.ended_ms.unwrap_or(0),
        })
    }

    /// The chunks that are there, with their coupons: one that moves is in two databases.
    async fn written(&self, batch: &Batch) -> Result<BTreeMap<i64, i64>, Fault> {
        let mut written = BTreeMap::new();
        for pool in self.shards.pools() {
            let mut connection = pool.acquire().await.map_err(database)?;
            written.extend(Db::chunks(&mut connection, batch.batch).await.map_err(database)?);
        }
        Ok(written)
    }

    /// Whether nobody who listened has gone.
    async fn tell(&self, batch: &Batch, progress: Option<&Progress>) -> Result<bool, Fault> {
        let Some(progress) = progress else { return Ok(true) };
        let view = self.view(batch).await?;
        Ok(progress.send(Ok(view)).await.is_ok())
    }

    /// Reserves the stock and writes the batch down: both, or neither.
    async fn open_batch(&self, request: &pb::IssueRequest, digest: &str, keep: bool) -> Result<Batch, Fault> {
        let current = self.offers.get(request.template_id).await?;
        let refuse = |refusal: Refusal| if current.fresh { refusal.into() } else { busy() };
        let claimed_ms = self.ids.clock_ms().ok_or_else(busy)?;
        let release = current.offer.for_all().map_err(refuse)?;
        release.rules.may_claim(claimed_ms, 0, 0).map_err(refuse)?;
        let period = release.rules.validity().period(claimed_ms);
        let coupons = request.user_ids.len() as i64 * i64::from(request.coupons_per_user);
        let open = pb::OpenBatch {
            batch: self.ids.next(Slot::of_user(0)).await.map_err(|_| busy())?,
            batch_id: request.batch_id.clone(),
            digest: digest.to_owned(),
            template_id: request.template_id,
            version: release.version,
            claimed_ms,
            valid_from_ms: period.start_ms(),
            valid_until_ms: period.end_ms(),
            coupons,
            operator: request.operator.clone(),
            reason: request.reason.clone(),
        };
        let plan = plan(&open).map_err(|error| {
            error!(%error, "a batch is no plan");
            busy()
        })?;
        if keep {
            self.keep_users(open.batch, &request.user_ids).await.map_err(database)?;
        }
        let view = self.client.submit(plan, Wait::Ended).await.map_err(|error| {
            warn!(%error, "a batch of which it is not known whether it is open");
            busy()
        })?;
        match view.outcome() {
            Some(Outcome::Confirmed) => self.opened(request, digest).await,
            Some(Outcome::Cancelled) => {
                if keep {
                    self.drop_list(open.batch).await.map_err(database)?;
                }
                match view.refusal().and_then(|refusal| Fault::from_reason(&refusal.reason)) {
                    // Somebody else was quicker.
                    Some(fault) if fault.code == Code::KeyReused => self.opened(request, digest).await,
                    Some(fault) => Err(fault),
                    None => Err(busy()),
                }
            }
            None => Err(busy()),
        }
    }

    async fn opened(&self, request: &pb::IssueRequest, digest: &str) -> Result<Batch, Fault> {
        match self.batch(&request.batch_id).await? {
            Some(batch) if batch.digest != digest => Err(Code::KeyReused.fault([])),
            Some(batch) if batch.state != State::Opening => Ok(batch),
            Some(_) | None => Err(busy()),
        }
    }

    async fn issue_chunks(
        &self,
        request: &pb::IssueRequest,
        batch: &Batch,
        runner: i64,
        progress: Option<&Progress>,
    ) -> Result<(), Fault> {
        if batch.state == State::Stopped {
            self.step(batch.batch, (State::Stopped, State::Running), "").await?;
        }
        let all = async {
            loop {
                let (lanes, moving) = self.lanes(request, &self.written(batch).await?);
                let written = try_join_all(lanes.iter().map(|lane| self.run_lane(batch, lane))).await?;
                if !moving && written.into_iter().all(|all| all) {
                    return Ok::<(), Fault>(());
                }
                tokio::time::sleep(PAUSE).await;
                self.shards.look().await;
            }
        };
        let ran = tokio::select! {
            ran = all => ran,
            // It goes on, or is ended, once the lease is over.
            told = self.keep_telling(batch, runner, progress) => return told,
        };
        if batch.state == State::Ending {
            ran?;
            self.close(batch).await?;
            metrics::batch("ended");
            return Ok(());
        }
        let (state, name, refusal) = match &ran {
            Ok(()) => (State::Done, "done", ""),
            Err(fault) => (State::Stopped, "stopped", fault.code.name()),
        };
        let has_stepped = self.step(batch.batch, (State::Running, state), refusal).await?;
        if has_stepped {
            metrics::batch(name);
        }
        // Whoever goes on with one that an operator has ended meanwhile has to know whom it is for.
        if has_stepped && state == State::Done {
            self.drop_list(batch.batch).await.map_err(database)?;
        }
        let batch = self.batch(&batch.batch_id).await?.ok_or_else(busy)?;
        self.tell(&batch, progress).await?;
        ran
    }

    /// Keeps the lease and tells how far it is, until that fails, or an operator ends it.
    async fn keep_telling(&self, batch: &Batch, runner: i64, progress: Option<&Progress>) -> Result<(), Fault> {
        loop {
            tokio::time::sleep(TELL).await;
            let now = self.batch(&batch.batch_id).await?.ok_or_else(busy)?;
            self.tell(&now, progress).await?;
            if now.state == State::Ending && batch.state != State::Ending {
                return Ok(());
            }
            // Whoever finds the lease gone goes on: the chunks' rows keep the two apart.
            self.take_lease(batch.batch, runner).await?;
        }
    }

    /// Gives the stock of what is not issued back, and ends the batch: both, or neither.
    async fn close(&self, batch: &Batch) -> Result<(), Fault> {
        let issued: i64 = self.written(batch).await?.values().sum();
        let plan = close(batch, batch.coupons - issued).map_err(|error| {
            error!(%error, "the end of a batch is no plan");
            busy()
        })?;
        let view = self.client.submit(plan, Wait::Ended).await.map_err(|error| {
            warn!(%error, batch = batch.batch_id, "a batch of which it is not known whether it has ended");
            busy()
        })?;
        view.confirmed().map_err(|undone| {
            warn!(%undone, batch = batch.batch_id, "a batch is not ended yet");
            busy()
        })?;
        let mut connection = self.shards.home().acquire().await.map_err(database)?;
        Db::unreturn(&mut connection, batch.template_id).await.map_err(database)?;
        Db::drop_list(&mut connection, batch.batch).await.map_err(database)
    }

    async fn step(&self, batch: i64, states: (State, State), refusal: &str) -> Result<bool, Fault> {
        let mut connection = self.shards.home().acquire().await.map_err(database)?;
        Db::step(&mut connection, batch, states, refusal).await.map_err(database)
    }

    async fn keep_users(&self, batch: i64, user_ids: &[i64]) -> sqlx::Result<()> {
        let mut db_tx = self.shards.home().begin_with(Db::BEGIN_WRITE).await?;
        for (part, user_ids) in (0..).zip(user_ids.chunks(PART)) {
            Db::keep_users(&mut db_tx, batch, part, user_ids).await?;
        }
        db_tx.commit().await
    }

    async fn drop_list(&self, batch: i64) -> sqlx::Result<()> {
        Db::drop_list(&mut *self.shards.home().acquire().await?, batch).await
    }

    /// What is missing in each database, users by slot and id, so that a local transaction is a few statements of many
    /// rows; and whether there is more of slots that are moving.
    fn lanes(&self, request: &pb::IssueRequest, written: &BTreeMap<i64, i64>) -> (Vec<Lane>, bool) {
        let mut users: BTreeMap<Slot, Vec<i64>> = BTreeMap::new();
        for user_id in &request.user_ids {
            users.entry(Slot::of_user(*user_id)).or_default().push(*user_id);
        }
        let view = self.shards.slots().view();
        let (mut lanes, mut moving): (BTreeMap<usize, Lane>, bool) = (BTreeMap::new(), false);
        for (slot, mut user_ids) in users {
            user_ids.sort_unstable();
            let each = request.coupons_per_user as usize;
            let coupons: Vec<i64> = user_ids.iter().flat_map(|user_id| std::iter::repeat_n(*user_id, each)).collect();
            for (number, user_ids) in (0..).zip(coupons.chunks(CHUNK)) {
                let chunk = slot.id(number);
                if written.contains_key(&chunk) {
                    continue;
                }
                if !view.is_served(slot) {
                    moving = true;
                    continue;
                }
                let (database, epoch) = (view.database(slot), view.epoch(view.database(slot)));
                let lane = lanes.entry(database).or_insert_with(|| Lane { database, epoch, lots: vec![Vec::new()] });
                lane.push(Chunk { chunk, user_ids: user_ids.to_vec() });
            }
        }
        (lanes.into_values().collect(), moving)
    }

    /// The chunks of one database, one local transaction after the other; whether they are all there.
    async fn run_lane(&self, batch: &Batch, lane: &Lane) -> Result<bool, Fault> {
        for lot in &lane.lots {
            let begun = Instant::now();
            let written = loop {
                match self.write(batch, lane, lot).await {
                    Ok(written) => break written,
                    Err(error) if begun.elapsed() > PATIENCE => {
                        error!(%error, batch = batch.batch_id, database = lane.database, "a batch stops");
                        return Err(busy());
                    }
                    Err(error) => {
                        warn!(%error, batch = batch.batch_id, database = lane.database, "chunks are tried again");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            };
            if !written {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes chunks; false where one of them is there, or its slot is not any more. Of a batch that is being ended
    /// they are empty, so that nobody writes them any more.
    async fn write(&self, batch: &Batch, lane: &Lane, chunks: &[Chunk]) -> anyhow::Result<bool> {
        let issues = batch.state != State::Ending;
        let mut claims = Vec::with_capacity(CHUNK);
        for user_id in chunks.iter().filter(|_| issues).flat_map(|chunk| &chunk.user_ids) {
            claims.push(pb::Claim {
                coupon_id: self.ids.next(Slot::of_user(*user_id)).await?,
                template_id: batch.template_id,
                user_id: *user_id,
                version: u32::try_from(batch.version)?,
                claimed_ms: batch.claimed_ms,
                valid_from_ms: batch.valid_from_ms,
                valid_until_ms: batch.valid_until_ms,
                ..pb::Claim::default()
            });
        }
        let Some(mut db_tx) = self.shards.begin_at(lane.database, lane.epoch).await? else { return Ok(false) };
        let coupons = |chunk: &Chunk| if issues { chunk.user_ids.len() as i64 } else { 0 };
        let marks: Vec<(i64, i64)> = chunks.iter().map(|chunk| (chunk.chunk, coupons(chunk))).collect();
        match Db::mark_chunks(&mut db_tx, batch.batch, &marks).await {
            Ok(()) => {}
            Err(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => {
                db_tx.rollback().await?;
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        // One whose time ended while the batch was stopped would not be looked at again.
        let ended = self.ids.clock_ms().is_some_and(|now_ms| batch.valid_until_ms <= now_ms);
        let status = if ended { Status::Expired } else { Status::Issued };
        let inserts = store::inserts(self.shards.map(), &claims, status, batch.batch);
        <Db as Store>::run(&mut db_tx, &inserts).await?;
        if self.outbox.is_on() {
            let events = events(batch, &claims, ended);
            self.outbox.append::<Db>(&mut db_tx, events).await?;
        }
        db_tx.commit().await?;
        metrics::issued(claims.len());
        Ok(true)
    }
}

impl Lane {
    /// With what it fits into a local transaction with, in one; else in the next.
    fn push(&mut self, chunk: Chunk) {
        let coupons = |lot: &[Chunk]| lot.iter().map(|chunk| chunk.user_ids.len()).sum::<usize>();
        match self.lots.last_mut() {
            Some(lot) if coupons(lot) + chunk.user_ids.len() <= CHUNK => lot.push(chunk),
            Some(_) | None => self.lots.push(vec![chunk]),
        }
    }
}

fn events(batch: &Batch, claims: &[pb::Claim], ended: bool) -> Vec<Event> {
    let by = By { operator: &batch.operator, reason: &batch.reason, batch_id: &batch.batch_id };
    let mut events: Vec<Event> = claims.iter().map(|claim| told::issued_by(claim, by)).collect();
    if ended {
        events.extend(claims.iter().map(|claim| told::expired(claim.coupon_id, claim.user_id, claim.template_id, 1)));
    }
    events
}

fn close(batch: &Batch, rest: i64) -> anyhow::Result<Plan<Saga>> {
    let mut plan = plan::saga().deadline(CLOSE_DEADLINE);
    let key = format!("batch/{}", batch.batch);
    let closed = plan.branch(CLOSE.with(&pb::CloseBatch { batch: batch.batch })?.business_key(key));
    if rest > 0 {
        let units = Restock { item: stock::template_item(batch.template_id), count: u32::try_from(rest)? };
        let units = stock::RESTOCK.with(&units)?.business_key(format!("template/{}", batch.template_id));
        plan.branch(units.after(&[closed]));
    }
    Ok(plan.build()?)
}

fn plan(open: &pb::OpenBatch) -> anyhow::Result<Plan<Tcc>> {
    let units = Reserve { item: stock::template_item(open.template_id), count: u32::try_from(open.coupons)? };
    let mut plan = plan::tcc().idempotency_key(format!("issue/{}", open.batch)).deadline(CALL_TIMEOUT);
    let written = plan.branch(OPEN.with(open)?.business_key(format!("batch/{}", open.batch)));
    // Of several who open one batch, one alone reserves stock for it: the others would take it to be sold out.
    let units = stock::RESERVE.with(&units)?.business_key(format!("template/{}", open.template_id));
    plan.branch(units.after(&[written]));
    Ok(plan.build()?)
}

/// Of what a batch is about.
fn digest(request: &pb::IssueRequest) -> String {
    let mut hash = Sha256::new();
    hash.update(request.template_id.to_le_bytes());
    hash.update(request.coupons_per_user.to_le_bytes());
    for user_id in &request.user_ids {
        hash.update(user_id.to_le_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
