//! A store that does not answer: who waits for it is told so in time, and nothing new is taken until it does.
//!
//! What is under way stays in memory and goes on with the store. Its callers are told that they do not know, which is
//! true, and ask again by name or by key.

use tercet_core::Timestamp;

use super::Driver;
use crate::caller::Caller;
use crate::clock::Clock;
use crate::limits::STORE_SILENCE_MS;
use crate::request::{Error, Input};
use crate::store::Store;

/// How long the commit that is under way has been.
#[derive(Debug)]
pub(super) struct Silence {
    /// When to tell those who wait.
    pub(super) at: Timestamp,
    /// It has been told.
    told: bool,
}

impl Default for Silence {
    /// There is no commit.
    fn default() -> Self {
        Self { at: Timestamp::MAX, told: false }
    }
}

impl Silence {
    /// A commit begins.
    pub(super) fn begin(now: Timestamp) -> Self {
        Self { at: now.after_ms(STORE_SILENCE_MS), told: false }
    }

    /// What may come in. Whoever would have to wait for the store hears at once that it does not answer.
    pub(super) fn admit(&self, input: Input) -> Option<Input> {
        if self.told { input.refuse(silent) } else { Some(input) }
    }
}

impl<S: Store, C: Caller, K: Clock + Clone> Driver<S, C, K> {
    /// Tells everybody who waits for a write, and again those who come to wait meanwhile.
    pub(super) fn tell_silence(&mut self, now: Timestamp) {
        self.silence = Silence { told: true, ..Silence::begin(now) };
        for slot in self.slots.values_mut().filter(|slot| slot.writing) {
            slot.fail(silent);
            slot.backlog = slot.backlog.drain(..).filter_map(|input| input.refuse(silent)).collect();
        }
    }
}

