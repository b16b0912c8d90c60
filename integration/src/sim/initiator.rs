//! Initiators: declare, begin or prepare transactions, and do not give up when the coordinator does not answer.

use std::time::Duration;

use tercet_coordinator::plan::Plan;
use tercet_coordinator::request::{Added, Answer, End, Error, Input, Waits};
use tercet_coordinator::store::memory::MemoryStore;
use tercet_coordinator::store::{Lookup, Store as _};
use tercet_core::{Operation, Reply, Timestamp, Xid};
use tercet_proto::coordinator::v1 as pb;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::participant::{Call, commit_sender, run};
use super::{FAULTS, World};

/// Initiators of one run, each with transactions one after the other.
const INITIATORS: u64 = 4;
const TRANSACTIONS: u64 = 8;

/// An initiator gives up waiting after this and asks again under the same key.
const PATIENCE: Duration = Duration::from_secs(8);

pub(super) fn start(world: &World, memory: &MemoryStore) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for number in 0..INITIATORS {
        let (world, memory) = (world.clone(), memory.clone());
        all.spawn(async move {
            for turn in 0..TRANSACTIONS {
                sleep(Duration::from_millis(world.below(FAULTS.as_millis() as u64 / TRANSACTIONS))).await;
                let key = format!("{number}-{turn}");
                match world.below(10) {
                    0..=6 => declared(&world, &key).await,
                    7 | 8 => begun(&world, &memory).await,
                    _ => prepared(&world, &memory).await,
                }
            }
        });
    }
    all
}

fn branch(world: &World, count: usize) -> pb::Branch {
    let service = ["a", "b", "c"][world.below(3) as usize];
    let after = (0..count as u32).filter(|_| world.percent(25)).collect();
    let retry = pb::RetryPolicy { quick_attempts: 2, attempts: 10_000, ..pb::RetryPolicy::default() };
    pb::Branch {
        service: service.into(),
        action: "act".into(),
        after,
        concurrent: world.percent(30),
        call_timeout_ms: 300,
        retry: Some(retry),
        ..pb::Branch::default()
    }
}

/// Submits until it knows how it ended.
async fn declared(world: &World, key: &str) {
    let modes = [pb::Mode::Tcc, pb::Mode::Saga, pb::Mode::Message];
    let transaction = pb::Transaction {
        mode: modes[world.below(3) as usize].into(),
        branches: (0..=world.below(3) as usize).map(|count| branch(world, count)).collect(),
        deadline_ms: 1_000 + world.below(6_000) as u32,
        idempotency_key: key.into(),
        ..pb::Transaction::default()
    };
    let plan = Plan::declared(transaction).expect("within every limit");
    let wait = if world.percent(50) { Waits::Decided } else { Waits::Ended };
    loop {
        let (sender, receiver) = oneshot::channel();
        let input = Input::Start { plan: Box::new(plan.clone()), wait, answer: Answer::One(sender) };
        if let Some(Ok(view)) = ask(world, input, receiver).await {
            tell(world, &view);
            if world.percent(90) && view.status > pb::Status::Trying as i32 {
                return;
            }
        }
        sleep(Duration::from_millis(100 + world.below(400))).await;
    }
}

/// Calls the tries itself, and commits, rolls back, or is never heard of again.
async fn begun(world: &World, memory: &MemoryStore) {
    let deadline_ms = 500 + world.below(6_000) as u32;
    let request = pb::BeginRequest { mode: pb::Mode::Tcc.into(), deadline_ms, ..pb::BeginRequest::default() };
    let Some((xid, _)) = open(world, Plan::begun(request).expect("within every limit")).await else { return };
    let mut held = true;
    for count in 0..1 + world.below(3) as usize {
        let branch = pb::Branch { after: Vec::new(), ..branch(world, count) };
        let service = branch.service.clone();
        let (answer, receiver) = oneshot::channel();
        let input = Input::AddBranch { xid, index: None, branch: Box::new(branch), answer };
        let Some(Ok(Added { branch, not_after })) = ask(world, input, receiver).await else {
            held = false;
            break;
        };
        let call = Call { xid, branch: branch as u8, operation: Operation::Try, tried: true, not_after };
        held &= run(world, &service, &call) == Reply::Done;
    }
    if !world.percent(15) {
        let rollback = End::Rollback { reason: String::new() };
        finish(world, memory, xid, if held { End::Commit } else { rollback }).await;
    }
}

