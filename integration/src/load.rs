//! The load program: drives one kind of transaction as fast as it goes, and says what each cost.

pub mod bulkhead;
pub mod commits;
pub mod gateway;
pub mod measure;
pub mod open;
pub mod overload;
pub mod recover;
pub mod report;
pub mod rogue;
pub mod size;
pub mod work;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use tempfile::TempDir;
use tercet::client::{Client, Options, Wait};
use tokio::task::JoinSet;

use self::measure::{Control, Recorder, Snapshot};
use self::report::Report;
use self::work::{Initiator, Kind, Work};
use crate::host::Host;
use crate::processes::{Coordinator, Process};
use crate::{checker, noop, shop};

/// Orders a second that there are coupons for.
const ORDERS_PER_SECOND: u64 = 15_000;

/// For what is under way when the time is up.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// What the clients wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// It is durable.
    Accepted,
    /// Its outcome is.
    Decided,
    /// All branches have ended.
    Ended,
}

impl WaitFor {
    fn wait(self) -> Wait {
        match self {
            Self::Accepted => Wait::Accepted,
            Self::Decided => Wait::Decided,
            Self::Ended => Wait::Ended,
        }
    }
}

/// How one kind of transaction is driven.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Clients, each with one transaction at a time
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// How long it is measured
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// How long it runs before that
    #[arg(long, default_value_t = 1)]
    pub warmup: u64,
    /// All clients share one stream, on which the SDK batches what waits; else each transaction is a call
    #[arg(long)]
    pub stream: bool,
    /// Participants keep their durable fence in SQLite; checkout and hot always do
    #[arg(long)]
    pub fence: bool,
    /// What a client waits for
    #[arg(long, value_enum, default_value_t = WaitFor::Ended)]
    pub wait: WaitFor,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
    /// A coordinator that runs already, host:port; else one is started
    #[arg(long)]
    pub coordinator: Option<String>,
    /// Where that one listens for operators
    #[arg(long, requires = "coordinator", default_value = "127.0.0.1:7069")]
    pub admin: String,
}

/// The servers of a run. They are killed, and their folder is removed, when it is dropped.
struct Stage {
    coordinator: Coordinator,
    participants: Vec<Process>,
    folder: TempDir,
}

impl Stage {
    async fn start(kind: Kind, config: &Config) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let coordinator = match &config.coordinator {
            Some(address) => Coordinator::connect(address, &config.admin)?,
            None => Coordinator::start(folder.path()).await?,
        };
        let mut participants = match kind.filling(config.seconds + config.warmup) {
            None => noop::start("load", folder.path(), &coordinator.url, config.fence, noop::Habit::Agrees)?,
            Some(filling) => {
                let urls = shop::files(folder.path());
                shop::fill(&urls, filling).await?;
                shop::start(folder.path(), &urls, &coordinator.url)?
            }
        };
        coordinator.wait_for(&mut participants).await?;
        Ok(Self { coordinator, participants, folder })
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.coordinator.process.iter().chain(&self.participants)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Runs it and reports. The report says itself whether what is asserted held.
///
/// # Errors
/// When the servers do not start, or one of them ends.
pub async fn run(kind: Kind, config: Config) -> anyhow::Result<Report> {
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message("measuring the disk");
    let host = Host::measure(tempfile::tempdir()?.path())?;
    progress.set_message("starting the servers");
    let mut stage = Stage::start(kind, &config).await?;
    progress.set_message("measuring what a call costs");
    let control = Control::measure(&stage, config.clients).await?;
    let client = Client::connect([&stage.coordinator.url], Options::default())?;
    let initiator = if config.stream { Initiator::Stream(client.batching()) } else { Initiator::Unary(client) };
    let work = Rc::new(Work::new(kind, initiator, config.wait.wait())?);

    let recorder = Rc::new(RefCell::new(Recorder::new()?));
    let stop = Rc::new(Cell::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..config.clients {
        clients.spawn_local(drive(Rc::clone(&work), Rc::clone(&recorder), Rc::clone(&stop)));
    }
    watch(&progress, &recorder, Duration::from_secs(config.warmup)).await;
    let before = Snapshot::take(&stage).await?;
    recorder.borrow_mut().measuring = true;
    watch(&progress, &recorder, Duration::from_secs(config.seconds)).await;
    recorder.borrow_mut().measuring = false;
    let after = Snapshot::take(&stage).await?;

    stop.set(true);
    progress.set_message("ending");
    let ended = tokio::time::timeout(DRAIN_MAX, async { while clients.join_next().await.is_some() {} }).await;
    let mut broken = Vec::new();
    if ended.is_err() {
        broken.push(format!("{} clients have no answer after {DRAIN_MAX:?}", clients.len()));
    }
    stage.participants.iter_mut().chain(&mut stage.coordinator.process).try_for_each(Process::check)?;
    if kind.filling(0).is_some() {
        work.sell_out(config.clients).await?;
        stage.coordinator.wait_idle(DRAIN_MAX).await?;
        let findings = checker::conservation(stage.path()).await?;
        broken.extend(findings.iter().map(ToString::to_string));
        broken.extend(work.miscounted(stage.path()).await?);
    }
    progress.finish_and_clear();
    let recorder = recorder.borrow();
    Ok(Report::new(kind, &config, (host, control), &recorder, &before, &after, broken))
}

/// One client: a transaction, its answer, the next.
async fn drive(work: Rc<Work>, recorder: Rc<RefCell<Recorder>>, stop: Rc<Cell<bool>>) {
    while !stop.get() {
        let begun = Instant::now();
        let told = work.one().await;
        let failed = told.is_err();
        recorder.borrow_mut().record(begun.elapsed(), told);
        if failed {
            // What fails at once would else keep the processors from what it waits for.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn watch(progress: &ProgressBar, recorder: &RefCell<Recorder>, time: Duration) {
    let end = Instant::now() + time;
    let (mut seen, mut seen_at) = (recorder.borrow().answered, Instant::now());
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        tokio::time::sleep(left.min(Duration::from_millis(500))).await;
        let answered = recorder.borrow().answered;
        let rate = (answered - seen) as f64 / seen_at.elapsed().as_secs_f64();
        (seen, seen_at) = (answered, Instant::now());
        progress.set_message(format!("{rate:.0} tx/s, {:.0} s left", end.duration_since(Instant::now()).as_secs_f64()));
    }
}
