//! Simulated runs with an operator in them: what Explain says comes next does come, at its time, and what a dry run
//! tells is what the order then changes.
//!
//! The real driver and scanner over a store in memory, services that come and go, and calls that are lost, late or
//! refused, all from one seed on tokio's paused clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tercet_coordinator::audit::Verifier;
use tercet_coordinator::caller::{Caller, Outgoing};
use tercet_coordinator::clock::{Clock as _, SystemClock};
use tercet_coordinator::driver::{Driver, Settings};
use tercet_coordinator::explain::{Facts, explain};
use tercet_coordinator::live::{Live, Words};
use tercet_coordinator::names;
use tercet_coordinator::operate::{Order, Wanted};
use tercet_coordinator::plan::Plan;
use tercet_coordinator::request::{Answer, Error, Input, Waits};
use tercet_coordinator::scanner::{Looks, Room, Scanner};
use tercet_coordinator::session::{Health, State};
use tercet_coordinator::store::{
    AuditQuery, Compensation, CompensationQuery, CompensationStatus, Lookup, MemoryStore, Owner, Store as _,
};
use tercet_core::{Operation, Progress, Reply, RetryPolicy, Status, Timestamp, Xid};
use tercet_proto::admin::v1 as admin;
use tercet_proto::admin::v1::next::Kind;
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::store::v1::Plan as StoredPlan;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep;

const START: Timestamp = Timestamp(1_700_000_000_000);
const SERVICES: [&str; 3] = ["a", "b", "c"];
/// Schedules of the scanner, in milliseconds too. The beginning is a time of each.
const SCHEDULES: [(&str, u64); 2] = [("* * * * * *", 1_000), ("*/5 * * * * *", 5_000)];

/// Chance from one seed: SplitMix64 (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % limit
    }
}

/// What a run shares, and all that the operator may not know beforehand.
struct Inner {
    chance: Chance,
    connected: BTreeMap<&'static str, bool>,
    calls: Vec<(Timestamp, Xid, u8, Operation)>,
    /// Answers that reached a transaction, and services that came or went, which concern all.
    disturbances: Vec<(Timestamp, Option<Xid>)>,
}

#[derive(Clone)]
struct World {
    inner: Arc<Mutex<Inner>>,
    clock: SystemClock,
    store: MemoryStore,
    inbox: mpsc::Sender<Input>,
    looks: Looks,
}

/// What the runs showed, so that a test in which nothing is compared fails.
#[derive(Default)]
struct Seen {
    effects: BTreeMap<String, u64>,
    orders: BTreeMap<String, u64>,
}

/// A service of which an instance is connected.
pub(crate) fn healthy(service: &str) -> Health {
    Health {
        service: service.to_owned(),
        state: State::Healthy,
        sessions: 1,
        queued: 0,
        in_flight: 0,
        oldest_batch: Duration::ZERO,
        replies: [0; 4],
        failure: None,
    }
}

impl Caller for World {
    fn call(&mut self, call: Outgoing) -> bool {
        let now = self.clock.now();
        let mut inner = self.inner.lock().expect("no panic");
        if !inner.connected[call.service()] {
            return false;
        }
        inner.calls.push((now, call.xid, call.call.branch, call.call.operation));
        let (luck, delay_ms) = (inner.chance.below(100), 1 + inner.chance.below(900));
        let reply = match luck {
            0..45 => return true,
            45..70 => Reply::Done,
            70..80 => Reply::Refused,
            80..90 => Reply::NotNow { delay_ms: 300 },
            _ => Reply::Unknown,
        };
        let world = self.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(delay_ms)).await;
            world.disturb(Some(call.xid));
            let incoming = tercet_coordinator::caller::Incoming { words: Words::default(), ..call.answered(reply) };
            drop(world.inbox.try_send(Input::Replies(vec![incoming])));
        });
        true
    }

    fn reaches(&self, service: &str) -> bool {
        self.inner.lock().expect("no panic").connected[service]
    }

    fn flush(&mut self) -> Vec<tercet_coordinator::caller::Incoming> {
        Vec::new()
    }

    fn forget(&mut self, _: Xid, _: &StoredPlan, _: Timestamp) {}
}

