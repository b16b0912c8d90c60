//! Runs a batch of calls: one local transaction with one fence statement, a handler call for each kind of operation, at
//! most one settle statement, and one COMMIT.
//!
//! A batch whose SQL fails is halved until the bad operation is alone; the others succeed. What lost against another
//! transaction is run again in place. A panic or an overrun of the time limit costs the batch its connection and
//! nothing more.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use sqlx::Pool;
use tercet_proto::participant::v1::{self as pb, Call, Reply, reply};
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use crate::clock::StoreClock;
use crate::conserve::Invariant;
use crate::context::Context;
use crate::fence::{Dialect, Operation};
use crate::handler::{Job, Outcome, shortened};
use crate::metrics;
use crate::participant::{Answer, Moves, Place};
use crate::service::Registered;
use crate::xid::Xid;

mod book;
mod connections;
mod forget;
mod late;
mod local;
mod overrun;

use connections::Connections;
use late::Turn;
use local::Failure;

/// The action of a coordinator's canaries, which only ask whether batches are run.
const CANARY: &str = "tercet.canary";
/// When a call whose rows are moving is asked for again.
const MOVING: Duration = Duration::from_millis(150);
/// How many keys are remembered for having failed.
const SUSPECTS_MAX: usize = 1_024;
type Key = (Xid, u32);
/// What runs together: the database, and its epoch.
type Group = (usize, Option<i64>);
/// The outcome of each call of a group, by its place in the batch.
type Ended = (Group, Vec<(usize, Outcome)>);
/// What of a batch goes on after its replies.
pub(crate) type Rest<'a> = FuturesUnordered<BoxFuture<'a, Ended>>;

/// A call that has been read.
struct Item {
    /// Its place in the batch.
    at: usize,
    operation: Operation,
    tried: bool,
    action: usize,
    /// All items that run together have the database and its epoch in common.
    place: Place,
    job: Job,
}

impl Item {
    fn key(&self) -> Key {
        (self.job.context.xid, self.job.context.branch)
    }
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

/// What a session does with a batch: everything between the calls and their replies.
pub struct Executor<Db: Dialect> {
    service: &'static str,
    actions: Vec<Registered<Db>>,
    by_name: HashMap<&'static str, usize>,
    places: Vec<Connections<Db>>,
    /// `None` runs handlers without a fence.
    fence_id: Option<[u8; 16]>,
    invariants: Vec<Invariant>,
    /// Knows where rows are that move.
    moves: Option<Arc<dyn Moves>>,
    /// Most calls of one local transaction.
    batch_max: usize,
    suspects: Mutex<Suspects>,
    clock: StoreClock,
}

impl<Db: Dialect> Executor<Db> {
    pub(crate) fn new(
        service: &'static str,
        actions: Vec<Registered<Db>>,
        pools: Vec<Pool<Db>>,
        fence_id: Option<[u8; 16]>,
        invariants: Vec<Invariant>,
    ) -> Self {
        let by_name = actions.iter().enumerate().map(|(at, action)| (action.name, at)).collect();
        let places = pools.into_iter().map(Connections::new).collect();
        Self {
            service,
            actions,
            by_name,
            places,
            fence_id,
            invariants,
            moves: None,
            batch_max: usize::MAX,
            suspects: Mutex::default(),
            clock: StoreClock::default(),
        }
    }

    /// With rows that move.
    pub(crate) fn moving(mut self, moves: Option<Arc<dyn Moves>>) -> Self {
        self.moves = moves;
        self
    }

    /// With so many calls in one local transaction at most.
    pub(crate) const fn batch_max(mut self, calls: usize) -> Self {
        self.batch_max = calls;
        self
    }

    /// What a session says first, but for what belongs to the process: its instance, version and window.
    pub fn register(&self) -> pb::Register {
        let actions = self.actions.iter().map(|action| pb::Action {
            name: action.name.to_owned(),
            operations: action.handler.operations().iter().map(|operation| operation.on_the_wire().into()).collect(),
        });
        pb::Register {
            service: self.service.to_owned(),
            actions: actions.collect(),
            fence_id: self.fence_id.unwrap_or_default().to_vec().into(),
            invariants: self.invariants.iter().map(|invariant| invariant.name.to_owned()).collect(),
            ..pb::Register::default()
        }
    }

