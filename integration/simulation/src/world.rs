//! What all parts of a run share: chance, faults, what has happened, and what is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tercet_coordinator::api::sessions;
use tercet_coordinator::clock::SystemClock;
use tercet_coordinator::request::Input;
use tercet_coordinator::store::MemoryStore;
use tercet_core::{Status, Timestamp, Xid};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::chance::Chance;
use crate::database::Database;
use crate::faults::Fault;
use crate::{Setup, Victim, Watch};

/// What the system's clock shows when a run begins.
const EPOCH: Timestamp = Timestamp(1_700_000_000_000);

/// Most sentences about what is broken that a run keeps.
const BROKEN_MAX: usize = 20;

/// All of it. Clones are one.
#[derive(Clone)]
pub(crate) struct World(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    start: Instant,
    disk: MemoryStore,
    databases: BTreeMap<&'static str, Database>,
    instances: Vec<&'static str>,
    /// Whether chance makes faults, or crashes come from fuses alone.
    random: bool,
    restart_ms: u64,
    crashes: BTreeMap<Victim, Notify>,
}

pub(crate) struct Inner {
    pub(crate) chance: Chance,
    faulty: bool,
    digest: u64,
    trace: Option<Vec<String>>,
    faults: BTreeMap<Fault, u64>,
    names: BTreeMap<Xid, usize>,
    broken: Vec<String>,
    /// Version and status of each transaction, as last written.
    pub(crate) written: BTreeMap<Xid, (u64, Status)>,
    /// The outcome that initiators were told, by xid: 0, 4 confirmed or 5 cancelled.
    pub(crate) told: BTreeMap<Xid, i32>,
    /// How often a handler was called for an order and a phase.
    pub(crate) calls: BTreeMap<(u64, bool), u32>,
    /// Of the coordinator that runs now.
    inbox: Option<mpsc::Sender<Input>>,
    front: Option<sessions::Service>,
    starts: u64,
    jumped_ms: i64,
    fuses: BTreeMap<Victim, u64>,
    passed: BTreeMap<Victim, u64>,
    doomed: BTreeSet<Victim>,
    links: Vec<Link>,
    watch: Option<Box<dyn Watch>>,
}

/// What holds a participant back, until when.
#[derive(Clone)]
struct Link {
    frozen: Instant,
    down: Instant,
    up: Instant,
    broken: Arc<Notify>,
}

/// Where messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the participant.
    Down,
    /// To the coordinator.
    Up,
}

/// What a run was, for its report.
pub(crate) struct Summary {
    pub(crate) broken: Vec<String>,
    pub(crate) digest: u64,
    pub(crate) trace: Vec<String>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) passed: BTreeMap<Victim, u64>,
    pub(crate) unspent: BTreeMap<Victim, u64>,
}

