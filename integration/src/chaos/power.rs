//! The power goes while clients claim and buy: what was not synced is gone, in every way in which it can be.
//!
//! The coordinator runs under `powercut/record.c`, which writes down what it does to its files. In each round it is
//! killed, its folder is replaced by what a power cut would have left there, and it goes on from that. Afterwards the
//! records are cut at many other places, each of which must open and know every answer that a client had by then.

mod disk;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tercet_coordinator::clock::SystemClock;
use tercet_coordinator::store::SqliteStore;
use tokio::task::JoinSet;

use self::disk::{Disk, Done, Image, Loss, Record};
use super::acts::Act;
use super::clients::{Tape, World, client};
use super::kill::Database;
use super::stage::{PATIENCE, Stage};
use super::{Dice, preload};
use crate::checker::{self, Kind};

/// What is preloaded.
const RECORDER: &str = include_str!("../../powercut/record.c");

/// Images that are named.
const NAMED_MAX: usize = 20;
/// Lost answers of each that are told.
const TOLD_MAX: usize = 3;

/// What is done.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Power cuts of the running coordinator, which goes on from what is left
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Other moments at which the power could have gone, each looked at afterwards
    #[arg(long, default_value_t = 200)]
    pub images: usize,
    /// Clients at work
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Answers before each cut, at least
    #[arg(long, default_value_t = 200)]
    pub answers: u64,
    /// The same choices for the same number
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The disk only says that it has synced files with this ending, such as -wal: the run must find what is lost
    #[arg(long, hide = true)]
    pub lie: Option<String>,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { rounds: 5, images: 200, clients: 64, answers: 200, seed: 1, lie: None, json: false }
    }
}

/// What a run did and found. As JSON it is the object that the program prints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// With which the same is done again.
    pub seed: u64,
    /// Power cuts of the running coordinator.
    pub rounds: usize,
    /// Other power cuts that were looked at, by what was lost.
    pub images: BTreeMap<String, usize>,
    /// Things that the coordinator did to its files.
    pub records: usize,
    /// Of them syncs.
    pub syncs: usize,
    /// Answers that clients wrote down.
    pub acknowledged: u64,
    /// Images in which something acknowledged is not so.
    pub lost: usize,
    /// Images that do not open, or are damaged.
    pub damaged: usize,
    /// What was asserted and did not hold.
    pub broken: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, rounds, images, records, syncs, acknowledged, lost, damaged, broken } = self;
        writeln!(f, "seed {seed}: {rounds} power cuts, and of {records} records with {syncs} syncs {images:?}")?;
        writeln!(f, "{acknowledged} acknowledged; {lost} images have lost some, {damaged} are damaged")?;
        broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN: {broken}"))
    }
}

impl Report {
    fn broke(&mut self, text: String) {
        if self.broken.len() < NAMED_MAX {
            self.broken.push(text);
        }
    }
}

/// What was recorded from one start of the coordinator to its kill.
struct Reel {
    /// What it found.
    found: Image,
    trace: Vec<u8>,
}

/// Runs it.
///
/// # Errors
/// When there is no C compiler, or a server does not start, or ends by itself.
pub async fn run(config: &Config) -> anyhow::Result<Report> {
    let own = tempfile::tempdir()?;
    let folder = own.path().canonicalize()?;
    let (data, trace) = (folder.join("coordinator"), folder.join("trace"));
    let recorder = preload::build(&folder, "record", RECORDER)?;
    let stage = Stage::start(&folder, Database::Sqlite, |spec| {
        let spec = spec.set("LD_PRELOAD", &recorder);
        let spec = spec.set("TERCET_POWERCUT_FOLDER", &data).set("TERCET_POWERCUT_TRACE", &trace);
        config.lie.iter().fold(spec, |spec, lie| spec.set("TERCET_POWERCUT_LIE", lie))
    });
    let mut stage = stage.await?;
    let world = Rc::new(World { tape: Some(Tape::new(trace.clone())), ..World::new(stage.url(), &folder)? });
    let mut dice = Dice(config.seed);
    let mut clients = JoinSet::new();
    for _ in 0..config.clients {
        clients.spawn_local(client(Rc::clone(&world), Dice(dice.roll())));
    }
    let progress = ProgressBar::new((config.rounds + config.images) as u64);
    let mut report = Report { seed: config.seed, ..Report::default() };
    let mut reels = Vec::new();
    let mut found = Image::new();
    while report.rounds < config.rounds {
        let wanted = world.acknowledged() + config.answers;
        stage.until("answers", &world, || world.acknowledged() >= wanted).await?;
        tokio::time::sleep(Duration::from_millis(dice.roll() % 200)).await;
        stage.server(0)?.kill();
        let reel = Reel { found: std::mem::take(&mut found), trace: std::fs::read(&trace)? };
        std::fs::remove_file(&trace)?;
        world.tape.iter().for_each(Tape::next);
        report.rounds += 1;
        progress.inc(1);
        if config.lie.is_some() {
            // What participants have already would be split: only what clients were told is looked at then.
            reels.push(reel);
            break;
        }
        found = reel.last()?.cut(Loss::ALL[(dice.roll() % 4) as usize], &mut dice);
        reels.push(reel);
        disk::restore(&found, &data)?;
        stage.restore(&[(0, Act::Kill)]).await?;
        stage.wait_sessions().await?;
    }
    if config.lie.is_some() {
        clients.shutdown().await;
    } else {
        end(stage, &world, clients, &mut report).await?;
        let verdict = checker::check(&folder).await?;
        report.broken.extend(verdict.findings.iter().map(ToString::to_string));
    }
    let told = world.tape.as_ref().map(Tape::told).unwrap_or_default();
    report.acknowledged = told.len() as u64;
    look(&reels, &told, config.images, &folder.join("image"), &mut dice, &mut report, &progress).await?;
    progress.finish_and_clear();
    Ok(report)
}

