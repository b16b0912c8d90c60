//! Runs a batch of calls: one local transaction with one fence statement, a handler call for each kind of operation, at
//! most one settle statement, and one COMMIT.
//!
//! A batch whose SQL fails is halved until the bad operation is alone; the others succeed. What lost against another
//! transaction is run again in place. A panic or an overrun of the time limit costs the batch its connection and nothing
//! more.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::{Connection as _, Pool, SqlStr};
use tercet_proto::participant::v1::{self as pb, Call, Reply, reply};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{error, warn};

use crate::clock::StoreClock;
use crate::context::Context;
use crate::fence::{self, Dialect, Entry, Operation, Settled, State, Verdict};
use crate::handler::{Job, Outcome, Trouble, shortened};
use crate::metrics;
use crate::participant::{Answer, DbTx};
use crate::service::Registered;
use crate::xid::Xid;

/// How often a local transaction that lost against another is run again before the answer is unknown.
const CONFLICTS_MAX: u32 = 20;
/// How many keys are remembered for having failed.
const SUSPECTS_MAX: usize = 1_024;
/// How many transactions may wait for the next round of forgetting.
const FORGOTTEN_MAX: usize = 200_000;
/// How many transactions' rows one statement deletes.
const FORGET_ROWS: usize = 500;

type Key = (Xid, u32);

/// A call that has been read.
struct Item {
    /// Its place in the batch.
    at: usize,
    operation: Operation,
    tried: bool,
    action: usize,
    /// Which database.
    place: usize,
    job: Job,
}

impl Item {
    fn key(&self) -> Key {
        (self.job.context.xid, self.job.context.branch)
    }
}

/// Why a local transaction came to nothing.
enum Failure {
    /// It lost against another and was rolled back.
    Conflict(String),
    /// It failed and was rolled back; fewer operations at once may succeed.
    Failed(String),
    /// As above, and its connection is in doubt.
    Panicked,
    /// Anything may have happened.
    Lost(String),
}

/// The keys that failed not long ago.
#[derive(Default)]
struct Suspects(VecDeque<Key>);

impl Suspects {
    fn add(&mut self, key: Key) {
        if self.0.len() >= SUSPECTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(key);
    }

    /// Whether the key is among them, and no longer is.
    fn take(&mut self, key: Key) -> bool {
        let at = self.0.iter().position(|other| *other == key);
        at.is_some_and(|at| self.0.remove(at).is_some())
    }
}

/// The transactions whose rows the next round of forgetting deletes.
#[derive(Default)]
struct Round {
    xids: Vec<Xid>,
    /// Whether the floor is above their calls everywhere.
    raised: bool,
}

/// One database, and the connections that batches hold.
struct Place<Db: Dialect> {
    pool: Pool<Db>,
    idle: Mutex<Vec<Db::Connection>>,
    writers: Semaphore,
}

/// What a session does with a batch: everything between the calls and their replies.
pub struct Executor<Db: Dialect> {
    service: &'static str,
    actions: Vec<Registered<Db>>,
    by_name: HashMap<&'static str, usize>,
    places: Vec<Place<Db>>,
    /// `None` runs handlers without a fence.
    fence_id: Option<[u8; 16]>,
    suspects: Mutex<Suspects>,
    forgotten: tokio::sync::Mutex<Round>,
    pub(crate) clock: StoreClock,
}

impl<Db: Dialect> Executor<Db> {
    pub(crate) fn new(
        service: &'static str,
        actions: Vec<Registered<Db>>,
        pools: Vec<Pool<Db>>,
        fence_id: Option<[u8; 16]>,
    ) -> Self {
        let by_name = actions.iter().enumerate().map(|(at, action)| (action.name, at)).collect();
        let places = pools
            .into_iter()
            .map(|pool| Place { pool, idle: Mutex::default(), writers: Semaphore::new(Db::WRITERS) })
            .collect();
        Self {
            service,
            actions,
            by_name,
            places,
            fence_id,
            suspects: Mutex::default(),
            forgotten: tokio::sync::Mutex::default(),
            clock: StoreClock::default(),
        }
    }

