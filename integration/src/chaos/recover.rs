//! One kill of the coordinator with very many transactions in flight: how long until the last of them has ended?

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use tercet::client::{Client, Options, Wait};
use tokio::task::JoinSet;

use super::Store;
use crate::load::report::round;
use crate::processes::{Coordinator, Process};
use crate::{checker, noop};

/// For so many to be in flight.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is tried to kill with enough in flight.
const TRIES_MAX: usize = 3;

/// Transactions that one stream holds: the coordinator reads no more of it.
const STREAM_MAX: i64 = 8_192;

/// How many, and which program the participants are.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Transactions that have not ended at the kill, at least
    #[arg(long, default_value_t = 10_000)]
    pub in_flight: i64,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// What was measured. As JSON it is the object that the program prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Transactions that had not ended at the kill.
    pub in_flight: i64,
    /// From exec to the coordinator's first answer.
    pub ready_s: f64,
    /// From then to the end of the last one that was in flight, with participants that reconnect by themselves.
    pub last_in_doubt_s: f64,
    /// What was asserted and did not hold.
    pub broken: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { in_flight, ready_s, last_in_doubt_s, broken } = self;
        writeln!(
            f,
            "{in_flight} in flight at the kill, ready again in {ready_s} s, the last ended {last_in_doubt_s} s later"
        )?;
        broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN: {broken}"))
    }
}

/// Runs it, with three participants that do nothing but keep their durable fence.
///
/// # Errors
/// When a server does not start or ends by itself, or so many never are in flight.
pub async fn run(config: &Config) -> anyhow::Result<Report> {
    let mut tries = 0;
    loop {
        let report = once(config.in_flight).await?;
        tries += 1;
        // Some may end between the last look and the signal.
        if report.in_flight >= config.in_flight || tries == TRIES_MAX {
            return Ok(report);
        }
    }
}

async fn once(wanted: i64) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir()?;
    let mut coordinator = Coordinator::start(folder.path()).await?;
    let mut participants = noop::start("chaos", folder.path(), &coordinator.url, true, noop::Habit::Agrees)?;
    coordinator.wait_for(&mut participants).await?;
    let store = Store::of(folder.path());

    let stop = Rc::new(Cell::new(false));
    let mut clients = flood(&coordinator.url, wanted * 2, &stop)?;
    let begun = Instant::now();
    while store.in_doubt().await?.count < wanted {
        participants.iter_mut().chain(&mut coordinator.process).try_for_each(Process::check)?;
        if begun.elapsed() > PATIENCE {
            bail!("never {wanted} in flight");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let Some(process) = &mut coordinator.process else { bail!("the coordinator is not ours") };
    process.kill();
    // Their transactions are in doubt now; nobody waits for them, and nothing new comes.
    stop.set(true);
    clients.shutdown().await;
    let in_doubt = store.in_doubt().await?;
    process.restart()?;
    let ready = coordinator.wait_ready().await?;
    let last = store.last_ended(&in_doubt).await?;
    participants.iter_mut().chain(&mut coordinator.process).try_for_each(Process::check)?;
    drop((participants, coordinator));

    let verdict = checker::check(folder.path()).await?;
    let mut broken: Vec<_> = verdict.findings.iter().map(ToString::to_string).collect();
    if in_doubt.count < wanted {
        broken.push(format!("only {} were in flight at the kill", in_doubt.count));
    }
    let (ready_s, last_in_doubt_s) = (round(ready.as_secs_f64(), 3), round(last.as_secs_f64(), 3));
    Ok(Report { in_flight: in_doubt.count, ready_s, last_in_doubt_s, broken })
}

/// So many clients with a transaction each, on as few streams as hold them.
fn flood(url: &str, clients: i64, stop: &Rc<Cell<bool>>) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let plan = noop::tcc(Duration::from_secs(60))?;
    let options = Options { outstanding_max: STREAM_MAX.unsigned_abs() as usize, ..Options::default() };
    let mut tasks = JoinSet::new();
    for first in (0..clients).step_by(STREAM_MAX as usize) {
        let stream = Client::connect([url], options.clone())?.batching();
        for _ in first..clients.min(first + STREAM_MAX) {
            let (stream, plan, stop) = (stream.clone(), plan.clone(), Rc::clone(stop));
            tasks.spawn_local(async move {
                while !stop.get() {
                    stream.submit(plan.clone(), Wait::Ended).await?;
                }
                Ok(())
            });
        }
    }
    Ok(tasks)
}
