//! Canaries: tiny real transactions that tell whether work gets done, not only accepted.
//!
//! Whatever ends is a sign of life. Something may be under way and nothing end for good reasons (a participant is
//! away), so then twice a second one goes through the driver and the store's group commit to a participant of the
//! coordinator's own, an in-process session, and back. While not even these end, the coordinator accepts but does not
//! execute: it says NOT_SERVING of everything. No participant is part of it. With nothing under way there is nothing
//! to tell, and one in ten seconds is enough to find a store that is stuck before anybody comes: each costs synced
//! commits.
//!
//! Another one has a branch for each of some sessions, in turn, that have answered nothing lately. Its try goes down
//! that very session and is answered by the SDK's executor. It waits for a place in the session's window as every batch
//! does, so a session whose handlers hang does not answer it although it still says that it is alive. How such a
//! transaction ends matters to nobody. Its cancels, and tries for sessions that are gone, are answered by the
//! coordinator's own participant, so nothing of it is ever retried or parked.
//!
//! One session that owes its answer is its service's trouble alone. When sessions are meant to be asked and none of any
//! service answers anything, for want of an answer or because they are not even asked, or when none of these
//! transactions ends, no call gets through: to initiators the coordinator says NOT_SERVING. Participants are told so
//! only of what they have no part in, or none would come and mend it. Without a session there is nothing to tell.
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

/// From acceptance to the cancel of what a session has not answered: one that is silent must not keep the transaction
/// that asks it, and others, for as long as would be [`limits::UNREADY_MS`]; and a disk that is slow must not have it
/// cancelled before it has asked anybody.
const DEADLINE_MS: u32 = 1_000;

/// How often it is looked which sessions to ask: of a session that has just answered it is known soon enough when it
/// stops to.
const TICK: Duration = Duration::from_millis(limits::CANARY_MS / 2);

