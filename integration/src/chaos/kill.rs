//! Coordinator, participants and their databases are killed and frozen while clients claim and buy.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::task::JoinSet;

use super::Dice;
use super::acts::{self, Act};
use super::clients::{World, client};
use super::stage::{PATIENCE, Stage};
use crate::checker::{self, Verdict};
use crate::load::report::round;

/// What the participants keep their data in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Database {
    /// Files: killed and frozen with their participants.
    #[default]
    Sqlite,
    /// A MariaDB server for each participant, killed and frozen like one.
    Mariadb,
}

/// What is done, and to how many.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Rounds; in each one server, or two at once, are killed or frozen
    #[arg(long, default_value_t = 20)]
    pub rounds: usize,
    /// Transactions that have not ended at that moment, at least
    #[arg(long, default_value_t = 500)]
    pub in_doubt: i64,
    /// What the participants keep their data in
    #[arg(long, value_enum, default_value_t)]
    pub database: Database,
    /// Of a hundred acts so many freeze a server for a while (SIGSTOP) instead of killing it (SIGKILL)
    #[arg(long, default_value_t = 30)]
    pub freeze_percent: u64,
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

impl Default for Config {
    fn default() -> Self {
        let (rounds, in_doubt, database, freeze_percent, seed) = (20, 500, Database::Sqlite, 30, 1);
        Self { rounds, in_doubt, database, freeze_percent, seed, keep: None, json: false }
    }
}

/// What a run did and found. As JSON it is the object that the program prints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// With which the same is done again.
    pub seed: u64,
    /// What the participants kept their data in.
    pub database: Database,
    /// Rounds with enough in doubt.
    pub rounds: usize,
    /// Rounds besides them, with too few.
    pub too_few: usize,
    /// How often each was killed.
    pub kills: BTreeMap<String, usize>,
    /// How often each was frozen.
    pub freezes: BTreeMap<String, usize>,
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
    /// What the auditor found not to be conserved, at any time. Each would be a false alarm: nobody changes anything.
    pub alarms: usize,
    /// Operations that it had looked at by the end.
    pub audited: u64,
    /// After a kill of the coordinator alone: from ready again to the end of the last one that was in doubt. The worst.
    pub last_in_doubt_s: f64,
    /// Each of those.
    pub each_last_in_doubt_s: Vec<f64>,
    /// What was asserted and did not hold.
    pub broken: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, database, rounds, too_few, kills, freezes, in_doubt_min, .. } = self;
        writeln!(
            f,
            "seed {seed}, {database:?}: {rounds} rounds with at least {in_doubt_min} in doubt, {too_few} with fewer"
        )?;
        let Self { acknowledged, confirmed, cancelled, unknown, .. } = self;
        writeln!(f, "killed {kills:?}, frozen {freezes:?}")?;
        writeln!(
            f,
            "{acknowledged} acknowledged: {confirmed} confirmed, {cancelled} cancelled; {unknown} asked again"
        )?;
        let Self { lost, split, unfinished, conservation, .. } = self;
        let Self { alarms, audited, last_in_doubt_s, each_last_in_doubt_s, .. } = self;
        writeln!(f, "{lost} lost, {split} split, {unfinished} unfinished, {conservation} that do not add up")?;
        writeln!(f, "{alarms} alarms of the auditor over {audited} operations")?;
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
    let mut stage = Stage::start(folder, config.database, |coordinator| coordinator).await?;
    let world = Rc::new(World::new(stage.url(), folder)?);
    let mut dice = Dice(config.seed);
    let mut clients = JoinSet::new();
    // Those in the queues before the store are not in it, and some wait for their line to be synced.
    for _ in 0..config.in_doubt * 3 {
        clients.spawn_local(client(Rc::clone(&world), Dice(dice.roll())));
    }
    let progress = ProgressBar::new(config.rounds as u64);
    let mut report = Report { seed: config.seed, database: config.database, ..Report::default() };
    report.in_doubt_min = i64::MAX;
    while report.rounds < config.rounds {
        let seen = world.acknowledged();
        let acts = acts::draw(&mut dice, report.rounds, stage.servers(), config.freeze_percent);
        stage.wait_in_doubt(config.in_doubt, &world).await?;
        let in_doubt = report.harm(&mut stage, &acts).await?;
        // The next round hits new work, not the same again.
        let wanted = seen + config.in_doubt.unsigned_abs();
        stage.until("answers", &world, || world.acknowledged() >= wanted).await?;
        if in_doubt < config.in_doubt {
            // Too many ended before the signal came: it harmed nothing either, and is done again.
            report.too_few += 1;
            anyhow::ensure!(report.too_few <= config.rounds, "most rounds find too few in doubt");
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
    (report.alarms, report.audited) = stage.audited().await?;
    stage.close().await?;
    progress.finish_and_clear();
    report.conclude(&world, &checker::check(folder).await?);
    Ok(report)
}

impl Report {
    /// Kills and freezes, and makes everything run again. Says how many were in doubt.
    async fn harm(&mut self, stage: &mut Stage, acts: &[(usize, Act)]) -> anyhow::Result<i64> {
        for (at, act) in acts {
            let server = stage.server(*at)?;
            let counts = match act {
                Act::Kill => {
                    server.kill();
                    &mut self.kills
                }
                Act::Freeze(_) => {
                    server.freeze()?;
                    &mut self.freezes
                }
            };
            *counts.entry(server.name().to_owned()).or_default() += 1;
        }
        let in_doubt = stage.in_doubt().await?;
        let frozen = acts.iter().filter_map(|(_, act)| act.duration()).max();
        tokio::time::sleep(frozen.unwrap_or_default()).await;
        stage.restore(acts).await?;
        if matches!(acts, [(0, Act::Kill)]) {
            let took: Duration = stage.last_ended(&in_doubt).await?;
            self.each_last_in_doubt_s.push(round(took.as_secs_f64(), 3));
        }
        stage.wait_sessions().await?;
        Ok(in_doubt.count)
    }

    fn conclude(&mut self, world: &World, verdict: &Verdict) {
        self.acknowledged = verdict.acknowledged;
        (self.confirmed, self.cancelled) = (world.confirmed.get(), world.cancelled.get());
        self.unknown = world.unknown.get();
        (self.lost, self.split) = (verdict.lost, verdict.split);
        (self.unfinished, self.conservation) = (verdict.unfinished, verdict.conservation);
        self.last_in_doubt_s = self.each_last_in_doubt_s.iter().copied().fold(0.0, f64::max);
        self.broken.extend(verdict.findings.iter().map(ToString::to_string));
        self.broken.extend(world.faults.borrow().iter().cloned());
        if self.alarms > 0 {
            self.broken.push(format!("{} false alarms of the auditor: see the coordinator's log", self.alarms));
        }
        if self.audited == 0 {
            self.broken.push("the auditor looked at nothing".into());
        }
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