    /// Takes the coordinator's time, as its welcome brings it at the beginning of a session.
    pub fn greet(&self, now_ms: u64) {
        self.clock.begin(now_ms);
    }

    /// Takes the coordinator's time, as its heartbeats bring it.
    pub fn hear(&self, now_ms: u64) {
        self.clock.read(now_ms);
    }

    /// Runs the calls and answers each, in their order. Never fails: where anything may have happened, the reply
    /// says so.
    pub async fn run(&self, calls: Vec<Call>) -> Vec<Reply> {
        self.run_batch(calls, true).await.0
    }

    /// The same, without waiting for a database that is late while there are others: its calls are of unknown outcome.
    /// Whoever drops the rest rolls it back.
    pub(crate) async fn run_in_time(&self, calls: Vec<Call>) -> (Vec<Reply>, Rest<'_>) {
        self.run_batch(calls, self.places.len() == 1).await
    }

    async fn run_batch(&self, calls: Vec<Call>, waits: bool) -> (Vec<Reply>, Rest<'_>) {
        metrics::batch_ran(self.service, calls.len());
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(calls.len());
        let mut items = Vec::with_capacity(calls.len());
        let mut kinds = Vec::with_capacity(calls.len());
        for (at, call) in calls.into_iter().enumerate() {
            kinds.push(self.by_name.get(call.action.as_str()).copied().zip(Operation::of(call.operation())));
            match self.read(at, call) {
                Ok(item) => {
                    outcomes.push(None);
                    items.push(item);
                }
                Err(outcome) => outcomes.push(Some(outcome)),
            }
        }
        let mut by_place: BTreeMap<Group, Vec<Item>> = BTreeMap::new();
        for (item, moving) in self.placed(items).await {
            match moving {
                Some(outcome) => outcomes[item.at] = Some(outcome),
                None => by_place.entry((item.place.database, item.place.epoch)).or_default().push(item),
            }
        }
        let rest = self.run_places(by_place, &mut outcomes, waits).await;
        let replies: Vec<Reply> = outcomes.into_iter().map(|outcome| reply(outcome.unwrap_or_else(late))).collect();
        self.count(&kinds, &replies);
        (replies, rest)
    }

    /// Runs what is to be run in each database, until all of it has ended, or nobody waits for what goes on.
    async fn run_places(
        &self,
        by_place: BTreeMap<Group, Vec<Item>>,
        outcomes: &mut [Option<Outcome>],
        waits: bool,
    ) -> Rest<'_> {
        let mut runs = Rest::new();
        // For how long each is waited for.
        let mut waited: BTreeMap<Group, Duration> = BTreeMap::new();
        for (group, items) in by_place {
            if let Some(turn) = self.places[group.0].lateness.admit() {
                waited.insert(group, turn.patience());
                runs.push(self.run_turn(turn, group, items).boxed());
            } else {
                for item in items {
                    outcomes[item.at] = Some(Ok(Answer::not_now(late::AGAIN)));
                }
            }
        }
        let begun = Instant::now();
        while let Some(patience) = waited.values().max() {
            let next = runs.next();
            let ended = if waits { Ok(next.await) } else { timeout_at(begun + *patience, next).await };
            let Ok(Some((group, ended))) = ended else { break };
            waited.remove(&group);
            for (at, outcome) in ended {
                outcomes[at] = Some(outcome);
            }
        }
        for (database, _) in waited.into_keys() {
            if self.places[database].lateness.given_up() {
                warn!(service = self.service, database, "a database is late, and nobody waits for it");
            }
        }
        runs
    }