    /// What a session says first.
    pub(crate) fn register(&self) -> pb::Register {
        let actions = self.actions.iter().map(|action| pb::Action {
            name: action.name.to_owned(),
            operations: action.handler.operations().iter().map(|operation| operation.on_the_wire().into()).collect(),
        });
        pb::Register {
            service: self.service.to_owned(),
            actions: actions.collect(),
            fence_id: self.fence_id.unwrap_or_default().to_vec().into(),
            ..pb::Register::default()
        }
    }

    /// Runs the calls and answers each, in their order. Never fails: where anything may have happened, the reply says so.
    pub async fn run(&self, calls: Vec<Call>) -> Vec<Reply> {
        metrics::batch_ran(self.service, calls.len());
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(calls.len());
        let mut by_place: BTreeMap<usize, Vec<Item>> = BTreeMap::new();
        let mut counted = Vec::with_capacity(calls.len());
        for (at, call) in calls.into_iter().enumerate() {
            counted.push(self.by_name.get(call.action.as_str()).copied().zip(Operation::of(call.operation())));
            match self.read(at, call) {
                Ok(item) => {
                    outcomes.push(None);
                    by_place.entry(item.place).or_default().push(item);
                }
                Err(outcome) => outcomes.push(Some(outcome)),
            }
        }
        let places = by_place.into_iter().map(|(place, items)| self.run_place(place, items));
        for (at, outcome) in futures_util::future::join_all(places).await.into_iter().flatten() {
            outcomes[at] = Some(outcome);
        }
        let unanswered = || Err("the call was not run".to_owned());
        outcomes
            .into_iter()
            .zip(counted)
            .map(|(outcome, counted)| {
                let reply = reply(outcome.unwrap_or_else(unanswered));
                if let Some((action, operation)) = counted {
                    metrics::operation_ran(self.service, self.actions[action].name, operation, &reply);
                }
                reply
            })
            .collect()
    }

    fn read(&self, at: usize, call: Call) -> Result<Item, Outcome> {
        let unknown = |text: &str| Err(text.to_owned());
        let xid = Xid::from_slice(&call.xid).ok_or_else(|| unknown("the xid is not 16 bytes"))?;
        let operation =
            Operation::of(call.operation()).ok_or_else(|| unknown("the operation is none that this version knows"))?;
        // Another instance, of another version, may know the action.
        let action = self.by_name.get(call.action.as_str()).copied();
        let action = action.ok_or_else(|| unknown("this instance does not know the action"))?;
        let handler = &self.actions[action].handler;
        if !handler.operations().contains(&operation) {
            return Err(unknown("the action has no such operation"));
        }
        let place = match (self.places.len(), handler.place(&call.request)) {
            (1, _) => 0,
            (places, Ok(place)) if place < places => place,
            (places, Ok(place)) => {
                let action = self.actions[action].name;
                error!(service = self.service, action, place, places, "place() names a database that is not there");
                return Err(unknown("place() names a database that is not there"));
            }
            // Where its rows are, if it has any, is not to be known.
            (_, Err(error)) => return Err(Err(error.to_string())),
        };
        let context = Context { xid, branch: call.branch, not_after_ms: call.not_after_ms };
        let job = Job { context, request: call.request };
        Ok(Item { at, operation, tried: call.tried, action, place, job })
    }

    /// Runs the calls of one database in rounds: a round is sorted by key and has no key twice.
    async fn run_place(&self, place: usize, mut items: Vec<Item>) -> Vec<(usize, Outcome)> {
        let mut outcomes = Vec::with_capacity(items.len());
        // Stable, so that calls of one key keep their order.
        items.sort_by_key(Item::key);
        while !items.is_empty() {
            let mut later = Vec::new();
            let mut round: Vec<Item> = Vec::with_capacity(items.len());
            let mut alone = Vec::new();
            let mut latest = None;
            for item in items {
                if latest.replace(item.key()) == Some(item.key()) {
                    later.push(item);
                } else if self.suspects().take(item.key()) {
                    alone.push(vec![item]);
                } else {
                    round.push(item);
                }
            }
            let mut lots = alone;
            lots.push(round);
            while let Some(lot) = lots.pop() {
                self.run_lot(place, lot, &mut lots, &mut outcomes).await;
            }
            items = later;
        }
        outcomes
    }