impl World {
    fn below(&self, limit: u64) -> u64 {
        self.inner.lock().expect("no panic").chance.below(limit)
    }

    fn disturb(&self, xid: Option<Xid>) {
        let now = self.clock.now();
        self.inner.lock().expect("no panic").disturbances.push((now, xid));
    }

    /// Whether anything came from outside after `from`, up to and with `until`.
    fn disturbed(&self, xid: Xid, from: Timestamp, until: Timestamp) -> bool {
        let inner = self.inner.lock().expect("no panic");
        inner.disturbances.iter().any(|(at, of)| *at >= from && *at <= until && of.is_none_or(|of| of == xid))
    }

    fn connected(&self) -> Vec<String> {
        let inner = self.inner.lock().expect("no panic");
        inner.connected.iter().filter(|(_, there)| **there).map(|(name, _)| (*name).to_owned()).collect()
    }

    /// Services come and go.
    async fn toggle(self) {
        loop {
            sleep(Duration::from_millis(2_000 + self.below(8_000))).await;
            let service = SERVICES[self.below(3) as usize];
            self.disturb(None);
            let there = {
                let mut inner = self.inner.lock().expect("no panic");
                let there = inner.connected.get_mut(service).expect("it is one of them");
                *there = !*there;
                *there
            };
            if there {
                drop(self.inbox.try_send(Input::Connected { service: service.into() }));
            }
        }
    }

    async fn start(&self) -> Option<Xid> {
        let retry = pb::RetryPolicy {
            first_delay_ms: 100,
            delay_max_ms: 3_000,
            quick_attempts: 2,
            attempts: 4,
            ..Default::default()
        };
        let branch = || pb::Branch {
            service: SERVICES[self.below(3) as usize].into(),
            action: "act".into(),
            call_timeout_ms: 700,
            retry: Some(retry),
            ..Default::default()
        };
        let plan = match self.below(4) {
            0 => Plan::prepared(pb::PrepareRequest {
                sender: Some(branch()),
                receivers: vec![branch()],
                query_after_ms: 1_500,
                ..Default::default()
            }),
            1 => Plan::begun(pb::BeginRequest { mode: pb::Mode::Tcc.into(), deadline_ms: 9_000, ..Default::default() }),
            kind => Plan::declared(pb::Transaction {
                mode: if kind == 2 { pb::Mode::Tcc } else { pb::Mode::Saga }.into(),
                branches: (0..1 + self.below(3)).map(|_| branch()).collect(),
                deadline_ms: 6_000,
                ..Default::default()
            }),
        };
        let (answer, answered) = oneshot::channel();
        let plan = Box::new(plan.expect("it is sound"));
        let start = Input::Start { plan, wait: Waits::Accepted, answer: Answer::One(answer) };
        self.inbox.try_send(start).ok()?;
        Xid::from_slice(&answered.await.ok()?.ok()?.xid)
    }

    async fn look(&self, xid: Xid) -> Live {
        let (answer, shown) = oneshot::channel();
        self.inbox.try_send(Input::Look { xid, answer }).expect("there is room");
        match shown.await.expect("the driver runs") {
            Some(live) => *live,
            None => self.stored(xid).await,
        }
    }

    async fn stored(&self, xid: Xid) -> Live {
        let record = self.store.get(Lookup::Xid(xid)).await.expect("memory answers").expect("it was accepted");
        Live::decode(&record).expect("written by this version")
    }

    async fn rows(&self, xid: Xid) -> Vec<Compensation> {
        let query = CompensationQuery { xid: Some(xid), limit: 100, ..CompensationQuery::default() };
        self.store.list(query).await.expect("memory answers")
    }

