//! Coordinator and participants are killed in turn while clients claim and buy.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use tercet::client::{Client, Options};
use tokio::task::JoinSet;

use super::clients::{ITEMS, World, client};
use super::{Dice, InDoubt, Store};
use crate::checker::{self, Verdict, Writer};
use crate::load::report::round;
use crate::processes::{Coordinator, Process};
use crate::shop::{self, Counter, Filling};

/// For anything that the run waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Coupons of the template that is sold out soon.
const FEW: i64 = 300;

/// What is done, and to how many.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Kills
    #[arg(long, default_value_t = 20)]
    pub rounds: usize,
    /// Transactions that have not ended at each kill, at least
    #[arg(long, default_value_t = 500)]
    pub in_doubt: i64,
    /// The same choices for the same number
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keep databases, logs and history in this new folder
    #[arg(long)]
    pub keep: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// What a run did and found. As JSON it is the object that the program prints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Kills with enough in doubt.
    pub rounds: usize,
    /// Kills besides them, with too few.
    pub too_few: usize,
    /// How often each was killed.
    pub kills: BTreeMap<String, usize>,
    /// How often one was stopped for a while.
    pub freezes: usize,
    /// The fewest transactions in doubt at one of `rounds`.
    pub in_doubt_min: i64,
    /// Answers that clients wrote down.
    pub acknowledged: u64,
    /// Of them confirmed.
    pub confirmed: u64,
    /// Of them cancelled: refused, or out of time.
    pub cancelled: u64,
    /// Answers of unknown outcome, after which the same was asked again.
    pub unknown: u64,
    /// Acknowledged, and not so.
    pub lost: usize,
    /// Confirmed here and not there.
    pub split: usize,
    /// Still under way at the end.
    pub unfinished: usize,
    /// Sums that are wrong.
    pub conservation: usize,
    /// After a kill of the coordinator: from ready again to the end of the last one that was in doubt. The worst.
    pub last_in_doubt_s: f64,
    /// Each of those.
    pub each_last_in_doubt_s: Vec<f64>,
    /// What was asserted and did not hold.
    pub broken: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, too_few, kills, freezes, in_doubt_min, .. } = self;
        writeln!(f, "{rounds} kills with at least {in_doubt_min} in doubt, {too_few} with fewer; {freezes} freezes")?;
        let Self { acknowledged, confirmed, cancelled, unknown, .. } = self;
        writeln!(f, "killed {kills:?}")?;
        writeln!(
            f,
            "{acknowledged} acknowledged: {confirmed} confirmed, {cancelled} cancelled; {unknown} asked again"
        )?;
        let Self { lost, split, unfinished, conservation, last_in_doubt_s, each_last_in_doubt_s, .. } = self;
        writeln!(f, "{lost} lost, {split} split, {unfinished} unfinished, {conservation} that do not add up")?;
        writeln!(f, "the last in doubt ended {last_in_doubt_s} s after ready at most, of {each_last_in_doubt_s:?}")?;
        self.broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN: {broken}"))
    }
}

