//! Initiators: declare, begin or prepare transactions, and do not give up when the coordinator does not answer.

use std::time::Duration;

use futures_util::FutureExt as _;
use tercet::participant::Answer as Told;
use tercet_coordinator::live::Live;
use tercet_coordinator::plan::Plan;
use tercet_coordinator::request::{Added, Answer, End, Error, Input, Waits};
use tercet_coordinator::store::{Lookup, Store as _};
use tercet_core::{Event, Timestamp, Xid};
use tercet_proto::coordinator::v1 as pb;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::FAULTS;
use crate::check;
use crate::database::{Manner, Order};
use crate::faults::Fault;
use crate::world::World;

/// Initiators of one run, each with transactions one after the other.
const INITIATORS: u64 = 4;
const TRANSACTIONS: u64 = 8;

/// An initiator gives up waiting after this and asks again under the same key.
const PATIENCE: Duration = Duration::from_secs(8);

/// How often a branch is called before it is parked, where a participant is at fault.
pub(crate) const ATTEMPTS: u32 = 6;

/// Who asks for what.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// Several at once, by chance.
    Random,
    /// One transaction.
    One(Scenario),
}

/// One transaction.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) kind: Kind,
    /// The branches: a service, and how it treats its order.
    pub(crate) branches: Vec<(&'static str, Manner)>,
    pub(crate) deadline_ms: u32,
    /// The first service comes only after this.
    pub(crate) late_ms: u64,
}

/// How a transaction comes about and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Submitted whole.
    Declared(pb::Mode),
    /// Begun, tried by the initiator, and ended so.
    Begun(Ends),
    /// A message whose sender commits, or does not, and tells, or does not.
    Prepared {
        /// Whether the sender's own local transaction commits.
        commits: bool,
        /// Whether it tells the coordinator.
        tells: bool,
    },
}

/// What an initiator does at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    Commits,
    RollsBack,
    Vanishes,
}

impl Script {
    /// How long an instance's first start takes.
    pub(crate) fn late(&self, instance: usize) -> Duration {
        match self {
            Self::One(scenario) if instance == 0 => Duration::from_millis(scenario.late_ms),
            Self::One(_) | Self::Random => Duration::ZERO,
        }
    }
}

pub(crate) fn start(world: &World, script: &Script) -> JoinSet<()> {
    let mut all = JoinSet::new();
    match script {
        Script::One(scenario) => {
            let (world, scenario) = (world.clone(), scenario.clone());
            all.spawn(async move { Initiator { world, number: 0, turn: 0 }.run(&scenario).await });
        }
        Script::Random => {
            for number in 0..INITIATORS {
                let world = world.clone();
                all.spawn(async move {
                    for turn in 0..TRANSACTIONS {
                        sleep(world.ms_below(FAULTS.as_millis() as u64 / TRANSACTIONS)).await;
                        let scenario = scenario(&world);
                        Initiator { world: world.clone(), number, turn }.run(&scenario).await;
                    }
                });
            }
        }
    }
    all
}

/// A transaction by chance.
fn scenario(world: &World) -> Scenario {
    let modes = [pb::Mode::Tcc, pb::Mode::Saga, pb::Mode::Message];
    let kind = match world.below(10) {
        0..=5 => Kind::Declared(modes[world.below(3) as usize]),
        6 | 7 if world.percent(15) => Kind::Begun(Ends::Vanishes),
        6 | 7 if world.percent(15) => Kind::Begun(Ends::RollsBack),
        6 | 7 => Kind::Begun(Ends::Commits),
        _ => Kind::Prepared { commits: world.percent(80), tells: world.percent(60) },
    };
    let branches = (0..=world.below(3)).map(|_| {
        let service = ["a", "b", "c"][world.below(3) as usize];
        let manner = if world.percent(12) { Manner::ALL[world.below(8) as usize] } else { Manner::Well };
        (service, manner)
    });
    let branches = branches.collect();
    // Some are open for longer than a lease lasts.
    let patient = matches!(kind, Kind::Begun(_)) && world.percent(25);
    let deadline_ms = 500 + world.below(if patient { 60_000 } else { 6_000 }) as u32;
    Scenario { kind, branches, deadline_ms, late_ms: 0 }
}

struct Initiator {
    world: World,
    number: u64,
    turn: u64,
}

