//! Very many rows in `compensation_log`, of services of which all but some come back: what they cost while they wait,
//! and how quickly and evenly they go.

mod fill;
mod scrape;

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::time::Instant;

use self::fill::Log;
use self::scrape::Scrape;
use super::open::{self, Caller};
use super::report::round;
use crate::processes::{Coordinator, Process, free_address};
use crate::{host, noop};

/// How often a coordinator is started to say how long that takes.
const STARTS: usize = 5;

/// Transactions a second of somebody who has nothing to do with all this.
const PASSERS_BY: f64 = 50.0;

/// For all rows of those that come back.
const DRAIN_MAX: Duration = Duration::from_secs(600);

/// How it is measured.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Pending rows
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: u64,
    /// Services that they belong to, the same number each
    #[arg(long, default_value_t = 10)]
    pub services: usize,
    /// Services of them that do not come back
    #[arg(long, default_value_t = 1)]
    pub dead: usize,
    /// Calls that each service takes at a time
    #[arg(long, default_value_t = 256)]
    pub concurrency: u32,
    /// Rows a second of all services that are asserted
    #[arg(long, default_value_t = 5_000.0)]
    pub drain_min: f64,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// Start and memory of a coordinator that nobody is connected to.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Idle {
    /// From exec to the first answer, half of the starts at most this.
    pub start_ms: f64,
    /// Memory after a few beats.
    pub rss_mib: f64,
}

/// What came out. As JSON it is the object that the program prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Pending at the beginning.
    pub rows: u64,
    /// On an empty store.
    pub empty: Idle,
    /// With all rows.
    pub full: Idle,
    /// Rows that ended.
    pub drained: u64,
    /// From the first session to the last of them.
    pub drain_s: f64,
    /// Rows a second of all services.
    pub drained_per_s: f64,
    /// When the first service had none left: the fewest rows of a service for the most.
    pub fairness: f64,
    /// The most calls that a service had, or that waited for it, of those that it takes.
    pub calls_max: usize,
    /// Memory of the coordinator at most while they went.
    pub drain_rss_mib: f64,
    /// Transactions that had nothing to do with it, confirmed of those begun.
    pub passers_by: f64,
    /// Half of them took at most this.
    pub passers_by_p50_ms: f64,
    /// And 99 of 100 this.
    pub passers_by_p99_ms: f64,
    /// 99 of 100 group commits took at most about this.
    pub commit_p99_ms: f64,
    /// Rows that the histogram of their lag has.
    pub lag_counted: u64,
    /// What was asserted and did not hold.
    pub broken: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, empty, full, .. } = self;
        writeln!(
            f,
            "{rows} rows: start {} ms, {} MiB; empty: {} ms, {} MiB",
            full.start_ms, full.rss_mib, empty.start_ms, empty.rss_mib
        )?;
        writeln!(
            f,
            "  {} drained in {} s: {:.0} a second; the slowest service {:.2} of the quickest",
            self.drained, self.drain_s, self.drained_per_s, self.fairness
        )?;
        writeln!(f, "  at most {} calls of a service at a time, {} MiB", self.calls_max, self.drain_rss_mib)?;
        writeln!(
            f,
            "  others meanwhile: {:.1} % confirmed, p50 {} ms, p99 {} ms; commits p99 {} ms",
            self.passers_by * 100.0,
            self.passers_by_p50_ms,
            self.passers_by_p99_ms,
            self.commit_p99_ms
        )?;
        self.broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN: {broken}"))
    }
}

/// A coordinator that can be started again, with its metrics.
struct Server {
    coordinator: Coordinator,
    metrics: SocketAddr,
}

impl Server {
    async fn start(folder: &std::path::Path) -> anyhow::Result<(Self, Duration)> {
        let metrics = free_address()?;
        let begun = Instant::now();
        let coordinator = Coordinator::start_as(folder, |spec| spec.with("--metrics", metrics.to_string())).await?;
        Ok((Self { coordinator, metrics }, begun.elapsed()))
    }

    fn rss_mib(&self) -> f64 {
        self.coordinator.process.as_ref().map_or(0.0, |process| host::rss_mib(process.pid()))
    }
}

async fn idle(folder: &std::path::Path) -> anyhow::Result<Idle> {
    let mut starts = Vec::new();
    for _ in 1..STARTS {
        starts.push(Server::start(folder).await?.1.as_secs_f64() * 1_000.0);
    }
    let (server, took) = Server::start(folder).await?;
    starts.push(took.as_secs_f64() * 1_000.0);
    starts.sort_by(f64::total_cmp);
    // It has looked at everything that it looks at by itself.
    tokio::time::sleep(Duration::from_secs(4)).await;
    Ok(Idle { start_ms: round(starts[STARTS / 2], 1), rss_mib: round(server.rss_mib(), 1) })
}

/// Runs it, on participants that keep their durable fence, all in one process.
///
/// # Errors
/// When a server does not start or ends by itself, or it takes too long.
pub async fn run(config: &Config) -> anyhow::Result<Report> {
    if config.dead >= config.services || !config.rows.is_multiple_of(config.services as u64) {
        bail!("some services have to come back, and each has the same number of rows");
    }
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message("starting on an empty store");
    let folder = tempfile::tempdir()?;
    let empty = idle(folder.path()).await?;
    progress.set_message(format!("writing {} rows", config.rows));
    let log = Log::fill(folder.path(), config.rows, config.services).await?;
    progress.set_message("starting with all rows");
    let full = idle(folder.path()).await?;
    let (server, _) = Server::start(folder.path()).await?;
    let report = Report {
        rows: config.rows,
        empty,
        full,
        drained: 0,
        drain_s: 0.0,
        drained_per_s: 0.0,
        fairness: 0.0,
        calls_max: 0,
        drain_rss_mib: 0.0,
        passers_by: 0.0,
        passers_by_p50_ms: 0.0,
        passers_by_p99_ms: 0.0,
        commit_p99_ms: 0.0,
        lag_counted: 0,
        broken: Vec::new(),
    };
    let drain = Drain { config, server, log, progress: &progress, report, alive: config.services - config.dead };
    let report = drain.run(folder.path()).await;
    progress.finish_and_clear();
    report
}

