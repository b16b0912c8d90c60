//! Canaries: tiny real transactions that tell whether work gets done, not only accepted.
//!
//! Twice a second one goes through the driver and the store's group commit to a participant of the coordinator's own,
//! an in-process session, and back. While none of these ends, and nothing else does either, the coordinator accepts but
//! does not execute: it says NOT_SERVING. No participant is part of it, so none can make the coordinator unready.
//!
//! Once a second another one has a branch for each of some sessions, in turn, whose try goes down that very session and
//! is answered by the SDK's executor. It waits for a place in the session's window as every batch does, so a session
//! whose handlers hang does not answer it although it still says that it is alive. What becomes of such a transaction
//! matters to nobody, only when the session answered. Its cancels, and tries for sessions that are gone, are answered
//! by the coordinator's own participant, so nothing of it is ever retried or parked.
//!
//! Canaries are of a mode of their own, which listings leave out. They are purged like everything that has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tercet_core::Operations;
use tercet_proto::coordinator::v1::{TransactionView, coordinator_server};
use tercet_proto::participant::v1 as participant;
use tercet_proto::participant::v1::open_response::Message as Down;
use tercet_proto::store::v1 as record;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{error, info};

use crate::caller::Outgoing;
use crate::driver::Gauges;
use crate::plan::Plan;
use crate::request::{self, Answer, Input, Waits};
use crate::session::{SessionId, Sessions};
use crate::store::CANARY_MODE;
use crate::{limits, metrics, report};

/// The coordinator's own participant, and the action of every canary. Nobody else may have a name like that.
pub const NAME: &str = "tercet.canary";

/// From acceptance to the cancel of what a session has not answered.
const DEADLINE_MS: u32 = 2_000;

/// How often readiness is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The session that a canary's call is meant for; `None` for every other call, and for the coordinator's own canaries.
pub fn session_of(call: &Outgoing) -> Option<SessionId> {
    let branch = call.plan.branches.get(usize::from(call.call.branch))?;
    if branch.action != NAME {
        return None;
    }
    <[u8; 8]>::try_from(&*branch.request).ok().map(|id| SessionId::from(u64::from_be_bytes(id)))
}

fn plan(branches: impl Iterator<Item = (String, Bytes)>) -> Plan {
    let branches = branches.map(|(service, request)| record::Branch {
        service,
        action: NAME.to_owned(),
        request,
        operations: Operations::SAGA.bits().into(),
        // One call, and no second one.
        call_timeout_ms: DEADLINE_MS,
        ..record::Branch::default()
    });
    let record = record::Plan { mode: CANARY_MODE.into(), branches: branches.collect(), ..record::Plan::default() };
    Plan { record, deadline_ms: DEADLINE_MS, idempotency_key: String::new() }
}

/// Sends canaries, and answers the coordinator's own.
pub struct Canaries {
    sessions: Sessions,
    inbox: mpsc::Sender<Input>,
    id: SessionId,
    calls: mpsc::Receiver<Result<participant::OpenResponse, tonic::Status>>,
    /// The latest of its own.
    own: Option<Ended>,
    /// The latest for sessions: the driver does nothing for those who have gone.
    asked: Option<Ended>,
    /// Whether the latest tick was one for sessions.
    turn: bool,
}

type Ended = oneshot::Receiver<Result<TransactionView, request::Error>>;

impl Canaries {
    /// Opens the session of the coordinator's own participant. Before any participant comes, so there is room.
    pub fn new(sessions: Sessions, inbox: mpsc::Sender<Input>) -> Option<Self> {
        let (down, calls) = mpsc::channel(limits::WINDOW_MAX as usize);
        let register = participant::Register {
            service: NAME.to_owned(),
            window: limits::WINDOW_MAX,
            ..participant::Register::default()
        };
        let (id, _) = sessions.add(&register, down, None).ok()?;
        Some(Self { sessions, inbox, id, calls, own: None, asked: None, turn: false })
    }

    /// Until the driver is gone.
    pub async fn run(mut self) {
        let mut ticks = interval(Duration::from_millis(limits::CANARY_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = self.calls.recv() => {
                    if let Some(Ok(participant::OpenResponse { message: Some(Down::Calls(calls)) })) = message
                        && !self.answer(calls).await
                    {
                        return;
                    }
                }
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    fn tick(&mut self) {
        metrics::canaries(&self.sessions.canary_ages());
        // One at a time: a coordinator that executes nothing is not handed more and more of them.
        if self.own.as_mut().is_some_and(|own| own.try_recv() == Err(TryRecvError::Empty)) {
            return;
        }
        self.own = Some(self.start([(NAME.to_owned(), Bytes::new())]));
        self.turn = !self.turn;
        let asked = if self.turn { self.sessions.next_canaries() } else { Vec::new() };
        if !asked.is_empty() {
            let request = |id: SessionId| Bytes::copy_from_slice(&id.number().to_be_bytes());
            self.asked = Some(self.start(asked.into_iter().map(|(service, id)| (service, request(id)))));
        }
    }

    /// Of a full inbox nothing comes back.
    fn start(&self, branches: impl IntoIterator<Item = (String, Bytes)>) -> Ended {
        let (answer, ended) = oneshot::channel();
        let plan = Box::new(plan(branches.into_iter()));
        drop(self.inbox.try_send(Input::Start { plan, wait: Waits::Ended, answer: Answer::One(answer) }));
        ended
    }

    /// False when there is no driver any more.
    async fn answer(&self, calls: participant::Calls) -> bool {
        let done = participant::Reply { answer: Some(participant::reply::Answer::Done(Bytes::new())) };
        let replies = participant::Replies { batch: calls.batch, replies: vec![done; calls.calls.len()] };
        let answers = self.sessions.answer(NAME, self.id, replies).unwrap_or_default();
        self.inbox.send(Input::Replies(answers)).await.is_ok()
    }
}

/// Says in `health` when the coordinator stops executing, has no room on its disk, or is well again; until `stopping`
/// is set. Anything that ends is a sign of life; canaries see to it that there is always something to end.
pub async fn watch_readiness(gauges: Arc<Gauges>, mut stopping: watch::Receiver<bool>, health: HealthReporter) {
    let (mut last, mut at) = (0, Instant::now());
    let (mut executes, mut full) = (true, false);
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let ended = gauges.ended.load(Ordering::Relaxed) + gauges.canaries.load(Ordering::Relaxed);
        if ended != last {
            (last, at) = (ended, Instant::now());
        }
        let age = at.elapsed();
        gauges.idle_ms.store(age.as_millis() as u64, Ordering::Relaxed);
        metrics::idle(age);
        let now = (age < Duration::from_millis(limits::UNREADY_MS), gauges.disk_full.load(Ordering::Relaxed));
        if now == (executes, full) {
            continue;
        }
        match (executes, now.0) {
            (false, true) => info!("transactions end again: ready"),
            (true, false) => {
                error!(ms = age.as_millis() as u64, "no transaction has ended, not even a canary: not ready");
            }
            (true, true) | (false, false) => {}
        }
        (executes, full) = now;
        report(&health, status(executes)).await;
        // A full disk is no matter of participants: they go on, and without them nothing would end.
        health.set_service_status(coordinator_server::SERVICE_NAME, status(executes && !full)).await;
    }
}

fn status(ready: bool) -> ServingStatus {
    if ready { ServingStatus::Serving } else { ServingStatus::NotServing }
}
