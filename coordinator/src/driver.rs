//! The event loop: takes what comes in, lets the machine decide, makes it durable, and only then acts.
//!
//! One task, and it spawns nothing. It sees the world through [`Store`], [`Caller`] and [`Clock`], so a simulation runs
//! the same loop with faults in between. While one commit is under way the next batch fills; no timer delays anything.
//! First run, answer, timer and recovery all end in [`Driver::feed`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use tercet_core::{Effects, Event, Reply, Status, Timestamp, Xid, XidSource, step};
use tercet_proto::coordinator::v1 as pb;
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, warn};

use crate::audit::AuditWrite;
use crate::caller::{Caller, Incoming, Outgoing};
use crate::clock::{Clock, sleep_until};
use crate::controls::Controls;
use crate::live::Live;
use crate::plan::Plan;
use crate::request::{Answer, Error, Input, Waiter, Waits};
use crate::scanner::Place;
use crate::store::{Advance, CANARY_MODE, Owner, Record, Store, Write, Written};
use crate::{metrics, writer};

mod admission;
mod driven;
mod gauges;
mod operate;
mod silence;
mod slot;
mod timers;

use admission::{Pace, Shares};
pub use gauges::Gauges;
use silence::Silence;
use slot::{Slot, observe};

/// What the driver is told once.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// This start of this node.
    pub owner: Owner,
    /// Most transactions in memory; past it new ones are refused.
    pub live_max: usize,
    /// When the lease of the start is no longer to be relied on; [`Input::Lease`] moves it on.
    pub lease_end: Timestamp,
}

type Commit = Pin<Box<dyn Future<Output = Vec<(Xid, Written)>> + Send>>;

/// The event loop and all that it drives.
pub struct Driver<S, C, K> {
    store: Arc<S>,
    caller: C,
    clock: K,
    settings: Settings,
    inbox: mpsc::Receiver<Input>,
    xids: XidSource,
    /// Its order, in which a driver that ends lets go of them, is the same in each replay; xids are not of anyone's
    /// choosing.
    slots: HashMap<Xid, Box<Slot>, BuildHasherDefault<DefaultHasher>>,
    /// How many of them are canaries.
    canaries: usize,
    /// Branches that wait for a service to connect.
    unreachable: BTreeMap<String, BTreeSet<(Xid, u8)>>,
    /// Those whose service has come back, to be woken one after another.
    waking: VecDeque<(Xid, u8)>,
    /// Branches that wait for the node's lease to be renewed.
    lapsed: VecDeque<(Xid, u8)>,
    timers: BinaryHeap<Reverse<(Timestamp, Xid)>>,
    queued: Vec<Write>,
    commit: Option<Commit>,
    silence: Silence,
    pace: Pace,
    shares: Shares,
    lease_end: Timestamp,
    effects: Effects,
    gauges: Arc<Gauges>,
    stopping: bool,
}

impl<S: Store, C: Caller, K: Clock + Clone> Driver<S, C, K> {
    /// A driver with nothing to do yet.
    pub fn new(store: Arc<S>, caller: C, clock: K, settings: Settings, inbox: mpsc::Receiver<Input>) -> Self {
        Self {
            xids: XidSource::new(settings.owner.node, settings.owner.epoch),
            store,
            caller,
            clock,
            settings,
            inbox,
            slots: HashMap::default(),
            unreachable: BTreeMap::new(),
            waking: VecDeque::new(),
            lapsed: VecDeque::new(),
            canaries: 0,
            timers: BinaryHeap::new(),
            queued: Vec::new(),
            commit: None,
            silence: Silence::default(),
            pace: Pace::default(),
            shares: Shares::default(),
            lease_end: settings.lease_end,
            effects: Effects::default(),
            gauges: Arc::new(Gauges { controls: Controls::new(settings.live_max), ..Gauges::default() }),
            stopping: false,
        }
    }