    async fn run_turn(&self, turn: Turn<'_>, group: Group, items: Vec<Item>) -> Ended {
        let outcomes = self.run_place(group.0, items).await;
        if outcomes.iter().any(|(_, outcome)| outcome.is_ok()) && turn.answered() {
            info!(service = self.service, database = group.0, "a database that was late answers again");
        }
        (group, outcomes)
    }

    fn count(&self, kinds: &[Option<(usize, Operation)>], replies: &[Reply]) {
        let mut counts: BTreeMap<_, u64> = BTreeMap::new();
        for ((action, operation), reply) in kinds.iter().zip(replies).filter_map(|(kind, reply)| kind.zip(Some(reply)))
        {
            *counts.entry((self.actions[action].name, operation, metrics::name(reply))).or_default() += 1;
        }
        for ((action, operation, reply), count) in counts {
            metrics::operations_ran(self.service, action, operation, reply, count);
        }
    }

    fn read(&self, at: usize, call: Call) -> Result<Item, Outcome> {
        let unknown = |text: &str| Err(text.to_owned());
        let xid = Xid::from_slice(&call.xid).ok_or_else(|| unknown("the xid is not 16 bytes"))?;
        let operation =
            Operation::of(call.operation()).ok_or_else(|| unknown("the operation is none that this version knows"))?;
        if call.action == CANARY {
            return Err(Ok(Answer::done()));
        }
        // Another instance, of another version, may know the action.
        let action = self.by_name.get(call.action.as_str()).copied();
        let action = action.ok_or_else(|| unknown("this instance does not know the action"))?;
        let handler = &self.actions[action].handler;
        if !handler.operations().contains(&operation) {
            return Err(unknown("the action has no such operation"));
        }
        // It would cost the others of its batch their time; and nobody waits for it.
        if self.clock.has_passed(call.not_after_ms) {
            return Err(Ok(Answer::not_now(Duration::ZERO)));
        }
        let context = Context { xid, branch: call.branch, not_after_ms: call.not_after_ms };
        let job = Job { context, request: call.request, traceparent: call.traceparent };
        Ok(Item { at, operation, tried: call.tried, action, place: Place::default(), job })
    }

    /// Places each item; or its outcome, where it has no place.
    async fn placed(&self, mut items: Vec<Item>) -> Vec<(Item, Option<Outcome>)> {
        if self.places.len() == 1 && self.moves.is_none() {
            return items.into_iter().map(|item| (item, None)).collect();
        }
        let places: Vec<_> = items.iter().map(|item| self.place(item)).collect();
        let moving = places.iter().any(|place| matches!(place, Ok(None)));
        if moving {
            self.look().await;
        }
        let mut placed = Vec::with_capacity(items.len());
        for (mut item, place) in items.drain(..).zip(places) {
            let outcome = match if matches!(place, Ok(None)) { self.place(&item) } else { place } {
                Ok(Some(place)) => {
                    item.place = place;
                    None
                }
                Ok(None) => Some(Ok(Answer::not_now(MOVING))),
                Err(outcome) => Some(outcome),
            };
            placed.push((item, outcome));
        }
        placed
    }

    fn place(&self, item: &Item) -> Result<Option<Place>, Outcome> {
        let (action, places) = (&self.actions[item.action], self.places.len());
        match action.handler.place(&item.job.request) {
            Ok(Some(Place { database, .. })) if database >= places => {
                let action = action.name;
                error!(service = self.service, action, database, places, "place() names a database that is not there");
                Err(Err("place() names a database that is not there".to_owned()))
            }
            Ok(place) => Ok(place),
            // Where its rows are, if it has any, is not to be known.
            Err(error) => Err(Err(error.to_string())),
        }
    }