fn silent() -> Error {
    Error::Unavailable { reason: format!("no answer for {STORE_SILENCE_MS} ms") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tercet_core::{Call, Xid};
    use tercet_proto::coordinator::v1 as pb;
    use tercet_proto::store::v1::Plan as StoredPlan;
    use tokio::sync::{mpsc, oneshot, watch};

    use super::*;
    use crate::caller::{Incoming, Outgoing};
    use crate::clock::ManualClock;
    use crate::driver::{Gauges, Settings};
    use crate::plan::Plan;
    use crate::request::{Answer, End, Waits};
    use crate::store::{
        self, Beat, ClaimCompensations, Claimed, Lookup, MemoryStore, Owner, Purge, Query, Record, Write, Written,
    };

    /// A store that does not answer writes while its gate is shut, has no room for anything new while it is full, and
    /// none for anything while it is stuffed.
    struct Ailing {
        memory: MemoryStore,
        open: watch::Receiver<bool>,
        full: AtomicBool,
        stuffed: AtomicBool,
    }

    impl Store for Ailing {
        async fn write(&self, batch: Vec<Write>) -> Result<Vec<Written>, store::Error> {
            drop(self.open.clone().wait_for(|open| *open).await);
            let new = batch.iter().any(|write| matches!(write, Write::Create(_)));
            if self.stuffed.load(Ordering::Relaxed) || self.full.load(Ordering::Relaxed) && new {
                return Err(store::Error::Full(sqlx::Error::PoolClosed));
            }
            self.memory.write(batch).await
        }
        async fn get(&self, lookup: Lookup) -> Result<Option<Record>, store::Error> {
            self.memory.get(lookup).await
        }
        async fn list<Q: Query>(&self, query: Q) -> Result<Vec<Q::Row>, store::Error> {
            self.memory.list(query).await
        }
        async fn claim_orphans(&self, owner: Owner, limit: u32) -> Result<Vec<Record>, store::Error> {
            self.memory.claim_orphans(owner, limit).await
        }
        async fn claim_compensations(&self, claim: ClaimCompensations) -> Result<Vec<Claimed>, store::Error> {
            self.memory.claim_compensations(claim).await
        }
        async fn beat(&self, node: u16, epoch: Option<u64>, lease_ms: u64) -> Result<Beat, store::Error> {
            self.memory.beat(node, epoch, lease_ms).await
        }
        async fn purge(&self, purge: Purge) -> Result<u64, store::Error> {
            self.memory.purge(purge).await
        }
    }

    /// Participants that take everything and answer nothing.
    struct Silent(mpsc::UnboundedSender<Call>);

    impl Caller for Silent {
        fn call(&mut self, call: Outgoing) -> bool {
            self.0.send(call.call).is_ok()
        }
        fn reaches(&self, _: &str) -> bool {
            true
        }
        fn flush(&mut self) -> Vec<Incoming> {
            Vec::new()
        }
        fn forget(&mut self, _: Xid, _: &StoredPlan, _: Timestamp) {}
    }

    struct Stage {
        inbox: mpsc::Sender<Input>,
        clock: ManualClock,
        gate: watch::Sender<bool>,
        store: Arc<Ailing>,
        gauges: Arc<Gauges>,
        calls: mpsc::UnboundedReceiver<Call>,
        _stop: watch::Sender<bool>,
    }

    impl Stage {
        fn start() -> Self {
            let clock = ManualClock::at(Timestamp(1_000_000));
            let (gate, open) = watch::channel(true);
            let memory = MemoryStore::new(clock.clone());
            let store = Arc::new(Ailing { memory, open, full: AtomicBool::default(), stuffed: AtomicBool::default() });
            let settings = Settings {
                owner: Owner { node: 0, epoch: 1 },
                live_max: 100,
                lease_end: Timestamp(1_000_000).after_ms(1 << 30),
            };
            let (inbox, inputs) = mpsc::channel(16);
            let (stop, stopping) = watch::channel(false);
            let (called, calls) = mpsc::unbounded_channel();
            let driver = Driver::new(Arc::clone(&store), Silent(called), clock.clone(), settings, inputs);
            let gauges = driver.gauges();
            tokio::spawn(driver.run(stopping));
            Self { inbox, clock, gate, store, gauges, calls, _stop: stop }
        }

        async fn begin(&self) -> oneshot::Receiver<Result<pb::TransactionView, Error>> {
            let request = pb::BeginRequest { mode: pb::Mode::Tcc.into(), ..pb::BeginRequest::default() };
            self.start_with(Plan::begun(request).expect("within every limit")).await
        }

        async fn start_with(&self, plan: Plan) -> oneshot::Receiver<Result<pb::TransactionView, Error>> {
            let plan = Box::new(plan);
            let (answer, answered) = oneshot::channel();
            let start = Input::Start { plan, wait: Waits::Accepted, answer: Answer::One(answer) };
            self.inbox.send(start).await.expect("the driver runs");
            answered
        }

        /// So much time passes, and the driver looks at its clock.
        async fn pass(&self, ms: u64) {
            tokio::task::yield_now().await;
            self.clock.pass_ms(ms);
            let end = Timestamp(1 << 40);
            self.inbox.send(Input::Lease { end }).await.expect("the driver runs");
        }
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_told_in_time_and_forgiven() {
        let stage = Stage::start();
        stage.begin().await.await.expect("an answer").expect("the store answers");
        stage.gate.send(false).expect("the store listens");
        let mut waiting = stage.begin().await;
        stage.pass(STORE_SILENCE_MS - 1).await;
        assert!(waiting.try_recv().is_err(), "it may still answer");
        stage.pass(1).await;
        assert!(matches!(waiting.await, Ok(Err(Error::Unavailable { .. }))));
        assert!(matches!(stage.begin().await.await, Ok(Err(Error::Unavailable { .. }))), "at once");
        stage.gate.send(true).expect("the store listens");
        while stage.begin().await.await.expect("an answer").is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_new_is_refused_when_the_store_has_no_room_for_it() {
        let stage = Stage::start();
        stage.store.full.store(true, Ordering::Relaxed);
        assert!(matches!(stage.begin().await.await, Ok(Err(Error::DiskFull))));
        stage.store.full.store(false, Ordering::Relaxed);
        assert!(matches!(stage.begin().await.await, Ok(Err(Error::DiskFull))), "until somebody looks at the disk");
        stage.gauges.disk_full.store(false, Ordering::Relaxed);
        stage.begin().await.await.expect("an answer").expect("there is room");
    }

    #[tokio::test]
    async fn what_is_new_is_refused_by_name_while_what_was_accepted_waits_for_room() {
        let stage = Stage::start();
        let begun = stage.begin().await.await.expect("an answer").expect("there is room");
        let xid = Xid::from_slice(&begun.xid).expect("it is one");
        stage.store.stuffed.store(true, Ordering::Relaxed);
        let (answer, ended) = oneshot::channel();
        let (end, wait) = (End::Rollback { reason: "enough".into() }, Waits::Ended);
        let finish = Input::Finish { xid, end, wait, answer: Answer::One(answer) };
        stage.inbox.send(finish).await.expect("the driver runs");
        let met = async {
            while !stage.gauges.disk_full.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), met).await.expect("it is told at once");
        assert!(stage.gauges.commit_began_us.load(Ordering::Relaxed) > 0, "it is tried again until there is room");
        assert!(matches!(stage.begin().await.await, Ok(Err(Error::DiskFull))), "at once");
        stage.store.stuffed.store(false, Ordering::Relaxed);
        ended.await.expect("an answer").expect("it is not given up");
    }

    #[tokio::test]
    async fn what_the_store_kept_past_the_lease_is_called_under_the_next_one() {
        let mut stage = Stage::start();
        let lease = |ms| Input::Lease { end: Timestamp(1_000_000).after_ms(ms) };
        stage.inbox.send(lease(10_000)).await.expect("the driver runs");
        stage.gate.send(false).expect("the store listens");
        let branch = pb::Branch {
            service: "shop".into(),
            action: "act".into(),
            call_timeout_ms: 30_000,
            ..pb::Branch::default()
        };
        let (mode, deadline_ms) = (pb::Mode::Tcc.into(), 60_000);
        let transaction = pb::Transaction { mode, deadline_ms, branches: vec![branch], ..pb::Transaction::default() };
        let _waiting = stage.start_with(Plan::declared(transaction).expect("within every limit")).await;
        while stage.gauges.commits.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        stage.clock.pass_ms(14_000);
        stage.gate.send(true).expect("the store listens");
        while stage.gauges.commit_began_us.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        assert!(stage.calls.try_recv().is_err(), "nobody would begin it any more");
        stage.inbox.send(lease(20_000)).await.expect("the driver runs");
        let call = stage.calls.recv().await.expect("it is called");
        assert_eq!((call.attempt, call.not_after), (0, Timestamp(1_000_000).after_ms(20_000)));
    }
}