impl World {
    pub(crate) fn new(setup: Setup, instances: &[&'static str]) -> Self {
        let start = Instant::now();
        let link = Link { frozen: start, down: start, up: start, broken: Arc::default() };
        let victims = (0..instances.len()).map(Victim::Participant).chain([Victim::Coordinator]);
        let inner = Inner {
            chance: Chance(setup.seed),
            faulty: setup.random,
            digest: 0xcbf2_9ce4_8422_2325,
            trace: setup.trace.then(Vec::new),
            faults: BTreeMap::new(),
            names: BTreeMap::new(),
            broken: Vec::new(),
            written: BTreeMap::new(),
            told: BTreeMap::new(),
            calls: BTreeMap::new(),
            inbox: None,
            front: None,
            starts: 0,
            jumped_ms: 0,
            fuses: setup.fuses,
            passed: BTreeMap::new(),
            doomed: BTreeSet::new(),
            links: instances.iter().map(|_| link.clone()).map(|link| Link { broken: Arc::default(), ..link }).collect(),
            watch: setup.watch,
        };
        Self(Arc::new(Shared {
            inner: Mutex::new(inner),
            start,
            disk: MemoryStore::new(SystemClock::at(EPOCH)),
            databases: BTreeSet::from_iter(instances.iter().copied()).into_iter().map(Database::named).collect(),
            instances: instances.to_vec(),
            random: setup.random,
            restart_ms: setup.restart_ms,
            crashes: victims.map(|victim| (victim, Notify::new())).collect(),
        }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What survives the coordinator.
    pub(crate) fn disk(&self) -> &MemoryStore {
        &self.0.disk
    }

    pub(crate) fn databases(&self) -> &BTreeMap<&'static str, Database> {
        &self.0.databases
    }

    /// The services' instances, each by the name of its service.
    pub(crate) fn instances(&self) -> &[&'static str] {
        &self.0.instances
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    // Chance and faults.

    pub(crate) fn random(&self) -> bool {
        self.0.random
    }

    pub(crate) fn faulty(&self) -> bool {
        self.lock().faulty
    }

    /// From here on everything works.
    pub(crate) fn end_faults(&self) {
        let mut inner = self.lock();
        inner.faulty = false;
        if self.0.random {
            inner.fuses.clear();
        }
        let now = Instant::now();
        for link in &mut inner.links {
            (link.frozen, link.down, link.up) = (now, now, now);
            // Whatever was slow begins again.
            link.broken.notify_one();
        }
        drop(inner);
        self.log("weather", format_args!("the faults are over"));
    }

    /// Whether a fault of this kind happens now.
    pub(crate) fn fault(&self, kind: Fault, percent: u64) -> bool {
        let mut inner = self.lock();
        let happens = inner.faulty && inner.chance.percent(percent);
        if happens {
            *inner.faults.entry(kind).or_default() += 1;
            drop(inner);
            self.log("fault", format_args!("{}", kind.name()));
        }
        happens
    }

    pub(crate) fn percent(&self, percent: u64) -> bool {
        self.lock().chance.percent(percent)
    }

    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.lock().chance.below(limit)
    }

    pub(crate) fn ms_below(&self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }

    /// What the system's clock shows where a coordinator starts: now and then it has been set wrong, or right again.
    pub(crate) fn system_time(&self) -> Timestamp {
        const HOUR_MS: i64 = 3_600_000;
        let jumped_ms = self.lock().jumped_ms;
        if jumped_ms < HOUR_MS && self.fault(Fault::ClockAhead, 8) {
            self.lock().jumped_ms += HOUR_MS;
        } else if jumped_ms > -HOUR_MS && self.fault(Fault::ClockBack, 8) {
            self.lock().jumped_ms -= HOUR_MS;
        }
        let ms = EPOCH.0 + self.elapsed().as_millis() as u64;
        Timestamp(ms.saturating_add_signed(self.lock().jumped_ms))
    }

    // What happened.

    /// Adds a line to what happened: the same seed, the same lines, the same digest.
    pub(crate) fn log(&self, who: impl fmt::Display, what: fmt::Arguments<'_>) {
        let at = self.elapsed().as_millis() as u64;
        let mut inner = self.lock();
        let mut digest = Digest(inner.digest);
        // A digest takes everything.
        let _ = write!(digest, "{at} {who} {what}");
        inner.digest = digest.0;
        if let Some(trace) = &mut inner.trace {
            trace.push(format!("{:>6}.{:03}  {:<14} {what}", at / 1_000, at % 1_000, who.to_string()));
        }
    }

    /// A transaction's number in this run, which is easier to follow than its xid.
    pub(crate) fn tx(&self, xid: Xid) -> TxName {
        let mut inner = self.lock();
        let next = inner.names.len();
        TxName(*inner.names.entry(xid).or_insert(next))
    }

    /// Writes down that an invariant does not hold.
    pub(crate) fn broken(&self, invariant: &'static str, what: fmt::Arguments<'_>) {
        self.log("BROKEN", format_args!("{invariant}: {what}"));
        let mut inner = self.lock();
        if inner.broken.len() < BROKEN_MAX {
            inner.broken.push(format!("{invariant}: {what}"));
        }
    }

    /// Shows the watch something, if there is one.
    pub(crate) fn show(&self, what: impl FnOnce(&mut dyn Watch)) {
        // Not while it is looked at: it may ask the world in turn.
        let Some(mut watch) = self.lock().watch.take() else { return };
        what(&mut *watch);
        self.lock().watch = Some(watch);
    }

    pub(crate) fn watched(&self) -> bool {
        self.lock().watch.is_some()
    }

    pub(crate) fn summary(&self) -> Summary {
        let mut inner = self.lock();
        let faults = inner.faults.iter().map(|(kind, count)| (kind.name(), *count)).collect();
        Summary {
            broken: inner.broken.clone(),
            digest: inner.digest,
            trace: inner.trace.take().unwrap_or_default(),
            faults,
            passed: inner.passed.clone(),
            unspent: inner.fuses.clone(),
        }
    }

    // The coordinator.

    /// The number of the coordinator that starts now.
    pub(crate) fn next_start(&self) -> u64 {
        let mut inner = self.lock();
        inner.starts += 1;
        inner.starts
    }

    /// The coordinator of this number serves.
    pub(crate) fn serve(&self, inbox: mpsc::Sender<Input>, front: sessions::Service) {
        let mut inner = self.lock();
        (inner.inbox, inner.front) = (Some(inbox), Some(front));
    }

    /// Nobody serves.
    pub(crate) fn serve_no_more(&self) {
        let mut inner = self.lock();
        (inner.inbox, inner.front) = (None, None);
    }

    pub(crate) fn inbox(&self) -> Option<mpsc::Sender<Input>> {
        self.lock().inbox.clone()
    }

    pub(crate) fn front(&self) -> Option<sessions::Service> {
        self.lock().front.clone()
    }

    // Crashes.

    /// A point between two durable writes of `victim`. `true`: it crashes here, and nothing of it may go on.
    pub(crate) fn point(&self, victim: Victim, what: &'static str) -> bool {
        let mut inner = self.lock();
        *inner.passed.entry(victim).or_default() += 1;
        let crashes = match inner.fuses.get_mut(&victim) {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if crashes {
            inner.fuses.remove(&victim);
            inner.doomed.insert(victim);
            drop(inner);
            self.log(victim, format_args!("crashes {what}"));
            self.0.crashes[&victim].notify_one();
        }
        crashes
    }

    /// As [`point`](Self::point), and never ends when it crashes.
    pub(crate) async fn pass(&self, victim: Victim, what: &'static str) {
        if self.point(victim, what) {
            std::future::pending::<()>().await;
        }
    }

    /// Lets `victim` crash at the point after so many.
    pub(crate) fn light(&self, victim: Victim, points: u64) {
        self.lock().fuses.insert(victim, points);
    }

    /// Ends when `victim` crashes.
    pub(crate) async fn crashed(&self, victim: Victim) {
        self.0.crashes[&victim].notified().await;
    }

    pub(crate) fn doomed(&self, victim: Victim) -> bool {
        self.lock().doomed.contains(&victim)
    }

    /// `victim` starts again.
    pub(crate) fn revive(&self, victim: Victim) {
        self.lock().doomed.remove(&victim);
    }

    pub(crate) fn count(&self, kind: Fault) {
        *self.lock().faults.entry(kind).or_default() += 1;
    }

    /// How long it takes to start again after a crash.
    pub(crate) fn restart_delay(&self, limit_ms: u64) -> Duration {
        if self.0.random { self.ms_below(limit_ms) } else { Duration::from_millis(self.0.restart_ms) }
    }

    // Links between the coordinator and an instance.

    pub(crate) fn freeze(&self, instance: usize, time: Duration) {
        self.lock().links[instance].frozen = Instant::now() + time;
    }

    /// Ends when the instance is not frozen.
    pub(crate) async fn thawed(&self, instance: usize) {
        loop {
            let until = self.lock().links[instance].frozen;
            if until <= Instant::now() || !self.faulty() {
                return;
            }
            sleep_until(until.min(Instant::now() + Duration::from_secs(1))).await;
        }
    }

    pub(crate) fn cut(&self, instance: usize, direction: Direction, time: Duration) {
        let link = &mut self.lock().links[instance];
        match direction {
            Direction::Down => link.down = Instant::now() + time,
            Direction::Up => link.up = Instant::now() + time,
        }
    }

    /// When messages get through again.
    pub(crate) fn cut_until(&self, instance: usize, direction: Direction) -> Instant {
        let link = &self.lock().links[instance];
        match direction {
            Direction::Down => link.down,
            Direction::Up => link.up,
        }
    }

    pub(crate) fn break_link(&self, instance: usize) {
        self.lock().links[instance].broken.notify_one();
    }

    pub(crate) fn broken_link(&self, instance: usize) -> Arc<Notify> {
        Arc::clone(&self.lock().links[instance].broken)
    }
}

/// How a trace calls a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TxName(usize);

impl fmt::Display for TxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tx {}", self.0)
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
struct Digest(u64);

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Ok(())
    }
}
