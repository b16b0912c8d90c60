//! The simulation: the real driver, sessions, scanner and recovery, and participants with the real fence on SQLite,
//! over a store, a network, processes and initiators that fail.
//!
//! One seed decides everything: who fails when, how long each message takes, which is lost, repeated or late. Time is
//! tokio's paused clock, so hours pass in seconds and the same seed is the same run; a digest of all that happened
//! proves it. First come the faults and safety is watched; then they end and everything has to end too.
//!
//! | file | what it makes fail |
//! |---|---|
//! | `coordinator.rs` | the process: crashes, lives on beside its successor, starts with a wrong clock |
//! | `store.rs` | its store: slow, away, and commits of unknown result, done or not |
//! | `network.rs` | calls, answers and the streams that carry them |
//! | `participant.rs`, `database.rs` | processes that crash, freeze or answer garbage; handlers that fail |
//! | `initiator.rs` | those who ask, and what they were told |
//! | `crash.rs` | instead of chance: a crash at every point between two durable writes |
//! | `check.rs` | the invariants |
//!
//! No fault is a fault of Tercet itself: those are the patches in `integration/mutants`, which `mutants.rs` plants to
//! show that each is found.

mod campaign;
mod chance;
mod check;
mod coordinator;
pub mod crash;
mod database;
mod faults;
mod initiator;
pub mod mutants;
mod network;
mod participant;
mod store;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tercet_coordinator::caller::Outgoing;
use tercet_coordinator::request::Input;
use tercet_coordinator::store::Record;
use tercet_core::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use campaign::{Campaign, campaign};
pub use faults::Fault;

use initiator::Script;
use world::World;

/// How long faults go on, in simulated time.
const FAULTS: Duration = Duration::from_secs(40);

/// Everything has to have ended this long after the faults have.
const LIVENESS: Duration = Duration::from_secs(3_600);

/// The services of a run under chance. Two instances of one share its database.
const INSTANCES: [&str; 4] = ["a", "a", "b", "c"];

/// Who may crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The coordinator that runs.
    Coordinator,
    /// This instance of a service.
    Participant(usize),
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.pad("coordinator"),
            Self::Participant(instance) => write!(f, "participant {instance}"),
        }
    }
}

/// Sees a run from inside, for properties that other tests hold against it. It must not change the run.
pub trait Watch: Send {
    /// A coordinator has started; `inbox` is its driver's.
    fn started(&mut self, now: Timestamp, inbox: &mpsc::Sender<Input>) {
        let _ = (now, inbox);
    }

    /// A transaction has durably become this.
    fn durable(&mut self, now: Timestamp, record: &Record) {
        let _ = (now, record);
    }

    /// The driver has made a call.
    fn called(&mut self, now: Timestamp, call: &Outgoing) {
        let _ = (now, call);
    }
}

/// What one run was, and what it broke.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed that makes it again.
    pub seed: u64,
    /// What is broken, in sentences that begin with the invariant's name; empty when it is sound.
    pub broken: Vec<String>,
    /// Of all that happened, in order: the same seed, the same digest.
    pub digest: u64,
    /// All that happened, a line each, if that was asked for.
    pub trace: Vec<String>,
    /// Simulated time.
    pub simulated: Duration,
    /// Faults that happened, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Transactions that ended confirmed, and cancelled.
    pub ended: (u64, u64),
    /// Branches that wait for a person.
    pub parked: u64,
    /// Points at which who could have crashed, that were passed.
    pub passed: BTreeMap<Victim, u64>,
    /// Crashes that were asked for and whose point never came.
    pub unspent: BTreeMap<Victim, u64>,
}

/// What makes a run.
struct Setup {
    seed: u64,
    /// Faults come by chance; otherwise crashes alone do, from `fuses`.
    random: bool,
    /// Who crashes at which of its points.
    fuses: BTreeMap<Victim, u64>,
    restart_ms: u64,
    trace: bool,
    watch: Option<Box<dyn Watch>>,
}

/// Runs one seed.
pub fn run(seed: u64) -> Report {
    run_watched(seed, false, None)
}

/// Runs one seed, and keeps what happened if `trace` says so.
pub fn run_watched(seed: u64, trace: bool, watch: Option<Box<dyn Watch>>) -> Report {
    let setup = Setup { seed, random: true, fuses: BTreeMap::new(), restart_ms: 0, trace, watch };
    simulate(setup, &INSTANCES, Script::Random)
}

fn simulate(setup: Setup, instances: &[&'static str], script: Script) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without IO can always be built");
    runtime.block_on(live(setup, instances, script))
}

async fn live(setup: Setup, instances: &[&'static str], script: Script) -> Report {
    let (seed, start) = (setup.seed, tokio::time::Instant::now());
    let world = World::new(setup, instances);
    // Dropped at the end, and everything with it.
    let mut processes = JoinSet::new();
    processes.spawn(coordinator::keep(world.clone()));
    for instance in 0..instances.len() {
        processes.spawn(participant::keep(world.clone(), instance, script.late(instance)));
    }
    let mut initiators = initiator::start(&world, &script);
    if world.random() {
        processes.spawn(network::weather(world.clone()));
        sleep(FAULTS).await;
        world.end_faults();
    }
    let answered = async { while initiators.join_next().await.is_some() {} };
    if timeout(LIVENESS, answered).await.is_err() {
        world.broken("everyone is answered", format_args!("not within {} s after the faults", LIVENESS.as_secs()));
    }
    let unfinished = check::wait_for_end(&world, LIVENESS).await;
    check::at_the_end(&world, &unfinished).await;
    let (ended, parked) = check::counts(&world).await;
    let summary = world.summary();
    Report {
        seed,
        broken: summary.broken,
        digest: summary.digest,
        trace: summary.trace,
        simulated: start.elapsed(),
        faults: summary.faults,
        ended,
        parked,
        passed: summary.passed,
        unspent: summary.unspent,
    }
}

#[cfg(test)]
mod tests;
