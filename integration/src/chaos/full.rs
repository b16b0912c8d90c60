//! The coordinator's disk fills up while clients claim and buy, and is emptied again.
//!
//! It is the coordinator's alone, and full at a size of its own: `smalldisk/small.c`, which is preloaded, stands
//! between it and the files of its folder.

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use prost::Message as _;
use serde::Serialize;
use tercet_platform::flows::template_item;
use tercet_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use tercet_proto::coordinator::v1::{self as pb, coordinator_server};
use tercet_proto::stock::v1::Reserve;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::clients::{World, client};
use super::kill::Database;
use super::stage::{PATIENCE, Stage};
use super::{Dice, preload};
use crate::checker;
use crate::load::report::round;
use crate::shop;

/// The number of the participant that does not answer while the disk fills up.
const SLOW: usize = 3;
/// Transactions that wait for it then, at least.
const IN_DOUBT: i64 = 50;
/// What makes the coordinator's disk small.
const SMALL: &str = include_str!("../../smalldisk/small.c");
/// In which it counts.
const PAGE_BYTES: u64 = 4 << 10;
/// Lines of the coordinator's log at level error: each thing is said once.
const ERRORS_MAX: usize = 20;

/// How large the disk is, and what is kept of it.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// MiB of the disk
    #[arg(long, default_value_t = 64)]
    pub mib: u64,
    /// MiB of it that the coordinator keeps for what is under way; with 0 the disk is filled to its last byte
    #[arg(long, default_value_t = 16)]
    pub reserve_mib: u64,
    /// Clients at work
    #[arg(long, default_value_t = 100)]
    pub clients: usize,
    /// The same choices for the same number
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { mib: 64, reserve_mib: 16, clients: 100, seed: 1, json: false }
    }
}

/// What a run did and found. As JSON it is the object that the program prints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// From a full disk to the first refusal.
    pub refused_s: f64,
    /// What the refusal was, code and reason.
    pub refusal: String,
    /// Transactions that had not ended then.
    pub in_doubt: i64,
    /// How long they took to end while the disk was full; null when there was no reserve to end in.
    pub ended_s: Option<f64>,
    /// From room again to the first transaction that was taken.
    pub accepted_s: f64,
    /// Answers that clients wrote down.
    pub acknowledged: u64,
    /// Acknowledged, and not so.
    pub lost: usize,
    /// Confirmed here and not there.
    pub split: usize,
    /// Still under way at the end.
    pub unfinished: usize,
    /// Sums that are wrong.
    pub conservation: usize,
    /// Lines of the coordinator's log at level error.
    pub errors_logged: usize,
    /// What was asserted and did not hold.
    pub broken: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { refused_s, refusal, in_doubt, ended_s, accepted_s, .. } = self;
        writeln!(f, "full: refused after {refused_s} s with {refusal}; {in_doubt} in doubt")?;
        match ended_s {
            Some(ended_s) => writeln!(f, "they ended in {ended_s} s while it was full")?,
            None => writeln!(f, "they had no reserve to end in")?,
        }
        let Self { acknowledged, lost, split, unfinished, conservation, errors_logged, broken, .. } = self;
        writeln!(f, "with room again: taken after {accepted_s} s; {errors_logged} errors in the log")?;
        writeln!(f, "{acknowledged} acknowledged; {lost} lost, {split} split, {unfinished} unfinished")?;
        writeln!(f, "{conservation} that do not add up")?;
        broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN: {broken}"))
    }
}