async fn prepared(world: &World, memory: &MemoryStore) {
    let request = pb::PrepareRequest {
        sender: Some(pb::Branch { after: Vec::new(), service: "a".into(), ..branch(world, 0) }),
        receivers: (0..=world.below(2) as usize).map(|count| branch(world, count)).collect(),
        query_after_ms: 200 + world.below(3_000) as u32,
        ..pb::PrepareRequest::default()
    };
    let Some((xid, not_after)) = open(world, Plan::prepared(request).expect("within every limit")).await else {
        return;
    };
    sleep(Duration::from_millis(world.below(4_000))).await;
    if world.percent(80) && commit_sender(world, "a", xid, not_after) && world.percent(70) {
        finish(world, memory, xid, End::Commit).await;
    }
}

/// Its name, and until when the initiator may act for it.
async fn open(world: &World, plan: Plan) -> Option<(Xid, Timestamp)> {
    let (sender, receiver) = oneshot::channel();
    let input = Input::Start { plan: Box::new(plan), wait: Waits::Accepted, answer: Answer::One(sender) };
    let view = ask(world, input, receiver).await?.ok()?;
    Some((Xid::from_slice(&view.xid)?, Timestamp(view.deadline_at_ms)))
}

/// Asks for the end that the initiator wants until it is told which one it is.
async fn finish(world: &World, memory: &MemoryStore, xid: Xid, end: End) {
    loop {
        let (sender, receiver) = oneshot::channel();
        let input = Input::Finish { xid, end: end.clone(), wait: Waits::Decided, answer: Answer::One(sender) };
        match ask(world, input, receiver).await {
            Some(Ok(view)) => return tell(world, &view),
            Some(Err(Error::NotHere)) => {
                // As the API does it: what is not in memory is read from the store.
                let Ok(Some(record)) = memory.get(Lookup::Xid(xid)).await else { return };
                let live = tercet_coordinator::live::Live::decode(&record).expect("written by this version");
                if live.tx.status.decided() {
                    return tell(world, &live.view());
                }
                let event = tercet_core::Event::Woken;
                if let Some(inbox) = world.inbox() {
                    drop(inbox.try_send(Input::Adopt { live: Box::new(live), event }));
                }
            }
            Some(Err(_)) | None => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Sends a request to whichever coordinator runs; `None`: no answer, which says nothing.
async fn ask<T>(
    world: &World,
    input: Input,
    receiver: oneshot::Receiver<Result<T, Error>>,
) -> Option<Result<T, Error>> {
    if world.fault("request lost", 4) {
        sleep(PATIENCE).await;
        return None;
    }
    sleep(Duration::from_micros(world.below(3_000))).await;
    world.inbox()?.try_send(input).ok()?;
    let answer = timeout(PATIENCE, receiver).await.ok()?.ok()?;
    if world.fault("response lost", 4) { None } else { Some(answer) }
}

/// What an initiator was told can not become untrue.
fn tell(world: &World, view: &pb::TransactionView) {
    let Some(xid) = Xid::from_slice(&view.xid) else { return };
    world.happened("told", xid, view.status as u64);
    let outcome = |status: i32| match status {
        2 | 4 => 4,
        3 | 5 => 5,
        _ => 0,
    };
    let told = outcome(view.status);
    let before = if told == 0 { None } else { world.lock().told.insert(xid, told) };
    if before.is_some_and(|before| before != told) {
        world.broken(format!("{xid}: told {before:?} and then {told}"));
    }
}