    /// What it shows of itself while it runs.
    pub fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.gauges)
    }

    /// Runs until every sender of the inbox is gone, or `stop` has come and nothing is under way any more. What is left
    /// is durable, and due for whoever starts next.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut inputs = Vec::with_capacity(256);
        loop {
            let now = self.clock.now();
            self.fire(now);
            self.wake_some(now);
            if self.commit.is_none() && !self.queued.is_empty() {
                self.start_commit();
            }
            let unsent = self.caller.flush();
            if !unsent.is_empty() {
                unsent.into_iter().for_each(|reply| self.replied(reply, now));
                continue;
            }
            self.gauges.live.store(self.slots.len().saturating_sub(self.canaries) as u64, Ordering::Relaxed);
            self.gauges.under_way.store(self.slots.len() as u64, Ordering::Relaxed);
            self.gauges.behind.store(self.behind(), Ordering::Relaxed);
            if self.stopping && self.slots.is_empty() && self.commit.is_none() {
                return;
            }
            let timer = self.timers.peek().map_or(Timestamp::MAX, |Reverse((at, _))| *at).min(self.silence.at);
            tokio::select! {
                biased;
                written = finished(&mut self.commit) => {
                    self.commit = None;
                    self.silence = Silence::default();
                    self.pace.ended(self.clock.monotonic());
                    self.gauges.commit_began_us.store(0, Ordering::Relaxed);
                    let now = self.clock.now();
                    written.into_iter().for_each(|(xid, written)| self.written(xid, written, now));
                }
                count = self.inbox.recv_many(&mut inputs, 256) => {
                    if count == 0 {
                        return;
                    }
                    let now = self.clock.now();
                    inputs.drain(..).for_each(|input| self.take(input, now));
                }
                () = std::future::ready(()), if !self.waking.is_empty() => {}
                () = sleep_until(&self.clock, timer), if timer < Timestamp::MAX => {}
                _ = stop.changed(), if !self.stopping => self.stopping = true,
            }
        }
    }

    fn start_commit(&mut self) {
        let batch = writer::next_batch(&mut self.queued);
        self.gauges.commits.fetch_add(1, Ordering::Relaxed);
        self.gauges.rows.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.silence = Silence::begin(self.clock.now());
        let began = self.clock.monotonic();
        self.pace.began(began);
        self.gauges.commit_began_us.store(began.as_micros() as u64, Ordering::Relaxed);
        let (store, clock, gauges) = (Arc::clone(&self.store), self.clock.clone(), self.gauges());
        self.commit = Some(Box::pin(async move { writer::commit(&*store, &clock, &gauges, batch).await }));
    }

    /// One input. What concerns a transaction that is being written waits for that write.
    fn take(&mut self, input: Input, now: Timestamp) {
        let Some(input) = self.silence.admit(input) else { return };
        if let Some(xid) = input.xid()
            && let Some(slot) = self.slots.get_mut(&xid)
            && slot.writing
        {
            slot.backlog.push_back(input);
            return;
        }
        match input {
            Input::Start { plan, wait, answer } => self.start(*plan, wait, answer, now),
            Input::AddBranch { xid, index, branch, answer } => self.add_branch(xid, (index, *branch), answer, now),
            Input::Finish { xid, end, wait, answer } => self.finish(xid, end, (wait, answer), now),
            Input::Adopt { live, event } => self.adopt(*live, event, now),
            Input::Retry { live, branch, place } => self.retry(*live, (branch, place), now),
            Input::Wake { xid, event } => self.feed(xid, event, now),
            Input::Operate { xid, live, order, answer } => self.operate(xid, live, *order, answer, now),
            Input::Look { xid, answer } => self.look(xid, answer),
            Input::Replies(replies) => replies.into_iter().for_each(|reply| self.replied(reply, now)),
            Input::Connected { service } => self.waking.extend(self.unreachable.remove(&service).unwrap_or_default()),
            Input::Lease { end } => {
                self.lease_end = end;
                self.waking.append(&mut self.lapsed);
            }
        }
    }

    fn start(&mut self, plan: Plan, wait: Waits, answer: Answer, now: Timestamp) {
        if self.stopping {
            return answer.send(Err(Error::Stopping));
        }
        let canary = plan.record.mode == u32::from(CANARY_MODE);
        if self.gauges.controls.draining() && !canary {
            return answer.send(Err(Error::Draining));
        }
        if answer.is_closed() {
            return metrics::abandoned();
        }
        if let Some(error) = self.overload(&plan, wait).filter(|_| !canary) {
            metrics::overloaded(&error);
            return answer.send(Err(error));
        }
        let xid = self.xids.next(now);
        let digest = if plan.idempotency_key.is_empty() { 0 } else { plan.digest() };
        let mut live = Live::new(xid, plan, now);
        self.effects.clear();
        step(&mut live.tx, Event::Woken, now, &mut self.effects);
        live.note(&self.effects.notes, now);
        let create = live.create(self.settings.owner, digest, now);
        let waiter = Waiter::View { wait, answer, repeated: false };
        let mut slot = Slot::new(live, digest);
        slot.writing = true;
        slot.calls = std::mem::take(&mut self.effects.calls);
        slot.waiters.push(waiter);
        self.shares.added(&slot.live.plan);
        self.canaries += usize::from(canary);
        self.slots.insert(xid, Box::new(slot));
        self.queued.push(Write::Create(create));
    }

    /// Takes up a transaction that was read from the store, unless it is here already.
    fn adopt(&mut self, mut live: Live, event: Event, now: Timestamp) {
        let xid = live.tx.xid;
        self.slots.entry(xid).or_insert_with(|| {
            live.tx.recover();
            self.shares.added(&live.plan);
            let slot = Slot::adopted(live, now);
            self.canaries += usize::from(slot.canary());
            Box::new(slot)
        });
        self.take(Input::Wake { xid, event }, now);
    }

    fn retry(&mut self, live: Live, (branch, place): (u8, Place), now: Timestamp) {
        let xid = live.tx.xid;
        self.adopt(live, Event::Retry { branch }, now);
        if let Some(slot) = self.slots.get_mut(&xid) {
            slot.places.push((branch, place));
        }
    }

    /// What sessions say. A call that none of them could take waits for the next one, which may have come meanwhile.
    fn replied(&mut self, reply: Incoming, now: Timestamp) {
        let Incoming { xid, branch, .. } = reply;
        let unsent = reply.reply == Reply::Unreachable;
        self.reply(reply, now);
        if unsent {
            self.take(Input::Wake { xid, event: Event::Reachable { branch } }, now);
        }
    }

    fn reply(&mut self, reply: Incoming, now: Timestamp) {
        let xid = reply.xid;
        let Some(slot) = self.slots.get_mut(&xid) else {
            debug!(%xid, branch = reply.branch, "an answer to what is no longer here");
            return;
        };
        if slot.writing {
            slot.backlog.push_back(Input::Replies(vec![reply]));
            return;
        }
        let Incoming { branch, operation, attempt, reply, words, .. } = reply;
        if reply == Reply::Done {
            slot::count_retries(&slot.live, branch, operation);
        }
        slot.live.hear(branch, operation, reply, words);
        self.feed(xid, Event::Replied { branch, operation, attempt, reply }, now);
    }

    /// The only place where a transaction moves.
    fn feed(&mut self, xid: Xid, event: Event, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(&xid) else { return };
        self.effects.clear();
        let added = matches!(event, Event::BranchAdded(_));
        let before = slot.live.tx.branches.len();
        step(&mut slot.live.tx, event, now, &mut self.effects);
        let added_to = added && slot.live.tx.branches.len() > before;
        if added_to {
            self.shares.grown(&slot.live.plan);
        } else if added {
            slot.live.unplan_branch();
        }
        slot.live.note(&self.effects.notes, now);
        self.follow(xid, added_to, None, now);
    }

    /// Does what the last step wants done: makes it durable, or acts at once. `audit`: by whom a person's act was.
    fn follow(&mut self, xid: Xid, added_to: bool, audit: Option<Box<AuditWrite>>, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(&xid) else { return };
        self.effects.notes.iter().for_each(|note| observe(&slot.live, *note));
        if self.effects.persist {
            let advance = slot.live.advance(self.settings.owner, &self.effects, added_to, now);
            let advance = Advance { audit, ..advance };
            slot.writing = true;
            slot.calls = std::mem::take(&mut self.effects.calls);
            self.queued.push(Write::Advance(advance));
            return;
        }
        let calls = std::mem::take(&mut self.effects.calls);
        self.call(xid, &calls, now);
        self.effects.calls = calls;
        self.settle(xid);
    }

    /// Makes calls. A service without a session answers at once, and what comes too late for its time is not sent.
    fn call(&mut self, xid: Xid, calls: &[tercet_core::Call], now: Timestamp) {
        for call in calls {
            let Some(slot) = self.slots.get_mut(&xid) else { return };
            let mut call = *call;
            // Nothing may run on behalf of an owner whose lease is over.
            call.not_after = slot.grant(call.not_after.min(self.lease_end));
            let outgoing = Outgoing { xid, plan: Arc::clone(&slot.live.plan), call };
            let unreachable = outgoing.answered(Reply::Unreachable);
            if call.not_after <= now {
                // The store has taken that long. Without a lease it waits for one; otherwise its time begins again.
                let waits = if self.lease_end <= now { &mut self.lapsed } else { &mut self.waking };
                waits.push_back((xid, call.branch));
                self.reply(unreachable, now);
            } else if !self.caller.call(outgoing) {
                let service = &slot.live.plan.branches[usize::from(call.branch)].service;
                match self.unreachable.get_mut(service) {
                    Some(waiting) => drop(waiting.insert((xid, call.branch))),
                    None => drop(self.unreachable.insert(service.clone(), BTreeSet::from([(xid, call.branch)]))),
                }
                self.reply(unreachable, now);
            }
        }
    }

    /// After a step without a write, or a write: tells who waits, sets the timer, lets go of what rests or has ended.
    fn settle(&mut self, xid: Xid) {
        let Some(slot) = self.slots.get_mut(&xid) else { return };
        if slot.writing {
            return;
        }
        slot.tell();
        slot.free_places();
        let ended = slot.live.tx.status.ended();
        match slot.live.tx.wake_at() {
            Some(at) if at < slot.timer => {
                slot.timer = at;
                self.timers.push(Reverse((at, xid)));
                self.prune_timers();
            }
            Some(_) => {}
            None => {
                if ended && slot.canary() {
                    self.gauges.canaries.fetch_add(1, Ordering::Relaxed);
                } else if ended {
                    self.gauges.ended.fetch_add(1, Ordering::Relaxed);
                    self.gauges.turnstile.ended();
                    self.caller.forget(xid, &slot.live.plan, slot.forget_after());
                    metrics::ended(slot.live.plan.mode, slot.live.tx.status, xid.created_at(), self.clock.now());
                }
                slot.tell_rest();
                self.remove(xid);
            }
        }
    }

    fn remove(&mut self, xid: Xid) {
        let Some(slot) = self.slots.remove(&xid) else { return };
        self.shares.removed(&slot.live.plan);
        self.canaries = self.canaries.saturating_sub(slot.canary().into());
        if !self.unreachable.is_empty() {
            self.await_no_more(xid, &slot.live.plan);
        }
        let now = self.clock.now();
        for input in slot.backlog {
            self.take(input, now);
        }
    }

    /// A service that never comes must not cost memory for each transaction that once waited for it.
    fn await_no_more(&mut self, xid: Xid, plan: &tercet_proto::store::v1::Plan) {
        for (index, branch) in plan.branches.iter().enumerate() {
            if let Some(waiting) = self.unreachable.get_mut(&branch.service) {
                waiting.remove(&(xid, index as u8));
                if waiting.is_empty() {
                    self.unreachable.remove(&branch.service);
                }
            }
        }
    }

    /// The store has answered for one transaction.
    fn written(&mut self, xid: Xid, written: Written, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(&xid) else { return };
        slot.writing = false;
        match written {
            Written::Done { version } => {
                slot.live.version = version;
                let calls = std::mem::take(&mut slot.calls);
                self.call(xid, &calls, now);
                self.settle(xid);
                self.replay_backlog(xid, now);
            }
            Written::Stale => {
                warn!(%xid, "somebody else has written the transaction; it is theirs");
                slot.fail(|| Error::NotHere);
                self.remove(xid);
            }
            Written::KeyTaken(record) => self.key_taken(xid, &record),
            Written::Refused(reason) => {
                error!(%xid, reason, "the store refuses the row");
                slot.fail(|| Error::Unstored { reason: reason.clone() });
                self.remove(xid);
            }
            Written::NoRoom => {
                slot.fail(|| Error::DiskFull);
                self.remove(xid);
            }
        }
    }

    fn replay_backlog(&mut self, xid: Xid, now: Timestamp) {
        while let Some(slot) = self.slots.get_mut(&xid)
            && !slot.writing
            && let Some(input) = slot.backlog.pop_front()
        {
            self.take(input, now);
        }
    }

    /// The key names an earlier transaction: its answer is the answer, if it is the same content.
    fn key_taken(&mut self, xid: Xid, record: &Record) {
        let Some(slot) = self.slots.remove(&xid) else { return };
        self.shares.removed(&slot.live.plan);
        for waiter in slot.waiters {
            let Waiter::View { wait, answer, .. } = waiter else { continue };
            if record.digest != slot.digest {
                answer.send(Err(Error::KeyReused { xid: record.xid }));
            } else if let Some(first) = self.slots.get_mut(&record.xid) {
                first.waiters.push(Waiter::View { wait, answer, repeated: true });
                if !first.writing {
                    first.tell();
                }
            } else {
                let view = Live::decode(record).map(|live| pb::TransactionView { repeated: true, ..live.view() });
                answer.send(view.map_err(|error| Error::Unstored { reason: error.to_string() }));
            }
        }
    }
}

/// Ends when the commit that is under way has ended; never when there is none.
async fn finished(commit: &mut Option<Commit>) -> Vec<(Xid, Written)> {
    std::future::poll_fn(|context| match commit {
        Some(commit) => commit.as_mut().poll(context),
        None => Poll::Pending,
    })
    .await
}

/// Whether a transaction in this status satisfies someone who waits so long.
pub fn satisfied(wait: Waits, status: Status) -> bool {
    match wait {
        Waits::Accepted => true,
        Waits::Decided => status.decided(),
        Waits::Ended => status.ended(),
    }
}

#[cfg(test)]
mod tests;