/// Lets what is under way end.
async fn end(mut stage: Stage, world: &World, mut clients: JoinSet<()>, report: &mut Report) -> anyhow::Result<()> {
    world.stop.set(true);
    let ended = tokio::time::timeout(PATIENCE, async { while clients.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        report.broke(format!("{} clients have no answer after {PATIENCE:?}", clients.len()));
    }
    stage.wait_ended().await;
    report.broken.extend(world.faults.borrow().iter().cloned());
    stage.check()?;
    stage.close().await
}

impl Reel {
    fn last(&self) -> anyhow::Result<Disk<'_>> {
        let mut disk = Disk::new(self.found.clone());
        disk::records(&self.trace)?.iter().try_for_each(|record| disk.apply(record))?;
        Ok(disk)
    }
}

/// Where to cut, a third each anywhere, around a sync, and while the log goes into the database file.
fn cuts(records: &[Record<'_>], count: usize, dice: &mut Dice) -> Vec<usize> {
    let at = |wanted: &dyn Fn(&Record<'_>) -> bool| -> Vec<usize> {
        records.iter().enumerate().filter(|(_, record)| wanted(record)).map(|(at, _)| at).collect()
    };
    let kinds = [
        at(&|_| true),
        at(&|record| record.done == Done::Sync),
        at(&|record| record.name.ends_with(".db") && matches!(record.done, Done::Write { .. })),
    ];
    let mut cuts: Vec<usize> = (0..count)
        .map(|number| {
            let kind = &kinds[number % kinds.len()];
            let kind = if kind.is_empty() { &kinds[0] } else { kind };
            let roll = (dice.roll() % kind.len().max(1) as u64) as usize;
            // Before it or after it; of no records there is only the beginning.
            kind.get(roll).map_or(0, |at| at + usize::from(dice.percent(50)))
        })
        .collect();
    cuts.sort_unstable();
    cuts
}

/// Cuts the power at many other moments, and looks at what each leaves.
async fn look(
    reels: &[Reel],
    told: &[(usize, u64, String)],
    images: usize,
    folder: &Path,
    dice: &mut Dice,
    report: &mut Report,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    for (number, reel) in reels.iter().enumerate() {
        let records = disk::records(&reel.trace)?;
        report.records += records.len();
        report.syncs += records.iter().filter(|record| record.done == Done::Sync).count();
        let mut disk = Disk::new(reel.found.clone());
        let mut applied = 0;
        let share = images / reels.len() + usize::from(number < images % reels.len());
        for (turn, cut) in cuts(&records, share, dice).into_iter().enumerate() {
            records[applied..cut].iter().try_for_each(|record| disk.apply(record))?;
            applied = cut;
            let loss = Loss::ALL[turn % Loss::ALL.len()];
            *report.images.entry(format!("{loss:?}").to_lowercase()).or_default() += 1;
            // An answer that came when the trace was no longer than this was given by what is in it.
            let end = cut.checked_sub(1).map_or(0, |last| records[last].end);
            let known = told.partition_point(|(reel, at, _)| (*reel, *at) <= (number, end));
            let lines: String = told[..known].iter().map(|(_, _, line)| format!("{line}\n")).collect();
            let image = disk.cut(loss, dice);
            let place = format!("reel {number}, record {cut} of {}, lost {loss:?}", records.len());
            match inspect(&image, &lines, folder).await {
                Ok(missing) if missing.is_empty() => {}
                Ok(missing) => {
                    report.lost += 1;
                    report.broke(format!("{place}: {}", missing.join("; ")));
                }
                Err(error) => {
                    report.damaged += 1;
                    report.broke(format!("{place}: {error:#}"));
                }
            }
            progress.inc(1);
        }
    }
    Ok(())
}

/// Opens an image as the coordinator does, and says which of the answers it does not know.
async fn inspect(image: &Image, told: &str, folder: &Path) -> anyhow::Result<Vec<String>> {
    let data = folder.join("coordinator");
    disk::restore(image, &data)?;
    std::fs::write(folder.join("history.jsonl"), told)?;
    let file = data.join("tercet.db");
    SqliteStore::open(&file, SystemClock::start()).await?.close().await?;
    let options = SqliteConnectOptions::new().filename(&file).read_only(true).disable_statement_logging();
    let mut connection = options.connect().await?;
    let word: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await?;
    connection.close().await?;
    anyhow::ensure!(word == "ok", "{word}");
    let verdict = checker::check(folder).await?;
    let lost = verdict.findings.into_iter().filter(|finding| finding.kind == Kind::Lost);
    Ok(lost.map(|finding| finding.text).take(TOLD_MAX).collect())
}
