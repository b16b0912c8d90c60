//! Canaries: tiny real transactions that tell whether work gets done, not only accepted.
//!
//! Whatever ends is a sign of life. Something may be under way and nothing end for good reasons (a participant is
//! away), so then twice a second one goes through the driver and the store's group commit to a participant of the
//! coordinator's own, an in-process session, and back. While not even these end, the coordinator accepts but does not
//! execute: it says NOT_SERVING. No participant is part of it, so none can make the coordinator unready. With nothing
//! under way there is nothing to tell, and one in ten seconds is enough to find a store that is stuck before anybody
//! comes: each costs synced commits.
//!
//! Half as often, another one has a branch for each of some sessions, in turn, that have answered nothing lately. Its
//! try goes down that very session and is answered by the SDK's executor. It waits for a place in the session's window
//! as every batch does, so a session whose handlers hang does not answer it although it still says that it is alive.
//! What becomes of such a transaction matters to nobody, only when the session answered. Its cancels, and tries for
//! sessions that are gone, are answered by the coordinator's own participant, so nothing of it is ever retried or
//! parked.
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
    gauges: Arc<Gauges>,
    id: SessionId,
    calls: mpsc::Receiver<Result<participant::OpenResponse, tonic::Status>>,
    /// The latest of its own, and when it was begun.
    own: Option<(Ended, Instant)>,
    /// What had ended at the latest tick.
    ended: u64,
    /// The latest for sessions: the driver does nothing for those who have gone.
    asked: Option<Ended>,
    /// Whether the latest tick was one for sessions.
    turn: bool,
}

type Ended = oneshot::Receiver<Result<TransactionView, request::Error>>;

impl Canaries {
    /// Opens the session of the coordinator's own participant. Before any participant comes, so there is room.
    pub fn new(sessions: Sessions, inbox: mpsc::Sender<Input>, gauges: Arc<Gauges>) -> Option<Self> {
        let (down, calls) = mpsc::channel(limits::WINDOW_MAX as usize);
        let register = participant::Register {
            service: NAME.to_owned(),
            window: limits::WINDOW_MAX,
            ..participant::Register::default()
        };
        let (id, _) = sessions.add(&register, down, None).ok()?;
        Some(Self { sessions, inbox, gauges, id, calls, own: None, ended: 0, asked: None, turn: false })
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
        let ended = self.gauges.ended.load(Ordering::Relaxed);
        let lives = std::mem::replace(&mut self.ended, ended) != ended;
        let quiet = !under_way(&self.gauges, &self.inbox);
        if let Some((own, began)) = &mut self.own {
            // One at a time: a coordinator that executes nothing is not handed more and more of them.
            let unended = own.try_recv() == Err(TryRecvError::Empty);
            if unended || quiet && began.elapsed() < Duration::from_millis(limits::CANARY_QUIET_MS) {
                return;
            }
        }
        if !lives || quiet {
            self.own = Some((self.start([(NAME.to_owned(), Bytes::new())]), Instant::now()));
        }
        self.turn = quiet || !self.turn;
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

/// Whether the driver has anything to end, or to begin.
fn under_way(gauges: &Gauges, inbox: &mpsc::Sender<Input>) -> bool {
    gauges.under_way.load(Ordering::Relaxed) > 0 || inbox.capacity() < inbox.max_capacity()
}

/// Says in `health` when the coordinator stops executing, has no room on its disk, or is well again; until `stopping`
/// is set. Anything that ends is a sign of life; canaries see to it that something ends while something is under way.
pub async fn watch_readiness(
    (gauges, inbox): (Arc<Gauges>, mpsc::Sender<Input>),
    mut stopping: watch::Receiver<bool>,
    health: HealthReporter,
) {
    let (mut last, mut at) = (0, Instant::now());
    let (mut executes, mut full) = (true, false);
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let ended = gauges.ended.load(Ordering::Relaxed) + gauges.canaries.load(Ordering::Relaxed);
        if ended != last || !under_way(&gauges, &inbox) {
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

#[cfg(test)]
mod tests {
    use tonic::IntoRequest as _;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_server::Health as _;
    use tonic_health::server::HealthService;

    use super::*;

    /// How long until it says that it is not ready, of ten seconds.
    async fn unready_after(health: &HealthService) -> Option<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(LOOK).await;
            let service = coordinator_server::SERVICE_NAME.to_owned();
            let said = health.check(HealthCheckRequest { service }.into_request()).await.expect("it is known");
            if said.into_inner().status == ServingStatus::NotServing as i32 {
                return Some(begun.elapsed());
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_hangs_is_not_ready_in_three_seconds_once_something_waits_for_it() {
        let (inbox, _nobody_reads) = mpsc::channel(limits::WINDOW_MAX as usize);
        let gauges = Arc::new(Gauges::default());
        let (_stop, stopping) = watch::channel(false);
        let reporter = HealthReporter::new();
        report(&reporter, ServingStatus::Serving).await;
        let health = HealthService::from_health_reporter(reporter.clone());
        let watching = tokio::spawn(watch_readiness((Arc::clone(&gauges), inbox.clone()), stopping, reporter));
        assert_eq!(unready_after(&health).await, None, "nothing is under way");
        inbox.try_send(Input::Replies(Vec::new())).expect("there is room");
        let waited = unready_after(&health).await;
        assert!(waited.is_some_and(|waited| waited < Duration::from_secs(3)), "{waited:?}");
        watching.abort();
    }
}
