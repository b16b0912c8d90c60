//! The simulation: the real driver, scanner and recovery over a store, a network, participants and initiators that
//! fail.
//!
//! One seed decides everything: who fails when, how long each message takes, which is lost, repeated or late, when the
//! coordinator crashes. Time is tokio's paused clock, so hours pass in milliseconds and the same seed is the same run;
//! a digest of all that happened proves it. First come the faults and safety is watched; then they end and everything
//! has to end too.

mod check;
mod initiator;
mod network;
mod participant;
mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tercet_coordinator::clock::Clock;
use tercet_coordinator::config::LEASE_MS;
use tercet_coordinator::driver::{Driver, Settings};
use tercet_coordinator::limits;
use tercet_coordinator::node::Node;
use tercet_coordinator::request::Input;
use tercet_coordinator::scanner::Scanner;
use tercet_coordinator::store::memory::MemoryStore;
use tercet_coordinator::store::{Owner, Store as _};
use tercet_coordinator::writer::lease_end;
use tercet_core::{Timestamp, Xid};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use network::Network;
use participant::Service;
use store::FaultyStore;

/// How long faults go on, in simulated time.
const FAULTS: Duration = Duration::from_secs(40);

/// Everything has to have ended this long after the faults have.
const LIVENESS: Duration = Duration::from_secs(6 * 3_600);

/// A fault of Tercet itself, put in to see that the simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Planted {
    /// The store says that a write is durable before it is.
    ActBeforePersist,
    /// An answer that does not come is taken for a refusal.
    UnknownIsRefused,
    /// Participants have no fence.
    NoFence,
}

/// What one run was, and what it broke.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed that makes it again.
    pub seed: u64,
    /// What is broken, in sentences; empty when it is sound.
    pub broken: Vec<String>,
    /// Of all that happened, in order: the same seed, the same digest.
    pub digest: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Faults that happened, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Transactions that ended confirmed, and cancelled.
    pub ended: (u64, u64),
    /// Transactions with parked work.
    pub parked: u64,
}

/// Chance, all from one seed: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What all parts of a run share.
#[derive(Clone)]
struct World {
    inner: Arc<Mutex<Inner>>,
    start: Instant,
    planted: Option<Planted>,
}

struct Inner {
    chance: Chance,
    faulty: bool,
    digest: u64,
    faults: BTreeMap<&'static str, u64>,
    services: BTreeMap<String, Service>,
    /// What initiators were told, by xid: what may never turn out otherwise.
    told: BTreeMap<Xid, i32>,
    broken: Vec<String>,
    /// Of the coordinator that runs now.
    inbox: Option<mpsc::Sender<Input>>,
    /// How often it has crashed.
    starts: u64,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a fault of this kind happens now. Counted, and part of the digest.
    fn fault(&self, kind: &'static str, percent: u64) -> bool {
        let mut inner = self.lock();
        let happens = inner.faulty && inner.chance.percent(percent);
        if happens {
            *inner.faults.entry(kind).or_default() += 1;
        }
        happens
    }

    fn percent(&self, percent: u64) -> bool {
        self.lock().chance.percent(percent)
    }

    fn below(&self, limit: u64) -> u64 {
        self.lock().chance.below(limit)
    }

    /// Adds to the digest what happened.
    fn happened(&self, what: &str, xid: Xid, number: u64) {
        let now = self.now();
        let mut inner = self.lock();
        let words = [now.0, number, u64::from(xid.0[15]) << 8 | u64::from(xid.0[5])];
        let bytes = what.bytes().map(u64::from).chain(words);
        inner.digest = bytes.fold(inner.digest, |hash, word| (hash ^ word).wrapping_mul(0x100_0000_01b3));
    }

    fn broken(&self, what: String) {
        let mut inner = self.lock();
        if inner.broken.len() < 20 {
            inner.broken.push(what);
        }
    }

    fn inbox(&self) -> Option<mpsc::Sender<Input>> {
        self.lock().inbox.clone()
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000 + self.start.elapsed().as_millis() as u64)
    }
}

/// Runs one seed.
pub fn run(seed: u64, planted: Option<Planted>) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without IO can always be built");
    runtime.block_on(simulate(seed, planted))
}