/// Runs it.
///
/// # Errors
/// When a server does not start, or ends by itself.
pub async fn run(config: &Config) -> anyhow::Result<Report> {
    let own = tempfile::tempdir()?;
    let folder = config.keep.as_deref().unwrap_or_else(|| own.path());
    std::fs::create_dir_all(folder)?;
    let mut stage = Stage::start(folder).await?;
    let world = stage.world()?;
    let mut dice = Dice(config.seed);
    let mut clients = JoinSet::new();
    // Those in the queues before the store are not in it, and some wait for their line to be synced.
    for _ in 0..config.in_doubt * 3 {
        clients.spawn_local(client(Rc::clone(&world), Dice(dice.roll())));
    }
    let progress = ProgressBar::new(config.rounds as u64);
    let mut report = Report { in_doubt_min: i64::MAX, ..Report::default() };
    while report.rounds < config.rounds {
        let seen = world.acknowledged();
        if dice.percent(25) {
            stage.freeze_one(&mut dice).await?;
            report.freezes += 1;
        }
        stage.wait_in_doubt(config.in_doubt, &world).await?;
        let in_doubt = stage.kill(report.rounds % 4, &mut report).await?;
        // The next kill hits new work, not the same again.
        let wanted = seen + config.in_doubt.unsigned_abs();
        stage.until("answers", &world, || world.acknowledged() >= wanted).await?;
        if in_doubt < config.in_doubt {
            // Too many ended before the signal came: it harmed nothing either, and is done again.
            report.too_few += 1;
            anyhow::ensure!(report.too_few <= config.rounds, "most kills find too few in doubt");
            continue;
        }
        report.in_doubt_min = report.in_doubt_min.min(in_doubt);
        report.rounds += 1;
        progress.inc(1);
    }
    progress.set_message("ending");
    world.stop.set(true);
    let ended = tokio::time::timeout(PATIENCE, async { while clients.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        report.broken.push(format!("{} clients have no answer after {PATIENCE:?}", clients.len()));
    }
    stage.wait_ended().await;
    stage.check()?;
    drop(stage);
    progress.finish_and_clear();
    report.conclude(&world, &checker::check(folder).await?);
    Ok(report)
}

impl Report {
    fn conclude(&mut self, world: &World, verdict: &Verdict) {
        self.acknowledged = verdict.acknowledged;
        (self.confirmed, self.cancelled) = (world.confirmed.get(), world.cancelled.get());
        self.unknown = world.unknown.get();
        (self.lost, self.split) = (verdict.lost, verdict.split);
        (self.unfinished, self.conservation) = (verdict.unfinished, verdict.conservation);
        self.last_in_doubt_s = self.each_last_in_doubt_s.iter().copied().fold(0.0, f64::max);
        self.broken.extend(verdict.findings.iter().map(ToString::to_string));
        self.broken.extend(world.faults.borrow().iter().cloned());
        if world.acknowledged() != verdict.acknowledged {
            self.broken.push(format!("the history has not {} answers", world.acknowledged()));
        }
        for (what, count) in [("confirmed", self.confirmed), ("cancelled", self.cancelled)] {
            if count == 0 {
                self.broken.push(format!("none was {what}: the run proves little"));
            }
        }
    }
}

/// The servers.
struct Stage {
    coordinator: Coordinator,
    participants: Vec<Process>,
    store: Store,
    folder: PathBuf,
}

impl Stage {
    async fn start(folder: &Path) -> anyhow::Result<Self> {
        let filling = Filling {
            items: ITEMS,
            units: 1 << 40,
            first_coupons: 1 << 40,
            second_coupons: FEW,
            issued: 0,
            per_user_limit: 1,
        };
        shop::fill(folder, filling).await?;
        let coordinator = Coordinator::start(folder).await?;
        let mut participants = shop::start(folder, &coordinator.url)?;
        coordinator.wait_for(&mut participants).await?;
        Ok(Self { coordinator, participants, store: Store::of(folder), folder: folder.into() })
    }

    fn world(&self) -> anyhow::Result<Rc<World>> {
        let unary = Client::connect([&self.coordinator.url], Options::default())?;
        Ok(Rc::new(World {
            stream: unary.batching(),
            unary,
            writer: Writer::create(&self.folder.join("history.jsonl"))?,
            coupons: Counter::default(),
            orders: Counter::default(),
            confirmed: Cell::default(),
            cancelled: Cell::default(),
            unknown: Cell::default(),
            faults: Default::default(),
            stop: Cell::default(),
        }))
    }

    fn check(&mut self) -> anyhow::Result<()> {
        self.participants.iter_mut().chain(&mut self.coordinator.process).try_for_each(Process::check)
    }

    /// Waits for what the clients bring about.
    async fn until(&mut self, what: &str, world: &World, reached: impl Fn() -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !reached() {
            self.check()?;
            if let Some(fault) = world.faults.borrow().first() {
                bail!("a client was told {fault}");
            }
            if begun.elapsed() > PATIENCE {
                bail!("{PATIENCE:?} without enough {what}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn wait_in_doubt(&mut self, wanted: i64, world: &World) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let InDoubt { count, .. } = self.store.in_doubt().await?;
            // Until the signal arrives some of them end.
            if count >= wanted + wanted / 5 {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("no more than {count} are in doubt");
            }
            self.until("time", world, || true).await?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops one of the participants for a moment, so that calls run out of time and come late.
    async fn freeze_one(&mut self, dice: &mut Dice) -> anyhow::Result<()> {
        let one = &self.participants[(dice.roll() % 3) as usize];
        one.freeze()?;
        tokio::time::sleep(Duration::from_millis(100 + dice.roll() % 700)).await;
        one.thaw()
    }

    /// Kills one of the four, reads how many were in doubt then, and starts it again.
    async fn kill(&mut self, which: usize, report: &mut Report) -> anyhow::Result<i64> {
        let process = match which.checked_sub(1) {
            Some(at) => self.participants.get_mut(at),
            None => self.coordinator.process.as_mut(),
        };
        let Some(process) = process else { bail!("there is no server {which}") };
        process.kill();
        *report.kills.entry(process.name().to_owned()).or_default() += 1;
        let in_doubt = self.store.in_doubt().await?;
        process.restart()?;
        if which == 0 {
            self.coordinator.wait_ready().await?;
            let took = last_ended(&self.store, &in_doubt).await?;
            report.each_last_in_doubt_s.push(round(took.as_secs_f64(), 3));
        }
        self.coordinator.wait_for(&mut self.participants).await?;
        Ok(in_doubt.count)
    }

    /// Waits until nothing is under way. What still is then, the checker names.
    async fn wait_ended(&self) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.store.in_doubt().await.is_ok_and(|in_doubt| in_doubt.count == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// From now to the end of the last one of those that were in doubt.
pub(super) async fn last_ended(store: &Store, in_doubt: &InDoubt) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    loop {
        let left = store.still_in_doubt(&in_doubt.newest).await?;
        if left == 0 {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > PATIENCE {
            bail!("{left} transactions are still in doubt after {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
