//! Several times what a coordinator can do: it does what it can, refuses the rest by name, and is as before afterwards.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::time::Instant;

use super::open::{self, Caller};
use super::report::round;
use crate::host;
use crate::noop;
use crate::processes::{Coordinator, Process};

/// From acceptance to decision, of what the SDK submits.
const DEADLINE: Duration = Duration::from_secs(30);

/// Clients of the load to which latency is compared.
const FEW: usize = 4;

/// How long that load is looked at, at a time.
const LOOK: Duration = Duration::from_millis(500);

/// How it is measured.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// How many times the peak
    #[arg(long, default_value_t = 5.0)]
    pub factor: f64,
    /// How long the overload takes
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Clients that find the peak
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Through the SDK, which asks again and keeps back; without it each is one call, and none knows any restraint
    #[arg(long)]
    pub sdk: bool,
    /// How long each call takes a participant, one after another: then it is they who can do no more, and without it
    /// the processors
    #[arg(long, default_value_t = 0)]
    pub delay_ms: u64,
    /// Calls that each participant takes at a time
    #[arg(long, default_value_t = 64)]
    pub concurrency: u32,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// What came out. As JSON it is the object that the program prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Transactions a second that clients with one at a time reach, the mean of before and after.
    pub peak_per_s: f64,
    /// Due a second.
    pub due_per_s: f64,
    /// Begun a second: the others were due while every caller waited for an answer.
    pub begun_per_s: f64,
    /// Confirmed a second during the overload.
    pub goodput_per_s: f64,
    /// Of the peak.
    pub goodput: f64,
    /// Of what was confirmed meanwhile.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// Refusals, by what there was too much of.
    pub refused: BTreeMap<String, u64>,
    /// Answers that are neither.
    pub untyped: BTreeMap<String, u64>,
    /// Of the coordinator: the mean of the first half and of the second.
    pub rss_mib: [f64; 2],
    /// Half of the transactions of a small load took at most this before.
    pub before_ms: f64,
    /// From the last one that was begun until that was so again, within half as much more.
    pub normal_after_s: f64,
    /// What was asserted and did not hold.
    pub broken: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "peak {:.0} tx/s; due {:.0}, begun {:.0}", self.peak_per_s, self.due_per_s, self.begun_per_s)?;
        let percent = self.goodput * 100.0;
        writeln!(
            f,
            "  goodput {:.0} tx/s = {percent:.1} %; p50 {} ms, p99 {} ms",
            self.goodput_per_s, self.p50_ms, self.p99_ms
        )?;
        writeln!(f, "  refused {:?}, untyped {:?}", self.refused, self.untyped)?;
        let [first, second] = self.rss_mib;
        writeln!(f, "  coordinator {first:.1} MiB in the first half, {second:.1} MiB in the second")?;
        writeln!(f, "  p50 of {FEW} clients {} ms before; normal {} s after", self.before_ms, self.normal_after_s)?;
        self.broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN: {broken}"))
    }
}