/// Runs it.
///
/// # Errors
/// When there is no C compiler, or a server does not start, or ends by itself.
pub async fn run(config: &Config) -> anyhow::Result<Report> {
    let own = tempfile::tempdir()?;
    let folder = &own.path().canonicalize()?;
    let data = folder.join("coordinator");
    let (small, bytes) = (preload::build(folder, "small", SMALL)?, config.mib << 20);
    let reserve = config.reserve_mib.to_string();
    let stage = Stage::start(folder, Database::Sqlite, |spec| {
        let spec = spec.with("--disk-reserve-mib", &reserve).set("LD_PRELOAD", &small);
        spec.set("TERCET_SMALLDISK_FOLDER", &data).set("TERCET_SMALLDISK_BYTES", bytes.to_string())
    });
    let mut stage = stage.await?;
    let world = Rc::new(World::new(stage.url(), folder)?);
    let mut dice = Dice(config.seed);
    let mut clients = JoinSet::new();
    for _ in 0..config.clients {
        clients.spawn_local(client(Rc::clone(&world), Dice(dice.roll())));
    }
    stage.until("answers", &world, || world.acknowledged() >= 300).await?;
    let mut report = Report::default();

    // Many are under way when there is no room any more.
    stage.server(SLOW)?.freeze()?;
    stage.wait_in_doubt(IN_DOUBT, &world).await?;
    let ballast = data.join("ballast");
    fill(&ballast, bytes.saturating_sub((config.reserve_mib << 20).saturating_sub(1 << 20)))?;
    let probe = Probe::connect(stage.url())?;
    let begun = Instant::now();
    report.refusal = probe.until_refused(&world).await?;
    report.refused_s = round(begun.elapsed().as_secs_f64(), 3);
    let in_doubt = stage.in_doubt().await?;
    report.in_doubt = in_doubt.count;
    stage.server(SLOW)?.thaw()?;
    if config.reserve_mib > 0 {
        report.ended_s = Some(round(stage.last_ended(&in_doubt).await?.as_secs_f64(), 3));
        let told = probe.until_serving([true, false]).await?;
        report.assert(told, "initiators hear it from health, the others do not");
        report.assert(probe.submit(&world).await.is_err(), "nothing new is taken while the disk is full");
    }

    std::fs::remove_file(&ballast)?;
    let begun = Instant::now();
    while probe.submit(&world).await.is_err() {
        stage.check()?;
        anyhow::ensure!(begun.elapsed() < PATIENCE, "nothing is taken although there is room");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    report.accepted_s = round(begun.elapsed().as_secs_f64(), 3);
    report.assert(probe.until_serving([true, true]).await?, "with room again health says so");
    let wanted = world.acknowledged() + 300;
    stage.until("answers", &world, || world.acknowledged() >= wanted).await?;
    world.stop.set(true);
    let ended = tokio::time::timeout(PATIENCE, async { while clients.join_next().await.is_some() {} }).await;
    report.assert(ended.is_ok(), "every client has its answer");
    stage.wait_ended().await;
    stage.close().await?;
    report.conclude(&world, folder).await?;
    Ok(report)
}

impl Report {
    fn assert(&mut self, holds: bool, what: &str) {
        if !holds {
            self.broken.push(format!("not so: {what}"));
        }
    }

    async fn conclude(&mut self, world: &World, folder: &Path) -> anyhow::Result<()> {
        let verdict = checker::check(folder).await?;
        self.acknowledged = verdict.acknowledged;
        (self.lost, self.split) = (verdict.lost, verdict.split);
        (self.unfinished, self.conservation) = (verdict.unfinished, verdict.conservation);
        self.broken.extend(verdict.findings.iter().map(ToString::to_string));
        self.broken.extend(world.faults.borrow().iter().cloned());
        let log = std::fs::read_to_string(folder.join("coordinator.log"))?;
        self.errors_logged = log.lines().filter(|line| line.contains("ERROR")).count();
        let said = log.lines().filter(|line| line.contains("the disk is full")).count();
        self.assert(said == 1, "that the disk is full is said once");
        self.assert(self.errors_logged <= ERRORS_MAX, "the log is not flooded");
        Ok(())
    }
}

/// Makes a file so long that its folder holds so many bytes. It has no content: its size counts.
fn fill(ballast: &Path, bytes: u64) -> anyhow::Result<()> {
    let mut held = 0;
    for entry in std::fs::read_dir(ballast.parent().context("it lies in a folder")?)? {
        match entry?.metadata() {
            Ok(file) => held += file.len().next_multiple_of(PAGE_BYTES),
            // The coordinator takes away files of its own meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(File::create(ballast)?.set_len(bytes.saturating_sub(held))?)
}

/// Asks without the SDK, which would repeat by itself.
struct Probe {
    channel: Channel,
}

impl Probe {
    fn connect(url: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())?.timeout(Duration::from_secs(15));
        Ok(Self { channel: endpoint.connect_lazy() })
    }

    /// A claim, as soon as it is durable.
    async fn submit(&self, world: &World) -> Result<(), tonic::Status> {
        let claim = shop::claim(world.coupons.next(), 1);
        let branch = |service: &str, action: &str, request: Vec<u8>| pb::Branch {
            service: service.into(),
            action: action.into(),
            request: request.into(),
            ..pb::Branch::default()
        };
        let units = Reserve { item: template_item(claim.template_id), count: 1 };
        let transaction = pb::Transaction {
            mode: pb::Mode::Tcc.into(),
            branches: vec![
                branch(tercet_stock::SERVICE, "reserve", units.encode_to_vec()),
                branch(tercet_coupon::SERVICE, "claim", claim.encode_to_vec()),
            ],
            ..pb::Transaction::default()
        };
        let request = pb::SubmitRequest { transaction: Some(transaction), wait: pb::Wait::Accepted.into() };
        CoordinatorClient::new(self.channel.clone()).submit(request).await.map(drop)
    }

    /// The code and the reason of the first refusal that is not for being busy: clients go on meanwhile.
    async fn until_refused(&self, world: &World) -> anyhow::Result<String> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Err(status) = self.submit(world).await {
                let info = status.get_details_error_info();
                let reason = info.map_or_else(|| status.message().to_owned(), |info| info.reason);
                if !["OVERLOADED", "SERVICE_OVERLOADED"].contains(&reason.as_str()) {
                    return Ok(format!("{:?} {reason}", status.code()));
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bail!("nothing is refused although the disk is full")
    }

    /// Whether health comes to say so: its watchers look now and then, and canaries have to end first.
    async fn until_serving(&self, wanted: [bool; 2]) -> anyhow::Result<bool> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.serving().await? == wanted {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(false)
    }

    /// Whether the process, and its service for initiators, say that they serve.
    async fn serving(&self) -> anyhow::Result<[bool; 2]> {
        let mut serving = [false; 2];
        for (serving, service) in serving.iter_mut().zip(["", coordinator_server::SERVICE_NAME]) {
            let request = HealthCheckRequest { service: service.into() };
            let answer = HealthClient::new(self.channel.clone()).check(request).await?;
            *serving = answer.into_inner().status() == ServingStatus::Serving;
        }
        Ok(serving)
    }
}