    /// Asks for an explanation and waits for what it says.
    async fn foresee(&self, xid: Xid, seen: &mut Seen) {
        // What is due at this very moment may be called before the operator reads the answer.
        let calls = self.inner.lock().expect("no panic").calls.len();
        let (live, rows, now) = (self.look(xid).await, self.rows(xid).await, self.clock.now());
        let status = live.tx.status;
        let services: Vec<_> = self.connected().iter().map(|service| healthy(service)).collect();
        let looks = &|from| self.looks.next(from);
        let told = explain(Facts { live, rows: &rows, acts: &[], services: &services, now, looks });
        let next = told.next.expect("it tells");
        assert_eq!(told.lines.last(), Some(&format!("Next: {}", next.text)));
        let (branch, at) = (next.branch as u8, Timestamp(next.at_ms));
        let until = match next.kind() {
            Kind::Person | Kind::Service => now.after_ms(5_000),
            Kind::Nothing | Kind::Unspecified => return,
            Kind::Call | Kind::AskAgain | Kind::Log | Kind::Park | Kind::Confirm | Kind::Cancel => at,
        };
        if next.at_ms > 0 {
            let ms = next.at_ms % 86_400_000;
            let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
            let time = format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", ms % 1_000);
            assert!(next.text.contains(&time), "{} without {time}", next.text);
        }
        sleep(Duration::from_millis(until.0.saturating_sub(now.0) + 1)).await;
        let later = self.clock.now();
        if self.disturbed(xid, now, later) {
            return;
        }
        let (after, rows) = (self.look(xid).await, self.rows(xid).await);
        let progress = after.tx.branches.get(usize::from(branch)).map(|branch| (branch.progress, branch.wake_at));
        let called: Vec<_> = {
            let inner = self.inner.lock().expect("no panic");
            inner.calls[calls..].iter().filter(|call| call.1 == xid).map(|call| (call.0, call.2, call.3)).collect()
        };
        let operation = |call: &&(Timestamp, u8, Operation)| names::operation_name(call.2) == next.operation;
        let came = match next.kind() {
            Kind::Call => {
                let first = called.iter().find(|call| call.1 == branch);
                first.filter(operation).is_some_and(|call| call.0 == at.max(now))
            }
            Kind::AskAgain => progress == Some((Progress::Delayed, Timestamp(next.again_ms))),
            Kind::Log => {
                rows.iter().any(|row| row.next_retry_time.0 == next.again_ms && row.branch == u16::from(branch))
            }
            Kind::Park => matches!(progress, Some((Progress::Parked(_), _))),
            Kind::Confirm => matches!(after.tx.status, Status::Confirming | Status::Confirmed),
            Kind::Cancel => matches!(after.tx.status, Status::Cancelling | Status::Cancelled),
            Kind::Person | Kind::Service => called.iter().all(|call| call.0 <= now) && after.tx.status == status,
            Kind::Nothing | Kind::Unspecified => true,
        };
        assert!(came, "told {next:?} at {now:?}; came {called:?}, {progress:?}, {:?}", after.tx);
        *seen.effects.entry(format!("{:?}, scanner {}", next.kind(), next.scanner)).or_default() += 1;
    }

    fn wanted(&self, live: &Live) -> Wanted {
        let count = live.tx.branches.len() as u64;
        let branch = (count > 0 && self.below(2) == 0).then(|| self.below(count) as u8);
        let parked = live.tx.branches.iter().position(|branch| matches!(branch.progress, Progress::Parked(_)));
        match self.below(8) {
            0 | 1 => Wanted::Retry(branch),
            2 | 3 => Wanted::Park(branch),
            4 => Wanted::Resume(branch),
            5 => match parked.and_then(|index| Some((index as u8, live.tx.operation(index as u8)?))) {
                Some((index, operation)) => Wanted::Resolve(index, operation),
                None => Wanted::ForceCancel,
            },
            6 => Wanted::SetRetry(branch, pb::RetryPolicy { attempts: 5, ..Default::default() }),
            _ => Wanted::ForceConfirm,
        }
    }