/// Runs it, on participants that keep their durable fence.
///
/// # Errors
/// When a server does not start or ends by itself.
pub async fn run(config: &Config) -> anyhow::Result<Report> {
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(200));
    let folder = tempfile::tempdir()?;
    let mut coordinator = Coordinator::start(folder.path()).await?;
    let start = |service: &str| {
        let spec = noop::spec("load", folder.path(), &coordinator.url, &[service], true)?;
        let spec = spec.with("--concurrency", config.concurrency.to_string());
        spec.with("--delay-ms", config.delay_ms.to_string()).start()
    };
    let mut participants = noop::SERVICES.into_iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
    coordinator.wait_for(&mut participants).await?;
    let caller = Rc::new(if config.sdk {
        Caller::sdk(&coordinator.url, noop::tcc(DEADLINE)?)?
    } else {
        Caller::new(&coordinator.url)?
    });

    progress.set_message("finding the peak");
    peak(&caller, config.clients, 1).await?;
    let before_ms = look(&caller, 3 * LOOK).await?;
    let peak_before = peak(&caller, config.clients, 5).await?;
    let rate = config.factor * peak_before;
    progress.set_message(format!("{rate:.0} tx/s for {} s", config.seconds));
    let tally = open::shared()?;
    let kinds = [(open::tcc(&noop::SERVICES), Rc::clone(&tally))];
    let time = Duration::from_secs(config.seconds);
    let begun = Instant::now();
    let pid = coordinator.process.as_ref().map_or(0, Process::pid);
    let samples = tokio::task::spawn_local(memory(pid, time));
    let overload = open::open(&caller, &kinds, rate, time);
    let mut overload = std::pin::pin!(overload);
    // What is confirmed after the last one was begun is no goodput.
    let mut goodput = None;
    tokio::select! {
        () = &mut overload => {}
        () = tokio::time::sleep(time) => {
            goodput = Some(tally.borrow().confirmed as f64 / begun.elapsed().as_secs_f64());
            overload.await;
        }
    }
    let goodput = goodput.unwrap_or_else(|| tally.borrow().confirmed as f64 / begun.elapsed().as_secs_f64());
    let begun_per_s = tally.borrow().begun as f64 / begun.elapsed().as_secs_f64().max(time.as_secs_f64());
    progress.set_message("back to normal");
    let normal_after = normal(&caller, before_ms, begun + time).await?;
    let peak_after = peak(&caller, config.clients, 5).await?;
    participants.iter_mut().chain(&mut coordinator.process).try_for_each(Process::check)?;
    progress.finish_and_clear();

    let rss_mib = samples.await?;
    let tally = tally.borrow();
    let peak = f64::midpoint(peak_before, peak_after);
    let mut report = Report {
        peak_per_s: round(peak, 1),
        due_per_s: round(rate, 1),
        begun_per_s: round(begun_per_s, 1),
        goodput_per_s: round(goodput, 1),
        goodput: round(goodput / peak, 3),
        p50_ms: round(tally.ms(0.5), 2),
        p99_ms: round(tally.ms(0.99), 2),
        refused: tally.refused.clone(),
        untyped: tally.other.clone(),
        rss_mib,
        before_ms: round(before_ms, 3),
        normal_after_s: round(normal_after.as_secs_f64(), 2),
        broken: Vec::new(),
    };
    report.judge();
    Ok(report)
}

async fn peak(caller: &Rc<Caller>, clients: usize, seconds: u64) -> anyhow::Result<f64> {
    let kinds = [(open::tcc(&noop::SERVICES), open::shared()?)];
    Ok(open::closed(caller, &kinds, clients, Duration::from_secs(seconds)).await)
}

/// Half of the transactions of a small load take at most so many milliseconds.
async fn look(caller: &Rc<Caller>, time: Duration) -> anyhow::Result<f64> {
    let tally = open::shared()?;
    open::closed(caller, &[(open::tcc(&noop::SERVICES), Rc::clone(&tally))], FEW, time).await;
    let tally = tally.borrow();
    Ok(if tally.confirmed == 0 { f64::INFINITY } else { tally.ms(0.5) })
}

/// When a small load is answered about as quickly as before; it is not waited for longer than half a minute.
async fn normal(caller: &Rc<Caller>, before_ms: f64, since: Instant) -> anyhow::Result<Duration> {
    loop {
        let looked = since.elapsed();
        if look(caller, LOOK).await? <= 1.5 * before_ms || looked > Duration::from_secs(30) {
            return Ok(looked);
        }
    }
}

/// The mean of the first and of the second half.
async fn memory(pid: u32, time: Duration) -> [f64; 2] {
    let mut halves = [0.0; 2];
    for half in &mut halves {
        let samples = 50;
        for _ in 0..samples {
            tokio::time::sleep(time / 2 / samples).await;
            *half += host::rss_mib(pid) / f64::from(samples);
        }
        *half = round(*half, 1);
    }
    halves
}

impl Report {
    fn judge(&mut self) {
        if self.goodput < 0.8 {
            self.broken.push(format!("goodput is {:.1} % of the peak", self.goodput * 100.0));
        }
        if !self.untyped.is_empty() {
            self.broken.push(format!("answers that are neither confirmed nor a typed refusal: {:?}", self.untyped));
        }
        if self.refused.is_empty() {
            self.broken.push("nothing was refused: it was no overload".into());
        }
        let [first, second] = self.rss_mib;
        if second > 1.1 * first + 4.0 {
            self.broken.push(format!("memory grew from {first} to {second} MiB"));
        }
        if self.normal_after_s > 5.0 {
            self.broken.push(format!("normal only {} s after", self.normal_after_s));
        }
    }
}