/// How often readiness is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A look that is later than this comes from a process that stood still, and heard nobody for that.
const LATE: Duration = Duration::from_millis(500);

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
    /// What had ended when it was last looked whether one is needed.
    ended: u64,
    /// Those for sessions that have not ended: the driver does nothing for those who have gone.
    asked: Vec<Ended>,
    /// Whether the latest tick was one for its own.
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
        Some(Self { sessions, inbox, gauges, id, calls, own: None, ended: 0, asked: Vec::new(), turn: false })
    }

    /// Until the driver is gone.
    pub async fn run(mut self) {
        let mut ticks = interval(TICK);
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
        let quiet = !under_way(&self.gauges, &self.inbox);
        self.turn = !self.turn;
        let began = self.turn && self.begin_own(quiet);
        // While somebody is silent it has to be known of all the others how they are.
        if began || !quiet || self.sessions.silent_since().is_some() {
            self.ask_sessions();
        }
        let before = self.asked.len();
        self.asked.retain_mut(is_under_way);
        self.gauges.rounds_ended.fetch_add((before - self.asked.len()) as u64, Ordering::Relaxed);
        self.gauges.rounds.store(self.asked.len() as u64, Ordering::Relaxed);
    }

    /// Begins one of its own where it is needed. False: not now.
    fn begin_own(&mut self, quiet: bool) -> bool {
        let ended = self.gauges.ended.load(Ordering::Relaxed);
        let lives = std::mem::replace(&mut self.ended, ended) != ended;
        if let Some((own, began)) = &mut self.own {
            // One at a time: a coordinator that executes nothing is not handed more and more of them.
            if is_under_way(own) || quiet && began.elapsed() < Duration::from_millis(limits::CANARY_QUIET_MS) {
                return false;
            }
        }
        let needed = !lives || quiet;
        if needed {
            self.own = Some((self.start([(NAME.to_owned(), Bytes::new())]), Instant::now()));
        }
        needed
    }

    fn ask_sessions(&mut self) {
        if self.asked.len() >= limits::CANARY_ROUNDS_MAX {
            return;
        }
        let asked = self.sessions.next_canaries();
        if !asked.is_empty() {
            let request = |id: SessionId| Bytes::copy_from_slice(&id.number().to_be_bytes());
            let ended = self.start(asked.into_iter().map(|(service, id)| (service, request(id))));
            self.asked.push(ended);
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

fn is_under_way(canary: &mut Ended) -> bool {
    canary.try_recv() == Err(TryRecvError::Empty)
}

/// Whether the driver has anything to end, or to begin.
fn under_way(gauges: &Gauges, inbox: &mpsc::Sender<Input>) -> bool {
    gauges.under_way.load(Ordering::Relaxed) > 0 || inbox.capacity() < inbox.max_capacity()
}

/// For how long something has stayed as it is.
struct Unmoved<T> {
    at: Option<T>,
    age: Duration,
}

impl<T: PartialEq> Unmoved<T> {
    const fn new() -> Self {
        Self { at: None, age: Duration::ZERO }
    }

    /// It is here now, so long after the last look. `None`: nothing has to move.
    fn look(&mut self, at: Option<T>, passed: Duration) -> Duration {
        if at.is_none() || at != self.at {
            *self = Self { at, age: Duration::ZERO };
        } else {
            self.age += passed.min(LATE);
        }
        self.age
    }
}

/// What readiness is told from.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    /// Something ends, or nothing is under way.
    executes: bool,
    /// A session answers, or none was to be asked.
    reaches: bool,
    /// The disk has no room for what is new.
    full: bool,
}

/// Says in `health` when the coordinator stops executing, gets through to no session, has no room on its disk, or is
/// well again; until `stopping` is set. Canaries see to it that something ends while something is under way.
pub async fn watch_readiness(
    (gauges, inbox, sessions): (Arc<Gauges>, mpsc::Sender<Input>, Sessions),
    mut stopping: watch::Receiver<bool>,
    health: HealthReporter,
) {
    let unready = Duration::from_millis(limits::UNREADY_MS);
    let (mut ends, mut answers, mut rounds) = (Unmoved::new(), Unmoved::new(), Unmoved::new());
    let (mut state, mut last) = (State { executes: true, reaches: true, full: false }, Instant::now());
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let passed = std::mem::replace(&mut last, Instant::now()).elapsed();
        let ended = || gauges.ended.load(Ordering::Relaxed) + gauges.canaries.load(Ordering::Relaxed);
        let idle = ends.look(under_way(&gauges, &inbox).then(ended), passed);
        let asking = gauges.rounds.load(Ordering::Relaxed) > 0;
        // Where somebody is heard calls get through, whatever becomes of those canaries.
        let moved = || (gauges.rounds_ended.load(Ordering::Relaxed), sessions.heard_at());
        let round = rounds.look(asking.then(moved), passed);
        let silent = answers.look(sessions.silent_since(), passed).max(round);
        gauges.idle_ms.store(idle.as_millis() as u64, Ordering::Relaxed);
        gauges.silent_ms.store(silent.as_millis() as u64, Ordering::Relaxed);
        metrics::idle(idle);
        metrics::silent(silent);
        let full = gauges.disk_full.load(Ordering::Relaxed);
        let now = State { executes: idle < unready, reaches: silent < unready, full };
        if now == state {
            continue;
        }
        tell(state, now, (idle, silent));
        state = now;
        report(&health, status(now.executes)).await;
        // Neither is a matter of participants: they go on, and without them nothing would end.
        let ready = now.executes && now.reaches && !now.full;
        health.set_service_status(coordinator_server::SERVICE_NAME, status(ready)).await;
    }
}

/// Logs what has changed; of its disk another one does.
fn tell(before: State, now: State, (idle, silent): (Duration, Duration)) {
    match (before.executes, now.executes) {
        (false, true) => info!("transactions end again"),
        (true, false) => {
            error!(ms = idle.as_millis() as u64, "no transaction has ended, not even a canary: not ready");
        }
        (true, true) | (false, false) => {}
    }
    match (before.reaches, now.reaches) {
        (false, true) => info!("calls get through to a session again"),
        (true, false) => {
            error!(ms = silent.as_millis() as u64, "sessions are asked and none answers: not ready for initiators");
        }
        (true, true) | (false, false) => {}
    }
}