    /// Asks what an order would do and gives it in the same moment; then looks into the store.
    async fn order(&self, xid: Xid, seen: &mut Seen) {
        let stored = self.stored(xid).await;
        let wanted = self.wanted(&self.look(xid).await);
        let (answer, shown) = oneshot::channel();
        // Behind each other in the driver's inbox, so that nothing comes between them.
        self.inbox.try_send(Input::Look { xid, answer }).expect("there is room");
        let name = wanted.name().to_owned();
        let [would, did] = [true, false].map(|dry_run| {
            let order = Order { wanted: wanted.clone(), who: "ann".into(), why: "to see".into(), dry_run };
            let (answer, answered) = oneshot::channel();
            let (live, order) = (Some(Box::new(stored.clone())), Box::new(order));
            self.inbox.try_send(Input::Operate { xid, live, order, answer }).expect("there is room");
            answered
        });
        let calls = self.inner.lock().expect("no panic").calls.len();
        let now = self.clock.now();
        self.disturb(Some(xid));
        let before = shown.await.expect("the driver runs").map_or_else(|| stored.clone(), |live| *live);
        let (would, did) = (would.await.expect("the driver runs"), did.await.expect("the driver runs"));
        if matches!(did, Err(Error::NotHere)) {
            // Somebody wrote it since it was read: the API reads it again.
            return;
        }
        let (Ok(would), Ok(did)) = (&would, &did) else {
            return assert_eq!(would.as_ref().err(), did.as_ref().err(), "{name} of {:?}", before.tx);
        };
        let difference = did.difference.as_ref().expect("it tells");
        assert_eq!(would.difference.as_ref(), Some(difference), "{name} of {:?}", before.tx);
        let after = self.stored(xid).await;
        let version = did.transaction.as_ref().expect("it shows").version;
        if after.version != version {
            return;
        }
        self.compare(&before, &after, difference).await;
        let (answer, shown) = oneshot::channel();
        self.inbox.try_send(Input::Look { xid, answer }).expect("there is room");
        if let Some(here) = shown.await.expect("the driver runs").filter(|_| self.clock.now() == now) {
            for told in &difference.branches {
                let progress = here.tx.branches[told.branch as usize].progress;
                assert_eq!(names::progress_name(progress), told.after, "{name} of {:?}: {difference:?}", before.tx);
                *seen.orders.entry(format!("branch {}", told.after)).or_default() += 1;
            }
        }
        let made: Vec<_> = {
            let inner = self.inner.lock().expect("no panic");
            let made = inner.calls[calls..].iter().filter(|call| call.1 == xid && call.0 == now);
            made.map(|call| (u32::from(call.2), names::operation_name(call.3).to_owned())).collect()
        };
        let planned = difference.calls.iter().map(|call| (call.branch, call.operation.clone()));
        assert_eq!(made, planned.collect::<Vec<_>>(), "{name} of {:?}", before.tx);
        let acts = AuditQuery { xid: Some(xid), before_id: Some(u64::MAX), limit: 1, ..AuditQuery::default() };
        let acts = self.store.list(acts).await.expect("memory answers");
        assert_eq!(acts.last().map(|row| row.write.act.clone()), Some(name.clone()));
        *seen.orders.entry(name).or_default() += 1;
    }

    /// What the store holds afterwards is what was before, but for the difference.
    async fn compare(&self, before: &Live, after: &Live, difference: &admin::Difference) {
        assert_eq!(i32::from(names::status_number(before.tx.status)), difference.status_before);
        assert_eq!(i32::from(names::status_number(after.tx.status)), difference.status_after);
        for (index, stored) in after.tx.branches.iter().enumerate() {
            let moved = difference.branches.iter().find(|one| one.branch == index as u32);
            let was = names::progress_name(before.tx.branches[index].progress);
            let expected = moved.map_or(was, |one| &one.after);
            assert_eq!(moved.map_or(was, |one| &one.before), was);
            assert_eq!(kept(names::progress_name(stored.progress)), kept(expected), "branch {index}: {difference:?}");
            if let Some(told) = moved.and_then(|one| one.retry_after) {
                let RetryPolicy {
                    first_delay_ms,
                    factor_percent,
                    delay_max_ms,
                    jitter_percent,
                    quick_attempts,
                    attempts,
                } = stored.retry;
                let jitter_percent = jitter_percent.into();
                let kept = pb::RetryPolicy {
                    first_delay_ms,
                    factor_percent,
                    delay_max_ms,
                    jitter_percent,
                    quick_attempts,
                    attempts,
                };
                assert_eq!(kept, told);
            }
        }
        let rows = self.rows(before.tx.xid).await;
        for told in &difference.rows {
            let fits = |row: &&Compensation| {
                let operation = names::operation_from(row.operation).map(names::operation_name);
                (u32::from(row.branch), operation) == (told.branch, Some(told.operation.as_str()))
            };
            let row = rows.iter().find(fits).expect("it was written");
            let due = if row.status == CompensationStatus::Pending { row.next_retry_time.0 } else { 0 };
            let kept = (row.status as u32, row.retry_count, due);
            assert_eq!(kept, (told.status, told.retry_count, told.next_retry_time_ms), "{difference:?}");
        }
    }
}