    async fn run_lot(
        &self,
        place: usize,
        mut lot: Vec<Item>,
        lots: &mut Vec<Vec<Item>>,
        outcomes: &mut Vec<(usize, Outcome)>,
    ) {
        if lot.is_empty() {
            return;
        }
        let text = match self.run_in_place(&self.places[place], &lot).await {
            Ok(found) => {
                outcomes.extend(lot.iter().map(|item| item.at).zip(found));
                return;
            }
            Err(Failure::Failed(_) | Failure::Panicked) if lot.len() > 1 => {
                let second = lot.split_off(lot.len() / 2);
                lots.extend([second, lot]);
                return;
            }
            Err(Failure::Failed(text)) => {
                self.suspects().add(lot[0].key());
                text
            }
            Err(Failure::Panicked) => {
                self.suspects().add(lot[0].key());
                "the handler panicked".to_owned()
            }
            Err(Failure::Conflict(text) | Failure::Lost(text)) => text,
        };
        let (item, operations) = (&lot[0], lot.len());
        let (xid, branch, action) = (item.job.context.xid, item.job.context.branch, self.actions[item.action].name);
        warn!(service = self.service, %xid, branch, action, operations, error = text, "operations of unknown outcome");
        outcomes.extend(lot.iter().map(|item| (item.at, Err(text.clone()))));
    }