    /// Looks where rows are that move.
    async fn look(&self) {
        if let Some(moves) = &self.moves {
            moves.look().await;
        }
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
            while round.len() > self.batch_max {
                lots.push(round.split_off(round.len() - self.batch_max));
            }
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
        let begun = Instant::now();
        let mut ran = self.run_in_place(&self.places[place], &lot, false).await;
        if matches!(ran, Err(Failure::Moved)) {
            self.again(place, lot, lots, outcomes).await;
            return;
        }
        if lot.len() == 1 && matches!(ran, Err(Failure::Differs)) {
            ran = self.run_in_place(&self.places[place], &lot, true).await;
        }
        let overran = matches!(ran, Err(Failure::Overran));
        let text = match ran {
            Ok(found) => {
                self.places[place].overruns().ended();
                outcomes.extend(lot.iter().map(|item| item.at).zip(found));
                return;
            }
            Err(Failure::Failed(_) | Failure::Panicked | Failure::Differs) if lot.len() > 1 => {
                let second = lot.split_off(lot.len() / 2);
                lots.extend([second, lot]);
                return;
            }
            Err(Failure::Overran) => {
                lot = self.over_of(lot, begun.elapsed(), lots);
                "the calls' time was over".to_owned()
            }
            Err(Failure::Failed(text)) => {
                self.suspects().add(lot[0].key());
                text
            }
            Err(Failure::Panicked) => {
                self.suspects().add(lot[0].key());
                "the handler panicked".to_owned()
            }
            Err(Failure::Differs) => "its rows and its book differ".to_owned(),
            Err(Failure::Moved) => "its rows have moved".to_owned(),
            Err(Failure::Conflict(text) | Failure::NotBegun(text) | Failure::Lost(text)) => text,
        };
        let said = match overran {
            true => self.places[place].overruns().over(lot.len(), begun, Instant::now()),
            false => Some(lot.len()),
        };
        let item = &lot[0];
        let (xid, branch, action) = (item.job.context.xid, item.job.context.branch, self.actions[item.action].name);
        if let Some(operations) = said {
            warn!(
                service = self.service, %xid, branch, action, operations, error = text,
                "operations of unknown outcome"
            );
        }
        outcomes.extend(lot.iter().map(|item| (item.at, Err(text.clone()))));
    }

    /// Leaves of a lot whose time was over those whose own time is, and has the others run again: where the local
    /// transaction was committed nevertheless, the fence says so. Those that would not have twice the time run apart,
    /// so that they cost the others nothing more.
    fn over_of(&self, lot: Vec<Item>, took: Duration, lots: &mut Vec<Vec<Item>>) -> Vec<Item> {
        let not_after = |item: &Item| item.job.context.not_after_ms;
        let earliest = lot.iter().map(not_after).min().unwrap_or_default();
        let (over, in_time): (Vec<Item>, Vec<Item>) =
            lot.into_iter().partition(|item| not_after(item) == earliest || self.clock.has_passed(not_after(item)));
        let enough = Instant::now() + took;
        let (short, long) = in_time
            .into_iter()
            .partition(|item| self.clock.instant_of(not_after(item)).is_some_and(|deadline| deadline < enough));
        lots.extend([long, short]);
        over
    }

    /// Places a lot once more whose database is past the epoch by which it was placed: what it still serves is run
    /// there, and the coordinator is told to ask for the rest again.
    async fn again(
        &self,
        place: usize,
        lot: Vec<Item>,
        lots: &mut Vec<Vec<Item>>,
        outcomes: &mut Vec<(usize, Outcome)>,
    ) {
        let before = lot.first().and_then(|item| item.place.epoch);
        self.look().await;
        let mut stay: Vec<Item> = Vec::with_capacity(lot.len());
        for mut item in lot {
            match self.place(&item) {
                Ok(Some(now))
                    if now.database == place
                        && now.epoch != before
                        && stay.first().is_none_or(|first| first.place.epoch == now.epoch) =>
                {
                    item.place = now;
                    stay.push(item);
                }
                Ok(Some(_)) => outcomes.push((item.at, Ok(Answer::not_now(Duration::ZERO)))),
                Ok(None) => outcomes.push((item.at, Ok(Answer::not_now(MOVING)))),
                Err(outcome) => outcomes.push((item.at, outcome)),
            }
        }
        lots.push(stay);
    }

    fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn late() -> Outcome {
    Err("its database does not answer in time".to_owned())
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