/// What a store keeps of a branch's state: where it is within its attempts is known in memory only.
fn kept(state: &str) -> &str {
    match state {
        "due" | "called" | "delayed" | "unreachable" | "logged" => "open",
        other => other,
    }
}

async fn simulate(seed: u64, seen: &mut Seen) {
    let clock = SystemClock::at(START);
    let store = MemoryStore::new(clock.clone());
    let beat = store.beat(0, None, 3_600_000).await.expect("memory answers");
    let (inbox, inputs) = mpsc::channel(1_000);
    let connected = SERVICES.map(|name| (name, true)).into();
    let inner = Inner { chance: Chance(seed), connected, calls: Vec::new(), disturbances: Vec::new() };
    let inner = Arc::new(Mutex::new(inner));
    let owner = Owner { node: 0, epoch: beat.epoch };
    let (cron, tick_ms) = SCHEDULES[seed as usize % 2];
    let looks = Looks::new(cron, owner).expect("it is one");
    let world = World { inner, clock: clock.clone(), store: store.clone(), inbox: inbox.clone(), looks };
    let settings = Settings { owner, live_max: 1_000, lease_end: beat.now.after_ms(3_600_000) };
    let driver = Driver::new(Arc::new(store.clone()), world.clone(), clock.clone(), settings, inputs);
    let gauges = driver.gauges();
    let (_stop, stopping) = watch::channel(false);
    let tick = Arc::new(Notify::new());
    let there = world.clone();
    let services =
        Box::new(move || there.connected().into_iter().map(|service| Room { service, calls: 8, busy: 0 }).collect());
    let scanner = Scanner { store: Arc::new(store.clone()), clock, services, inbox, gauges, settings };
    let ticks = Arc::clone(&tick);
    let work = [
        tokio::spawn(driver.run(stopping)),
        tokio::spawn(scanner.run(tick)),
        tokio::spawn(world.clone().toggle()),
        tokio::spawn(async move {
            loop {
                sleep(Duration::from_millis(tick_ms)).await;
                ticks.notify_one();
            }
        }),
    ];
    let mut xids = Vec::new();
    for _ in 0..30 {
        xids.extend(if world.below(3) == 0 || xids.is_empty() { world.start().await } else { None });
        sleep(Duration::from_millis(world.below(800))).await;
        let xid = xids[world.below(xids.len() as u64) as usize];
        if world.below(2) == 0 { world.order(xid, seen).await } else { world.foresee(xid, seen).await }
    }
    let mut verifier = Verifier::default();
    for row in store.list(AuditQuery { limit: 1_000, ..AuditQuery::default() }).await.expect("memory answers") {
        verifier.check(&row).expect("the log is sound");
    }
    work.iter().for_each(tokio::task::JoinHandle::abort);
}

#[test]
fn what_is_foretold_comes_and_what_a_dry_run_tells_is_done_in_500_runs() {
    let mut seen = Seen::default();
    for seed in 0..500 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without IO can always be built");
        runtime.block_on(simulate(seed, &mut seen));
    }
    println!("foretold: {:?}\nordered: {:?}", seen.effects, seen.orders);
    for kind in ["Call, scanner false", "Call, scanner true", "AskAgain", "Log", "Cancel", "Person", "Service"] {
        let times = seen.effects.iter().filter(|(name, _)| name.starts_with(kind)).map(|(_, times)| times);
        assert!(times.sum::<u64>() >= 10, "{kind} was hardly ever foretold: {:?}", seen.effects);
    }
    for name in ["retry", "park", "resume", "resolve", "set-retry", "force-confirm", "force-cancel"] {
        assert!(seen.orders.get(name).is_some_and(|times| *times >= 10), "hardly any {name}: {:?}", seen.orders);
    }
}