    /// One local transaction, run again while it loses against others.
    async fn run_in_place(&self, place: &Place<Db>, lot: &[Item]) -> Result<Vec<Outcome>, Failure> {
        let not_after = lot.iter().map(|item| item.job.context.not_after_ms).min().unwrap_or(u64::MAX);
        let deadline = self.clock.instant_of(not_after);
        let run = async {
            let closed = |_| Failure::Lost("the service is closing".to_owned());
            let _permit = place.writers.acquire().await.map_err(closed)?;
            let mut conflicts = 0;
            loop {
                let mut connection = self.connection(place).await.map_err(|error| Failure::Lost(error.to_string()))?;
                let failure = match self.transact(&mut connection, lot, deadline).await {
                    Ok(outcomes) => {
                        idle(place).push(connection);
                        return Ok(outcomes);
                    }
                    Err(failure) => failure,
                };
                if matches!(failure, Failure::Conflict(_) | Failure::Failed(_)) {
                    idle(place).push(connection);
                }
                conflicts += 1;
                if !matches!(failure, Failure::Conflict(_)) || conflicts > CONFLICTS_MAX {
                    return Err(failure);
                }
                metrics::fence_retried(self.service);
                // Two that lost to each other must not meet again in step: their batches differ in size or first key.
                let spread = lot[0].job.context.xid.as_bytes()[15] % 8;
                tokio::time::sleep(Duration::from_millis(u64::from(conflicts) + u64::from(spread))).await;
            }
        };
        match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, run)
                .await
                .unwrap_or_else(|_| Err(Failure::Lost("the calls' time was over".to_owned()))),
            None => run.await,
        }
    }

    async fn connection(&self, place: &Place<Db>) -> Result<Db::Connection, sqlx::Error> {
        let idle = idle(place).pop();
        match idle {
            Some(connection) => Ok(connection),
            None => Db::connect(&place.pool).await,
        }
    }

    /// One local transaction, once. It is rolled back unless the outcomes are returned or the failure says that its
    /// connection is in doubt.
    async fn transact(
        &self,
        connection: &mut Db::Connection,
        lot: &[Item],
        deadline: Option<Instant>,
    ) -> Result<Vec<Outcome>, Failure> {
        let begun = match Db::BEGIN {
            Some(sql) => connection.begin_with(SqlStr::from_static(sql)).await,
            None => connection.begin().await,
        };
        let mut db_tx = begun.map_err(failure::<Db>)?;
        let ran = match self.fill(&mut db_tx, lot).await {
            // A commit that late could come after the fence has forgotten the calls.
            Ok(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                Err(Failure::Lost("the calls' time was over".to_owned()))
            }
            ran => ran,
        };
        match ran {
            Ok(outcomes) => {
                let start = Instant::now();
                match db_tx.commit().await {
                    Ok(()) => metrics::committed(self.service, start.elapsed()),
                    Err(error) if Db::is_conflict(&error) => return Err(failure::<Db>(error)),
                    Err(error) => return Err(Failure::Lost(format!("COMMIT of unknown result: {error}"))),
                }
                Ok(outcomes)
            }
            Err(failure @ (Failure::Conflict(_) | Failure::Failed(_))) => match db_tx.rollback().await {
                Ok(()) => Err(failure),
                Err(error) => Err(Failure::Lost(format!("ROLLBACK of unknown result: {error}"))),
            },
            Err(failure @ (Failure::Panicked | Failure::Lost(_))) => Err(failure),
        }
    }

    /// All of a local transaction between its BEGIN and its COMMIT.
    async fn fill(&self, db_tx: &mut DbTx<Db>, lot: &[Item]) -> Result<Vec<Outcome>, Failure> {
        let (mut steps, prevs) = self.enter(db_tx, lot).await?;
        self.handle(db_tx, lot, &mut steps).await?;
        let mut settled = Vec::new();
        let outcomes = steps
            .into_iter()
            .zip(lot)
            .zip(prevs)
            .map(|((step, item), prev)| step.finish(item, prev, &mut settled))
            .collect();
        if self.fence_id.is_some() && !settled.is_empty() {
            Db::settle(db_tx, &settled).await.map_err(failure::<Db>)?;
        }
        Ok(outcomes)
    }

    /// Raises the floor, and then deletes the rows of the transactions that the call before this one named: every call of
    /// theirs that was under way then has met the raised floor since.
    pub(crate) async fn forget(&self, floor_ms: u64, mut xids: Vec<Xid>) {
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

    async fn forget_in(&self, place: &Place<Db>, floor_ms: u64, xids: &[Xid]) -> Result<(), sqlx::Error> {
        let _permit = place.writers.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let mut connection = self.connection(place).await?;
        Db::raise_floor(&mut connection, floor_ms).await?;
        for chunk in xids.chunks(FORGET_ROWS) {
            Db::forget(&mut connection, chunk).await?;
        }
        idle(place).push(connection);
        Ok(())
    }

    /// The fence's word on each.
    async fn enter(&self, db_tx: &mut DbTx<Db>, lot: &[Item]) -> Result<(Vec<Step>, Vec<State>), Failure> {
        if self.fence_id.is_none() {
            let steps = lot.iter().map(|item| match item.operation {
                Operation::Ask => Step::Said(Err("without a fence nothing is known".to_owned())),
                Operation::Try | Operation::Confirm | Operation::Cancel => Step::Run,
            });
            return Ok((steps.collect(), vec![State::None; lot.len()]));
        }
        let entries: Vec<Entry> = lot.iter().map(|item| Entry::new(&item.job.context, item.operation)).collect();
        let rows = fence::enter::<Db>(db_tx, &entries).await.map_err(failure::<Db>)?;
        let steps = lot.iter().zip(rows).map(|(item, row)| {
            let Some(row) = row else {
                return (Step::Said(Ok(Answer::not_now(Duration::ZERO))), State::None);
            };
            let step = match fence::verdict(item.operation, item.tried, &row) {
                Verdict::Run => Step::Run,
                Verdict::Say(answer) => Step::Said(Ok(answer)),
                Verdict::Fault(reason) => Step::Fault(reason),
            };
            (step, row.prev)
        });
        Ok(steps.unzip())
    }

    /// Runs the handlers, once for each action and operation.
    async fn handle(&self, db_tx: &mut DbTx<Db>, lot: &[Item], steps: &mut [Step]) -> Result<(), Failure> {
        let mut groups: BTreeMap<(usize, Operation), (Vec<usize>, Vec<Job>)> = BTreeMap::new();
        for (at, item) in lot.iter().enumerate() {
            if matches!(steps[at], Step::Run) {
                let (places, jobs) = groups.entry((item.action, item.operation)).or_default();
                places.push(at);
                jobs.push(item.job.clone());
            }
        }
        for ((action, operation), (places, jobs)) in groups {
            let action = &self.actions[action];
            let run = AssertUnwindSafe(action.handler.run(operation, db_tx, &jobs)).catch_unwind();
            let outcomes = match run.await {
                Ok(Ok(outcomes)) => outcomes,
                Ok(Err(Trouble::Sql(error))) => return Err(failure::<Db>(error)),
                Ok(Err(Trouble::Author(text))) => {
                    let (action, operation) = (action.name, operation.name());
                    error!(service = self.service, action, operation, error = text, "the handler breaks its contract");
                    return Err(Failure::Failed(text));
                }
                Err(_) => return Err(Failure::Panicked),
            };
            for (at, outcome) in places.into_iter().zip(outcomes) {
                steps[at] = Step::Ran(outcome);
            }
        }
        Ok(())
    }

    fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far an operation has come.
enum Step {
    /// The handler is to run.
    Run,
    /// The handler has run.
    Ran(Outcome),
    /// The fence answered, and its row stays.
    Said(Outcome),
    /// The fence found what can not be, and its row is put back.
    Fault(&'static str),
}

impl Step {
    /// The outcome, and what must be written for it.
    fn finish(self, item: &Item, prev: State, settled: &mut Vec<Settled>) -> Outcome {
        let key = item.key();
        let outcome = match self {
            Self::Said(outcome) => return outcome,
            Self::Ran(outcome) => outcome,
            Self::Run => Err("the handler was not run".to_owned()),
            Self::Fault(reason) => match item.operation {
                Operation::Ask => Err(reason.to_owned()),
                Operation::Try | Operation::Confirm | Operation::Cancel => Ok(Answer::refused(reason)),
            },
        };
        match outcome {
            Ok(Answer::Done(result)) => {
                if !result.is_empty() {
                    settled.push(Settled::keep(key, item.operation.wanted(), &result));
                }
                Ok(Answer::Done(result))
            }
            Ok(Answer::Refused(reason)) => {
                let reason = shortened(reason);
                settled.push(match item.operation {
                    Operation::Try => Settled::keep(key, State::Refused, reason.as_bytes()),
                    Operation::Confirm | Operation::Cancel | Operation::Ask => Settled::put_back(key, prev),
                });
                Ok(Answer::Refused(reason))
            }
            other @ (Ok(Answer::NotNow(_)) | Err(_)) => {
                settled.push(Settled::put_back(key, prev));
                other
            }
        }
    }
}

fn idle<Db: Dialect>(place: &Place<Db>) -> MutexGuard<'_, Vec<Db::Connection>> {
    place.idle.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failure<Db: Dialect>(error: sqlx::Error) -> Failure {
    if Db::is_conflict(&error) {
        Failure::Conflict(error.to_string())
    } else if matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed) {
        Failure::Lost(error.to_string())
    } else {
        Failure::Failed(error.to_string())
    }
}

fn reply(outcome: Outcome) -> Reply {
    let answer = match outcome {
        Ok(Answer::Done(result)) => reply::Answer::Done(result),
        Ok(Answer::Refused(reason)) => reply::Answer::Refused(reason),
        Ok(Answer::NotNow(delay)) => reply::Answer::NotNowMs(u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)),
        Err(text) => reply::Answer::Unknown(shortened(text)),
    };
    Reply { answer: Some(answer) }
}

#[cfg(test)]
mod tests;
