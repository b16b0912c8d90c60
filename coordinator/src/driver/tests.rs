//! What is decided before a transaction begins, and until when it is remembered after its end.

use tercet_core::Operation;
use tercet_proto::store::v1::Plan as StoredPlan;
use tokio::sync::oneshot;

use super::*;
use crate::clock::{ManualClock, SystemClock};
use crate::config::LEASE_MS;
use crate::request::{Added, End};
use crate::session::Sessions;
use crate::store::{ListQuery, MemoryStore};

fn declared(service: &str) -> Plan {
    let branch = pb::Branch { service: service.into(), action: "act".into(), ..pb::Branch::default() };
    let transaction = pb::Transaction { mode: pb::Mode::Tcc.into(), branches: vec![branch], ..Default::default() };
    Plan::declared(transaction).expect("it is within every limit")
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_begun() {
    let clock = SystemClock::start();
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let owner = Owner { node: 0, epoch: 1 };
    let settings = Settings { owner, live_max: 10, lease_end: clock.now().after_ms(LEASE_MS) };
    let (inbox, inputs) = mpsc::channel(10);
    let sessions = Sessions::new(clock.clone());
    let driver = Driver::new(Arc::clone(&store), sessions, clock, settings, inputs);
    // The first two have given up before the driver comes to them: a call and a stream.
    let (given_up, _) = oneshot::channel();
    let (closed, _) = mpsc::unbounded_channel();
    let (waits, answer) = oneshot::channel();
    for answer in [Answer::One(given_up), Answer::Entry(1, closed), Answer::One(waits)] {
        let plan = Box::new(declared("shop"));
        inbox.send(Input::Start { plan, wait: Waits::Accepted, answer }).await.expect("there is room");
    }
    let (_stop, stopping) = watch::channel(false);
    let driven = tokio::spawn(driver.run(stopping));
    let view = answer.await.expect("it is answered").expect("it is accepted");
    let all = store.list(ListQuery { limit: 10, ..ListQuery::default() }).await.expect("the store is there");
    let all: Vec<_> = all.iter().map(|record| record.xid.0.to_vec()).collect();
    assert_eq!(all, [view.xid.to_vec()]);
    drop(inbox);
    driven.await.expect("it ends with its inbox");
}

/// A caller whose participants answer at once: nothing was committed, everything else is done.
struct Obliging {
    inbox: mpsc::Sender<Input>,
    forgotten: mpsc::UnboundedSender<Timestamp>,
}

impl Caller for Obliging {
    fn call(&mut self, call: Outgoing) -> bool {
        let reply = if call.call.operation == Operation::Ask { Reply::Refused } else { Reply::Done };
        self.inbox.try_send(Input::Replies(vec![call.answered(reply)])).is_ok()
    }
    fn reaches(&self, _: &str) -> bool {
        true
    }
    fn flush(&mut self) -> Vec<Incoming> {
        Vec::new()
    }
    fn forget(&mut self, _: Xid, _: &StoredPlan, not_after: Timestamp) {
        self.forgotten.send(not_after).expect("the test listens");
    }
}

/// A driver with obliging participants, whose lease lasts a second at first.
struct Obliged {
    inbox: mpsc::Sender<Input>,
    forgotten: mpsc::UnboundedReceiver<Timestamp>,
    now: Timestamp,
    _stop: watch::Sender<bool>,
}

impl Obliged {
    fn start() -> Self {
        let now = Timestamp(1_000_000);
        let clock = ManualClock::at(now);
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let settings = Settings { owner: Owner { node: 0, epoch: 1 }, live_max: 10, lease_end: now.after_ms(1_000) };
        let (inbox, inputs) = mpsc::channel(10);
        let (forget, forgotten) = mpsc::unbounded_channel();
        let caller = Obliging { inbox: inbox.clone(), forgotten: forget };
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(Driver::new(store, caller, clock, settings, inputs).run(stopping));
        Self { inbox, forgotten, now, _stop: stop }
    }

    async fn begin(&self, plan: Plan) -> pb::TransactionView {
        let (sender, answer) = oneshot::channel();
        let start = Input::Start { plan: Box::new(plan), wait: Waits::Accepted, answer: Answer::One(sender) };
        self.inbox.send(start).await.expect("there is room");
        answer.await.expect("it is answered").expect("it is accepted")
    }

    async fn add(&self, xid: Xid) -> Added {
        self.try_add(xid).await.expect("it is added")
    }

    async fn try_add(&self, xid: Xid) -> Result<Added, Error> {
        let (answer, added) = oneshot::channel();
        let branch = pb::Branch { service: "shop".into(), action: "act".into(), ..pb::Branch::default() };
        let add = Input::AddBranch { xid, index: Some(0), branch: Box::new(branch), answer };
        self.inbox.send(add).await.expect("there is room");
        added.await.expect("it is answered")
    }

    /// Rolls it back; after which time it may be forgotten.
    async fn roll_back(&mut self, xid: Xid) -> Timestamp {
        let (sender, answer) = oneshot::channel();
        let end = End::Rollback { reason: String::new() };
        let finish = Input::Finish { xid, end, wait: Waits::Ended, answer: Answer::One(sender) };
        self.inbox.send(finish).await.expect("there is room");
        answer.await.expect("it is answered").expect("it is cancelled");
        self.forgotten.recv().await.expect("the driver runs")
    }
}

#[tokio::test]
async fn a_no_is_remembered_for_as_long_as_its_sender_may_commit() {
    let mut obliged = Obliged::start();
    let branch = |action: &str| pb::Branch { service: "shop".into(), action: action.into(), ..pb::Branch::default() };
    let request = pb::PrepareRequest {
        sender: Some(branch("send")),
        receivers: vec![branch("receive")],
        query_after_ms: 60_000,
        ..pb::PrepareRequest::default()
    };
    let view = obliged.begin(Plan::prepared(request).expect("within every limit")).await;
    let xid = Xid::from_slice(&view.xid).expect("a name");
    let forgotten = obliged.roll_back(xid).await;
    assert_eq!(view.deadline_at_ms, obliged.now.after_ms(60_000).0);
    assert!(forgotten.0 >= view.deadline_at_ms, "{forgotten:?}");
}

#[tokio::test]
async fn a_branch_is_remembered_for_as_long_as_its_repeats_have_said() {
    let mut obliged = Obliged::start();
    let view = obliged.begin(begun(60_000)).await;
    let xid = Xid::from_slice(&view.xid).expect("a name");
    let first = obliged.add(xid).await;
    obliged.inbox.send(Input::Lease { end: obliged.now.after_ms(20_000) }).await.expect("there is room");
    let again = obliged.add(xid).await;
    assert!(again.not_after > first.not_after, "the lease has moved on");
    obliged.inbox.send(Input::Lease { end: obliged.now.after_ms(2_000) }).await.expect("there is room");
    assert!(obliged.roll_back(xid).await >= again.not_after);
}

/// A transaction that its initiator drives call by call.
fn begun(deadline_ms: u32) -> Plan {
    let request = pb::BeginRequest { mode: pb::Mode::Tcc.into(), deadline_ms, ..pb::BeginRequest::default() };
    Plan::begun(request).expect("within every limit")
}

#[tokio::test]
async fn what_comes_call_by_call_leaves_room_for_other_services_too() {
    let obliged = Obliged::start();
    for _ in 0..5 {
        let view = obliged.begin(begun(60_000)).await;
        obliged.add(Xid::from_slice(&view.xid).expect("a name")).await;
    }
    let view = obliged.begin(begun(60_000)).await;
    let xid = Xid::from_slice(&view.xid).expect("a name");
    let refused = obliged.try_add(xid).await;
    assert!(matches!(&refused, Err(Error::ServiceOverloaded { service, .. }) if service == "shop"), "{refused:?}");
}

#[tokio::test]
async fn what_ends_long_before_its_deadline_leaves_no_timer() {
    let clock = ManualClock::at(Timestamp(1_000_000));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let lease_end = clock.now().after_ms(LEASE_MS);
    let settings = Settings { owner: Owner { node: 0, epoch: 1 }, live_max: 10, lease_end };
    let (inbox, inputs) = mpsc::channel(10);
    let (forget, _forgotten) = mpsc::unbounded_channel();
    let mut driver = Driver::new(store, Obliging { inbox, forgotten: forget }, clock.clone(), settings, inputs);
    for _ in 0..10_000 {
        let (sender, mut answer) = oneshot::channel();
        let (plan, answered) = (Box::new(begun(24 * 3_600_000)), Answer::One(sender));
        driver.take(Input::Start { plan, wait: Waits::Accepted, answer: answered }, clock.now());
        commit(&mut driver).await;
        let view = answer.try_recv().expect("it is answered").expect("it is accepted");
        let xid = Xid::from_slice(&view.xid).expect("a name");
        let (sender, _) = oneshot::channel();
        let end = End::Rollback { reason: String::new() };
        let finish = Input::Finish { xid, end, wait: Waits::Ended, answer: Answer::One(sender) };
        driver.take(finish, clock.now());
        commit(&mut driver).await;
    }
    assert!(driver.slots.is_empty());
    assert!(driver.timers.len() <= crate::limits::TIMERS_SPARE, "{}", driver.timers.len());
}

/// As the loop does it.
async fn commit<S: Store, C: Caller, K: Clock + Clone>(driver: &mut Driver<S, C, K>) {
    while !driver.queued.is_empty() {
        driver.start_commit();
        let written = finished(&mut driver.commit).await;
        driver.commit = None;
        let now = driver.clock.now();
        written.into_iter().for_each(|(xid, written)| driver.written(xid, written, now));
    }
}