fn status(ready: bool) -> ServingStatus {
    if ready { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[cfg(test)]
mod tests {
    use tercet_core::{Call, Operation, Timestamp, Xid};
    use tercet_proto::participant::v1::Register;
    use tonic::IntoRequest as _;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_server::Health as _;
    use tonic_health::server::HealthService;

    use super::*;
    use crate::caller::Caller as _;
    use crate::clock::SystemClock;

    /// A coordinator without a driver, and with something under way.
    struct Stage {
        sessions: Sessions,
        gauges: Arc<Gauges>,
        inbox: mpsc::Sender<Input>,
        inputs: mpsc::Receiver<Input>,
        health: HealthService,
        _stop: watch::Sender<bool>,
    }

    impl Stage {
        async fn new() -> Self {
            let (inbox, inputs) = mpsc::channel(limits::WINDOW_MAX as usize);
            let (gauges, sessions) = (Arc::new(Gauges::default()), Sessions::new(SystemClock::start()));
            let (stop, stopping) = watch::channel(false);
            let reporter = HealthReporter::new();
            report(&reporter, ServingStatus::Serving).await;
            let health = HealthService::from_health_reporter(reporter.clone());
            let parts = (Arc::clone(&gauges), inbox.clone(), sessions.clone());
            tokio::spawn(watch_readiness(parts, stopping, reporter));
            Self { sessions, gauges, inbox, inputs, health, _stop: stop }
        }

        /// A session of one more service.
        fn join(&self, service: &str) -> mpsc::Receiver<Result<participant::OpenResponse, tonic::Status>> {
            let (down, calls) = mpsc::channel(limits::WINDOW_MAX as usize);
            let register = Register { service: service.into(), window: 1, ..Register::default() };
            self.sessions.add(&register, down, None).expect("there is room");
            calls
        }

        /// Canaries, with something under way.
        fn begin(&mut self, asks: Asks) {
            self.gauges.under_way.store(1, Ordering::Relaxed);
            let canaries = Canaries::new(self.sessions.clone(), self.inbox.clone(), Arc::clone(&self.gauges));
            tokio::spawn(canaries.expect("there is room").run());
            let inputs = std::mem::replace(&mut self.inputs, mpsc::channel(1).1);
            tokio::spawn(drive(inputs, Arc::clone(&self.gauges), asks));
        }

        async fn says(&self, service: &str) -> bool {
            let request = HealthCheckRequest { service: service.to_owned() }.into_request();
            let said = self.health.check(request).await.expect("it is known");
            said.into_inner().status == ServingStatus::Serving as i32
        }

        /// How long until initiators are told that it is not ready, of ten seconds.
        async fn unready_after(&self) -> Option<Duration> {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(10) {
                tokio::time::sleep(LOOK).await;
                if !self.says(coordinator_server::SERVICE_NAME).await {
                    return Some(begun.elapsed());
                }
            }
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_hangs_is_not_ready_in_three_seconds_once_something_waits_for_it() {
        let stage = Stage::new().await;
        assert_eq!(stage.unready_after().await, None, "nothing is under way");
        stage.inbox.try_send(Input::Replies(Vec::new())).expect("there is room");
        let waited = stage.unready_after().await;
        assert!(waited.is_some_and(|waited| waited < Duration::from_secs(3)), "{waited:?}");
        assert!(!stage.says("").await, "nobody is served");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_goes_while_all_are_silent_makes_no_other_one_heard() {
        let stage = Stage::new().await;
        let _calls = stage.join("shop");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _others = stage.join("stock");
        // Who has been silent for longer is asked first.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let first = stage.sessions.next_canaries();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let second = stage.sessions.next_canaries();
        assert_eq!((first.len(), second.len()), (1, 1), "{first:?}, {second:?}");
        assert!(stage.unready_after().await.is_some());
        let (service, id) = &first[0];
        stage.sessions.remove(service, *id, "it is gone");
        for _ in 0..5 {
            tokio::time::sleep(LOOK).await;
            assert!(!stage.says(coordinator_server::SERVICE_NAME).await, "the other one owes its answer all the same");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_calls_are_answered_canaries_that_do_not_end_make_nothing_unready() {
        let mut stage = Stage::new().await;
        let (down, mut calls) = mpsc::channel(limits::WINDOW_MAX as usize);
        let register = Register { service: "shop".into(), window: 1, ..Register::default() };
        let (id, _) = stage.sessions.add(&register, down, None).expect("there is room");
        let _silent = stage.join("stock");
        stage.begin(Asks::Forever);
        let branch = record::Branch { service: "shop".into(), ..record::Branch::default() };
        let plan = Arc::new(record::Plan { branches: vec![branch], ..record::Plan::default() });
        let mut sessions = stage.sessions.clone();
        let served = tokio::spawn(async move {
            for batch in 1.. {
                tokio::time::sleep(LOOK).await;
                let call = Call { branch: 0, operation: Operation::Try, attempt: 0, not_after: Timestamp(u64::MAX) };
                assert!(sessions.call(Outgoing { xid: Xid([0; 16]), plan: Arc::clone(&plan), call }));
                assert!(sessions.flush().is_empty());
                calls.recv().await.expect("it is sent").expect("it is sound");
                sessions.answer("shop", id, participant::Replies { batch, replies: Vec::new() });
            }
        });
        assert_eq!(stage.unready_after().await, None, "its calls are answered");
        served.abort();
        assert!(stage.unready_after().await.is_some(), "nobody is heard any more");
    }

    /// What the driver does with a canary for sessions.
    #[derive(Clone, Copy, PartialEq)]
    enum Asks {
        /// It ends it without a call.
        Nobody,
        /// It never ends it.
        Forever,
    }

    /// A driver that ends everything but canaries for sessions, and what these become.
    async fn drive(mut inputs: mpsc::Receiver<Input>, gauges: Arc<Gauges>, asks: Asks) {
        let mut kept = Vec::new();
        while let Some(input) = inputs.recv().await {
            if let Input::Start { plan, answer, .. } = input {
                let own = plan.record.branches.iter().all(|branch| branch.service == NAME);
                if own || asks == Asks::Nobody {
                    gauges.canaries.fetch_add(1, Ordering::Relaxed);
                } else {
                    kept.push(answer);
                }
            }
        }
    }

    async fn unready_with(asks: Asks) -> (Stage, Option<Duration>) {
        let mut stage = Stage::new().await;
        stage.begin(asks);
        assert_eq!(stage.unready_after().await, None, "nobody is to be asked");
        let _calls = stage.join("shop");
        let waited = stage.unready_after().await;
        (stage, waited)
    }

    #[tokio::test(start_paused = true)]
    async fn a_coordinator_that_asks_nobody_any_more_is_not_ready_for_initiators_in_three_seconds() {
        let (stage, waited) = unready_with(Asks::Nobody).await;
        assert!(waited.is_some_and(|waited| waited < Duration::from_secs(3)), "{waited:?}");
        assert!(stage.says("").await, "participants can come");
        assert!(stage.gauges.silent_ms.load(Ordering::Relaxed) >= limits::UNREADY_MS);
        assert_eq!(stage.gauges.idle_ms.load(Ordering::Relaxed), 0, "its own canaries end");
        let _calls = stage.join("stock");
        tokio::time::sleep(2 * LOOK).await;
        assert!(stage.says(coordinator_server::SERVICE_NAME).await, "somebody has been heard");
    }

    #[tokio::test(start_paused = true)]
    async fn a_coordinator_whose_canaries_for_sessions_do_not_end_is_not_ready_for_initiators_in_three_seconds() {
        let (stage, waited) = unready_with(Asks::Forever).await;
        assert!(waited.is_some_and(|waited| waited < Duration::from_secs(3)), "{waited:?}");
        assert!(stage.says("").await, "participants can come");
    }

    #[test]
    fn while_a_process_stands_still_nobody_is_silent() {
        let mut unmoved = Unmoved::new();
        assert_eq!(unmoved.look(Some(1), LOOK), Duration::ZERO);
        assert_eq!(unmoved.look(Some(1), LOOK), LOOK);
        assert_eq!(unmoved.look(Some(1), Duration::from_secs(60)), LOOK + LATE);
        assert_eq!(unmoved.look(Some(2), LOOK), Duration::ZERO);
        assert_eq!(unmoved.look(None, LOOK), Duration::ZERO);
    }
}