struct Drain<'a> {
    config: &'a Config,
    server: Server,
    log: Log,
    progress: &'a ProgressBar,
    report: Report,
    /// Services that come back; the first ones.
    alive: usize,
}

impl Drain<'_> {
    async fn run(mut self, folder: &std::path::Path) -> anyhow::Result<Report> {
        let url = self.server.coordinator.url.clone();
        let names: Vec<String> = (0..self.alive).map(fill::service).collect();
        let mut services: Vec<&str> = names.iter().map(String::as_str).collect();
        services.push("passers-by");
        let spec = noop::spec("load", folder, &url, &services, true)?;
        let mut participants = spec.with("--concurrency", self.config.concurrency.to_string()).start()?;

        let caller = Rc::new(Caller::new(&url)?);
        let passers_by = open::shared()?;
        let stop = Rc::new(Cell::new(false));
        let (kinds, until) = ([(open::tcc(&["passers-by"]), Rc::clone(&passers_by))], Rc::clone(&stop));
        let walking = tokio::task::spawn_local(async move {
            while !until.get() {
                open::open(&caller, &kinds, PASSERS_BY, Duration::from_secs(1)).await;
            }
        });
        self.wait(&mut participants).await?;
        stop.set(true);
        walking.await?;

        let scrape = Scrape::of(self.server.metrics).await?;
        self.report.lag_counted = scrape.sum("tercet_scanner_lag_seconds_count") as u64;
        self.report.commit_p99_ms = round(scrape.quantile("tercet_store_commit_seconds", 0.99) * 1_000.0, 1);
        {
            let passers_by = passers_by.borrow();
            self.report.passers_by = round(passers_by.confirmed as f64 / passers_by.begun.max(1) as f64, 4);
            self.report.passers_by_p50_ms = round(passers_by.ms(0.5), 2);
            self.report.passers_by_p99_ms = round(passers_by.ms(0.99), 2);
        }
        self.judge().await?;
        Ok(self.report)
    }

    /// Until all services that came back have no row left.
    async fn wait(&mut self, participants: &mut Process) -> anyhow::Result<()> {
        let each = self.config.rows / self.config.services as u64;
        let total = each * self.alive as u64;
        let mut begun = None;
        let started = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.server.coordinator.process.iter_mut().chain([&mut *participants]).try_for_each(Process::check)?;
            let statistics = self.server.coordinator.statistics().await?;
            let of_rows = statistics.participants.iter().filter(|one| one.service != "passers-by");
            let calls = of_rows.map(|one| one.queued + one.in_flight).max().unwrap_or_default() as usize;
            let report = &mut self.report;
            report.calls_max = report.calls_max.max(calls);
            report.drain_rss_mib = report.drain_rss_mib.max(round(self.server.rss_mib(), 1));
            let pending = &self.log.pending().await?[..self.alive];
            let drained = total - pending.iter().sum::<u64>();
            if !statistics.participants.is_empty() {
                begun.get_or_insert_with(Instant::now);
            }
            self.progress.set_message(format!("{drained} of {total} drained"));
            if report.fairness == 0.0 && pending.contains(&0) {
                let gone = pending.iter().map(|left| each - left);
                report.fairness = round(gone.min().unwrap_or_default() as f64 / each as f64, 3);
            }
            if drained == total {
                let took = begun.map_or_else(|| started.elapsed(), |begun| begun.elapsed()).as_secs_f64();
                report.drained = drained;
                report.drain_s = round(took, 2);
                report.drained_per_s = round(drained as f64 / took, 1);
                return Ok(());
            }
            if started.elapsed() > DRAIN_MAX {
                bail!("{drained} of {total} have drained after {DRAIN_MAX:?}");
            }
        }
    }

    async fn judge(&mut self) -> anyhow::Result<()> {
        let Self { config, report, .. } = self;
        let mut broken = self.log.unsound(self.alive).await?;
        let (full, empty) = (report.full, report.empty);
        if full.start_ms > 1.5 * empty.start_ms + 20.0 {
            broken.push(format!("the start takes {} ms, {} ms on an empty store", full.start_ms, empty.start_ms));
        }
        if full.rss_mib > empty.rss_mib + 8.0 {
            broken.push(format!("idle memory is {} MiB, {} MiB on an empty store", full.rss_mib, empty.rss_mib));
        }
        if report.drained_per_s < config.drain_min {
            broken.push(format!("{} a second drained", report.drained_per_s));
        }
        if report.fairness < 0.8 {
            broken.push(format!("one service had {} of another's", report.fairness));
        }
        if report.calls_max > config.concurrency as usize {
            broken.push(format!("a service had {} calls at a time", report.calls_max));
        }
        if report.passers_by < 1.0 {
            broken.push(format!("{} % of the others were confirmed", 100.0 * report.passers_by));
        }
        if report.lag_counted < report.drained {
            broken.push(format!("the histogram has the lag of {} rows only", report.lag_counted));
        }
        report.broken = broken;
        Ok(())
    }
}