async fn simulate(seed: u64, planted: Option<Planted>) -> Report {
    let world = World {
        inner: Arc::new(Mutex::new(Inner {
            chance: Chance(seed),
            faulty: true,
            digest: 0xcbf2_9ce4_8422_2325,
            faults: BTreeMap::new(),
            services: ["a", "b", "c"].into_iter().map(|name| (name.to_owned(), Service::default())).collect(),
            told: BTreeMap::new(),
            broken: Vec::new(),
            inbox: None,
            starts: 0,
        })),
        start: Instant::now(),
        planted,
    };
    let memory = MemoryStore::new(world.clone());
    let mut initiators = initiator::start(&world, &memory);
    let crashes = tokio::spawn(crash_again_and_again(world.clone(), memory.clone()));
    sleep(FAULTS).await;
    world.lock().faulty = false;
    crashes.abort();
    // Aborted between two coordinators, or with one that is gone: the last one stays.
    drop(crashes.await);
    network::connect_all(&world);
    let coordinator = tokio::spawn(coordinate(world.clone(), memory.clone()));
    while initiators.join_next().await.is_some() {}
    let unfinished = check::wait_for_end(&world, &memory, LIVENESS).await;
    check::safety(&world, &memory, unfinished).await;
    coordinator.abort();
    let ended = check::outcomes(&memory).await;
    let parked = check::parked(&memory).await;
    let inner = world.lock();
    Report {
        seed,
        broken: inner.broken.clone(),
        digest: inner.digest,
        simulated: world.start.elapsed(),
        faults: inner.faults.clone(),
        ended,
        parked,
    }
}

/// A coordinator runs for a while, dies between any two awaits, and is started again.
async fn crash_again_and_again(world: World, memory: MemoryStore) {
    loop {
        let running = tokio::spawn(coordinate(world.clone(), memory.clone()));
        let lifetime = Duration::from_millis(50 + world.below(8_000));
        sleep(lifetime).await;
        if world.fault("coordinator does not know that it is over", 10) {
            // The next one starts beside it; its own next beat tells it.
            drop(running);
        } else {
            running.abort();
            drop(running.await);
            *world.lock().faults.entry("coordinator crashed").or_default() += 1;
        }
        world.lock().inbox = None;
        world.happened("crash", Xid([0; 16]), 0);
        sleep(Duration::from_millis(world.below(1_500))).await;
    }
}

/// One life of a coordinator, as `serve` puts it together. Everything in it dies with the future.
async fn coordinate(world: World, memory: MemoryStore) {
    let Ok(beat) = memory.beat(0, None, LEASE_MS).await else { return };
    let lease_end = lease_end(beat.now, LEASE_MS);
    let settings = Settings { owner: Owner { node: 0, epoch: beat.epoch }, live_max: 1_000, lease_end };
    let store = Arc::new(FaultyStore::new(world.clone(), memory));
    let (inbox, inputs) = mpsc::channel(limits::INBOX_MAX);
    let network = Network::new(world.clone());
    let driver = Driver::new(Arc::clone(&store), network, world.clone(), settings, inputs);
    let gauges = driver.gauges();
    let tick = Arc::new(Notify::new());
    let called = world.clone();
    let scanner = Scanner {
        store: Arc::clone(&store),
        clock: world.clone(),
        services: Box::new(move || network::rooms(&called)),
        inbox: inbox.clone(),
        gauges: Arc::clone(&gauges),
        settings,
    };
    let node = Node { store, clock: world.clone(), inbox: inbox.clone(), gauges, settings };
    {
        let mut inner = world.lock();
        inner.inbox = Some(inbox);
        inner.starts += 1;
    }
    let (superseded, over) = oneshot::channel();
    let (_stop, stopping) = watch::channel(false);
    let mut work = JoinSet::new();
    work.spawn(scanner.run(Arc::clone(&tick)));
    work.spawn(node.run(superseded));
    work.spawn(async move {
        loop {
            sleep(Duration::from_secs(1)).await;
            tick.notify_one();
        }
    });
    tokio::select! {
        biased;
        _ = over => {}
        () = driver.run(stopping) => {}
    }
}
