//! How long the coordinator takes to start, and how much memory it needs.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use tercet::client::{Client, Options, Wait};
use tokio::task::JoinSet;

use super::report::round;
use crate::processes::{Coordinator, Process};
use crate::{host, noop};

/// How often it is started.
const STARTS: usize = 5;

/// Clients that submit what is to be held.
const CLIENTS: usize = 1_024;

/// Longer than any run.
const DEADLINE: Duration = Duration::from_secs(3_600);

/// Starting.
#[derive(Args, Clone, Debug)]
pub struct StartConfig {
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// Transactions that do not go on.
#[derive(Args, Clone, Debug)]
pub struct LiveConfig {
    /// How many
    #[arg(long, default_value_t = 100_000)]
    pub count: u64,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// From exec to the first answer.
#[derive(Debug, Serialize)]
pub struct Started {
    /// Half of the starts took at most this.
    pub start_ms: f64,
    /// Each start.
    pub starts_ms: Vec<f64>,
    /// Memory a second after the last one.
    pub idle_rss_mib: f64,
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start_ms, starts_ms, idle_rss_mib } = self;
        writeln!(f, "from exec to ready: {start_ms:.1} ms, the median of {starts_ms:?}; idle {idle_rss_mib:.1} MiB")
    }
}

/// Memory with nothing to do, and with many transactions that wait.
#[derive(Debug, Serialize)]
pub struct Held {
    /// How many it drives.
    pub live: u64,
    /// Before the first one.
    pub idle_rss_mib: f64,
    /// With all of them.
    pub rss_mib: f64,
    /// How many were accepted a second.
    pub accepted_per_s: f64,
    /// What was asserted and did not hold.
    pub broken: Vec<String>,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { live, idle_rss_mib, rss_mib, accepted_per_s, broken } = self;
        writeln!(
            f,
            "{live} live: {rss_mib:.1} MiB, idle {idle_rss_mib:.1} MiB; accepted {accepted_per_s:.0} a second"
        )?;
        broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN: {broken}"))
    }
}

/// Starts a coordinator on an empty folder, five times.
///
/// # Errors
/// When it does not get ready.
pub async fn start() -> anyhow::Result<Started> {
    let mut starts = Vec::new();
    let mut idle_rss_mib = 0.0;
    for at in 1..=STARTS {
        let folder = tempfile::tempdir()?;
        let begun = Instant::now();
        let coordinator = Coordinator::start(folder.path()).await?;
        starts.push(round(begun.elapsed().as_secs_f64() * 1_000.0, 1));
        if at == STARTS {
            tokio::time::sleep(Duration::from_secs(1)).await;
            idle_rss_mib = round(coordinator.process.as_ref().map_or(0.0, |process| host::rss_mib(process.pid())), 1);
        }
    }
    let mut sorted = starts.clone();
    sorted.sort_by(f64::total_cmp);
    Ok(Started { start_ms: sorted[STARTS / 2], starts_ms: starts, idle_rss_mib })
}

/// Has a coordinator hold many transactions whose participants all say "not now".
///
/// # Errors
/// When a server does not start, or a transaction is not accepted.
pub async fn live(config: &LiveConfig) -> anyhow::Result<Held> {
    let folder = tempfile::tempdir()?;
    let mut coordinator = Coordinator::start(folder.path()).await?;
    let mut participants = noop::start("load", folder.path(), &coordinator.url, false, noop::Habit::Holds)?;
    coordinator.wait_for(&mut participants).await?;
    let rss = |coordinator: &Coordinator| coordinator.process.as_ref().map_or(0.0, |one| host::rss_mib(one.pid()));
    let idle_rss_mib = round(rss(&coordinator), 1);

    let progress = ProgressBar::new(config.count);
    let stream = Client::connect([&coordinator.url], Options::default())?.batching();
    let (plan, left) = (noop::tcc(DEADLINE)?, Rc::new(Cell::new(config.count)));
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (stream, plan, left, progress) = (stream.clone(), plan.clone(), Rc::clone(&left), progress.clone());
        clients.spawn_local(async move {
            while let Some(one_less) = left.get().checked_sub(1) {
                left.set(one_less);
                stream.submit(plan.clone(), Wait::Accepted).await?;
                progress.inc(1);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let accepted_per_s = round(config.count as f64 / begun.elapsed().as_secs_f64(), 1);
    // Until every try has been answered "not now".
    loop {
        let statistics = coordinator.statistics().await?;
        if statistics.participants.iter().all(|one| one.queued == 0 && one.in_flight == 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    progress.finish_and_clear();
    let live = coordinator.statistics().await?.live;
    coordinator.process.iter_mut().chain(&mut participants).try_for_each(Process::check)?;
    let broken = (live != config.count).then(|| format!("{live} are live, {} were accepted", config.count));
    let rss_mib = round(rss(&coordinator), 1);
    Ok(Held { live, idle_rss_mib, rss_mib, accepted_per_s, broken: broken.into_iter().collect() })
}