impl Initiator {
    async fn run(&self, scenario: &Scenario) {
        match scenario.kind {
            Kind::Declared(mode) => self.declared(scenario, mode).await,
            Kind::Begun(ends) => self.begun(scenario, ends).await,
            Kind::Prepared { commits, tells } => self.prepared(scenario, commits, tells).await,
        }
    }

    fn who(&self) -> String {
        format!("initiator {}", self.number)
    }

    fn order(&self, branch: usize, manner: Manner) -> Order {
        Order { key: 1 << 40 | self.number << 32 | self.turn << 16 | branch as u64, manner }
    }

    fn branch(&self, action: &str, at: usize, (service, manner): (&'static str, Manner)) -> pb::Branch {
        let world = &self.world;
        let after = if world.random() { (0..at as u32).filter(|_| world.percent(25)).collect() } else { Vec::new() };
        let attempts = if manner.at_fault() { ATTEMPTS } else { 10_000 };
        let retry = pb::RetryPolicy { quick_attempts: 2, attempts, delay_max_ms: 8_000, ..Default::default() };
        pb::Branch {
            service: service.into(),
            action: action.into(),
            request: self.order(at, manner).bytes(),
            after,
            concurrent: world.random() && world.percent(30),
            call_timeout_ms: 300,
            retry: Some(retry),
            ..pb::Branch::default()
        }
    }

    fn branches(&self, action: &str, branches: &[(&'static str, Manner)]) -> Vec<pb::Branch> {
        branches.iter().enumerate().map(|(at, branch)| self.branch(action, at, *branch)).collect()
    }

    /// Submits until it knows how it ended.
    async fn declared(&self, scenario: &Scenario, mode: pb::Mode) {
        let action = match mode {
            pb::Mode::Tcc | pb::Mode::Unspecified => "reserve",
            pb::Mode::Saga => "do",
            pb::Mode::Message => "receive",
        };
        let transaction = pb::Transaction {
            mode: mode.into(),
            branches: self.branches(action, &scenario.branches),
            deadline_ms: scenario.deadline_ms,
            idempotency_key: format!("{}-{}", self.number, self.turn),
            ..pb::Transaction::default()
        };
        let plan = Plan::declared(transaction).expect("within every limit");
        let wait = [Waits::Accepted, Waits::Decided, Waits::Ended][self.world.below(3) as usize];
        loop {
            let (sender, receiver) = oneshot::channel();
            let input = Input::Start { plan: Box::new(plan.clone()), wait, answer: Answer::One(sender) };
            if let Some(Ok(view)) = self.ask(input, receiver).await {
                check::told(&self.world, self.who(), &view);
                if view.status > pb::Status::Trying as i32 || self.world.percent(30) {
                    return;
                }
            }
            sleep(Duration::from_millis(100 + self.world.below(400))).await;
        }
    }

    /// Calls the tries itself, and commits, rolls back, or is never heard of again.
    async fn begun(&self, scenario: &Scenario, ends: Ends) {
        let deadline_ms = scenario.deadline_ms;
        let request = pb::BeginRequest { mode: pb::Mode::Tcc.into(), deadline_ms, ..pb::BeginRequest::default() };
        let Some((xid, _)) = self.open(Plan::begun(request).expect("within every limit")).await else { return };
        let mut held = true;
        let beside = self.world.fault(Fault::RolledBackBeside, 10);
        for (at, (service, manner)) in scenario.branches.iter().enumerate() {
            let branch = pb::Branch { after: Vec::new(), ..self.branch("reserve", at, (service, *manner)) };
            let mut added = self.add(xid, at, &branch).await;
            if beside || added.is_none() {
                sleep(self.world.ms_below(6_000)).await;
                added = self.add(xid, at, &branch).await;
            }
            let Some(Ok(Added { branch, not_after })) = added else {
                held = false;
                break;
            };
            if beside {
                self.finish(xid, End::Rollback { reason: String::new() }).await;
                sleep(self.world.ms_below(20_000)).await;
            }
            if self.world.fault(Fault::InitiatorFrozen, 4) {
                sleep(self.world.ms_below(90_000)).await;
            }
            let order = self.order(at, *manner);
            let answer = self.world.databases()[service].guarded((xid, branch), not_after, order);
            self.world.log(self.who(), format_args!("tries {} branch {branch}: {answer:?}", self.world.tx(xid)));
            held &= matches!(answer, Told::Done(_)) && !self.world.fault(Fault::ResponseLost, 4);
        }
        let rollback = End::Rollback { reason: String::new() };
        match ends {
            Ends::Commits if held => self.finish(xid, End::Commit).await,
            Ends::Commits | Ends::RollsBack => self.finish(xid, rollback).await,
            Ends::Vanishes => {}
        }
    }

    /// The same branch under the same index, however often it is asked for.
    async fn add(&self, xid: Xid, at: usize, branch: &pb::Branch) -> Option<Result<Added, Error>> {
        let (answer, receiver) = oneshot::channel();
        let branch = Box::new(branch.clone());
        self.ask(Input::AddBranch { xid, index: Some(at as u32), branch, answer }, receiver).await
    }

    async fn prepared(&self, scenario: &Scenario, commits: bool, tells: bool) {
        let sender = ("a", Manner::Well);
        let receivers = scenario.branches.iter().enumerate();
        let receivers = receivers.map(|(at, (service, manner))| {
            // Its index counts from the first receiver in `after`, and from the sender everywhere else.
            let request = self.order(at + 1, *manner).bytes();
            pb::Branch { request, ..self.branch("receive", at, (*service, *manner)) }
        });
        let request = pb::PrepareRequest {
            sender: Some(pb::Branch { after: Vec::new(), ..self.branch("send", 0, sender) }),
            receivers: receivers.collect(),
            query_after_ms: scenario.deadline_ms,
            ..pb::PrepareRequest::default()
        };
        let plan = Plan::prepared(request).expect("within every limit");
        let Some((xid, not_after)) = self.open(plan).await else { return };
        let frozen = self.world.fault(Fault::InitiatorFrozen, 5);
        let slow = if frozen {
            90_000
        } else if self.world.random() {
            4_000
        } else {
            500
        };
        if self.world.fault(Fault::RolledBackBeside, 10) {
            // What is left of this worker may commit when all is over and forgotten.
            self.finish(xid, End::Rollback { reason: String::new() }).await;
            sleep(self.world.ms_below(8_000)).await;
        }
        sleep(self.world.ms_below(slow)).await;
        if !commits {
            return;
        }
        let committed = self.world.databases()["a"].commit_sender(xid, not_after, self.order(0, Manner::Well));
        self.world.log(self.who(), format_args!("sender of {} commits: {committed}", self.world.tx(xid)));
        if committed && tells {
            self.finish(xid, End::Commit).await;
        }
    }

    /// Its name, and until when the initiator may act for it.
    async fn open(&self, plan: Plan) -> Option<(Xid, Timestamp)> {
        let (sender, receiver) = oneshot::channel();
        let input = Input::Start { plan: Box::new(plan), wait: Waits::Accepted, answer: Answer::One(sender) };
        let view = self.ask(input, receiver).await?.ok()?;
        check::told(&self.world, self.who(), &view);
        Some((Xid::from_slice(&view.xid)?, Timestamp(view.deadline_at_ms)))
    }

    /// Asks for the end that the initiator wants until it is told which one it is.
    async fn finish(&self, xid: Xid, end: End) {
        loop {
            let (sender, receiver) = oneshot::channel();
            let input = Input::Finish { xid, end: end.clone(), wait: Waits::Decided, answer: Answer::One(sender) };
            match self.ask(input, receiver).await {
                Some(Ok(view)) => return check::told(&self.world, self.who(), &view),
                Some(Err(Error::NotHere)) => {
                    // As the API does it: what is not in memory is read from the store.
                    let found = self.world.disk().get(Lookup::Xid(xid)).now_or_never().and_then(Result::ok).flatten();
                    let Some(record) = found else { return };
                    let live = Live::decode(&record).expect("written by this version");
                    if live.tx.status.decided() {
                        return check::told(&self.world, self.who(), &live.view());
                    }
                    if let Some(inbox) = self.world.inbox() {
                        drop(inbox.try_send(Input::Adopt { live: Box::new(live), event: Event::Woken }));
                    }
                }
                Some(Err(_)) | None => {}
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Sends a request to whichever coordinator runs; `None`: no answer, which says nothing.
    async fn ask<T>(&self, input: Input, receiver: oneshot::Receiver<Result<T, Error>>) -> Option<Result<T, Error>> {
        if self.world.fault(Fault::RequestLost, 4) {
            sleep(PATIENCE).await;
            return None;
        }
        sleep(Duration::from_micros(self.world.below(3_000))).await;
        self.world.inbox()?.try_send(input).ok()?;
        let answer = timeout(PATIENCE, receiver).await.ok()?.ok()?;
        if self.world.fault(Fault::ResponseLost, 4) { None } else { Some(answer) }
    }
}
