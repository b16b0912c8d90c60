//! One of three services is in trouble: what that costs transactions without it.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde::Serialize;

use super::open::{self, Caller, Shared};
use super::report::round;
use super::rogue::How as Rogue;
use crate::host;
use crate::noop::{self, Habit};
use crate::processes::{Coordinator, Process, Spec};

/// What happens to the third service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Trouble {
    /// It takes calls, says that it is alive, and answers nothing
    Hangs,
    /// It is stopped in the middle of everything
    Frozen,
    /// It is gone
    Gone,
    /// It comes, takes calls and is gone again
    Flaps,
    /// It answers garbage
    Garbage,
}

/// How it is measured.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Which; without it all, one after another
    #[arg(long, value_enum)]
    pub trouble: Option<Trouble>,
    /// Clients that find the peak
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// How long each part takes
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Transactions a second instead of half of the peak
    #[arg(long)]
    pub rate: Option<f64>,
    /// The p99 in trouble may be so many times that without
    #[arg(long, default_value_t = 2.0)]
    pub p99_max: f64,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// Transactions without the third service, while it is well or not.
#[derive(Clone, Debug, Serialize)]
pub struct Others {
    /// What is wrong with the third service.
    pub trouble: Option<Trouble>,
    /// Confirmed of those begun.
    pub throughput: f64,
    /// From the moment when it was due.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// Transactions with the third service that were refused by its name.
    pub refused: u64,
    /// Of the coordinator, at the end.
    pub rss_mib: f64,
}

/// What came out. As JSON it is the object that the program prints.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Transactions a second that clients with one at a time reach.
    pub peak_per_s: f64,
    /// Transactions a second in each part, two thirds of them without the third service.
    pub rate_per_s: f64,
    /// The parts; the first is the one without trouble.
    pub parts: Vec<Others>,
    /// What was asserted and did not hold.
    pub broken: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "peak {:.0} tx/s; open loop of {:.0} tx/s, a third with service c",
            self.peak_per_s, self.rate_per_s
        )?;
        for part in &self.parts {
            let trouble =
                part.trouble.map_or_else(|| "well".to_owned(), |trouble| format!("{trouble:?}").to_lowercase());
            writeln!(
                f,
                "  c {trouble:8} the others: {:6.2} % confirmed, p50 {:.2} ms, p99 {:.2} ms; {} refused; {:.1} MiB",
                part.throughput * 100.0,
                part.p50_ms,
                part.p99_ms,
                part.refused,
                part.rss_mib
            )?;
        }
        self.broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN: {broken}"))
    }
}

struct Servers {
    coordinator: Coordinator,
    /// The third service, in its present shape.
    third: Process,
    participants: Vec<Process>,
    folder: tempfile::TempDir,
}

impl Servers {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let coordinator = Coordinator::start(folder.path()).await?;
        let mut participants = noop::start("load", folder.path(), &coordinator.url, false, Habit::Agrees)?;
        coordinator.wait_for(&mut participants).await?;
        let third = participants.remove(2);
        Ok(Self { coordinator, third, participants, folder })
    }

    fn rogue(&self, how: &str) -> anyhow::Result<Spec> {
        Ok(Spec::new("c", "load", "tercet-integration", self.folder.path())?
            .word("rogue")
            .with("--service", "c")
            .with("--coordinator", &self.coordinator.url)
            .with("--how", how))
    }

    /// Brings the third service into trouble.
    fn trouble(&mut self, trouble: Trouble) -> anyhow::Result<()> {
        let how = |how: Rogue| if how == Rogue::Garbage { "garbage" } else { "flaps" };
        match trouble {
            Trouble::Frozen => return self.third.freeze(),
            Trouble::Gone => self.third.kill(),
            Trouble::Hangs => {
                self.third.kill();
                let spec = noop::spec("load", self.folder.path(), &self.coordinator.url, &["c"], false)?;
                self.third = spec.with("--habit", "hangs").start()?;
            }
            Trouble::Flaps | Trouble::Garbage => {
                self.third.kill();
                let rogue = if trouble == Trouble::Garbage { Rogue::Garbage } else { Rogue::Flaps };
                self.third = self.rogue(how(rogue))?.start()?;
            }
        }
        Ok(())
    }

    fn check(&mut self) -> anyhow::Result<()> {
        self.participants.iter_mut().chain(&mut self.coordinator.process).try_for_each(Process::check)
    }

    fn rss_mib(&self) -> f64 {
        self.coordinator.process.as_ref().map_or(0.0, |process| host::rss_mib(process.pid()))
    }
}

/// Runs it.
///
/// # Errors
/// When a server does not start or ends by itself.
pub async fn run(config: &Config) -> anyhow::Result<Report> {
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(200));
    let time = Duration::from_secs(config.seconds);
    progress.set_message("finding the peak");
    let servers = Servers::start().await?;
    let caller = Rc::new(Caller::new(&servers.coordinator.url)?);
    let (others, third) = (open::shared()?, open::shared()?);
    open::closed(&caller, &mix(&others, &third), config.clients, Duration::from_secs(1)).await;
    let (others, third) = (open::shared()?, open::shared()?);
    let peak = open::closed(&caller, &mix(&others, &third), config.clients, time).await;
    drop(servers);

    let rate = config.rate.unwrap_or(peak / 2.0);
    let all = [Trouble::Hangs, Trouble::Frozen, Trouble::Gone, Trouble::Flaps, Trouble::Garbage];
    let chosen = all.into_iter().filter(|one| config.trouble.is_none_or(|chosen| chosen == *one));
    let mut parts = Vec::new();
    for trouble in [None].into_iter().chain(chosen.map(Some)) {
        progress.set_message(format!("{rate:.0} tx/s, c in trouble: {trouble:?}"));
        parts.push(part(trouble, rate, time).await?);
    }
    progress.finish_and_clear();
    let mut report = Report { peak_per_s: round(peak, 1), rate_per_s: round(rate, 1), parts, broken: Vec::new() };
    report.judge(config);
    Ok(report)
}

/// Two of three transactions have nothing to do with the third service.
fn mix(others: &Shared, third: &Shared) -> [(tercet_proto::coordinator::v1::SubmitRequest, Shared); 3] {
    let without = (open::tcc(&["a", "b"]), Rc::clone(others));
    [without.clone(), without, (open::tcc(&["a", "c"]), Rc::clone(third))]
}

/// On servers of its own: what another trouble leaves behind is not this one's.
async fn part(trouble: Option<Trouble>, rate: f64, time: Duration) -> anyhow::Result<Others> {
    let mut servers = Servers::start().await?;
    let caller = Rc::new(Caller::new(&servers.coordinator.url)?);
    open::open(&caller, &mix(&open::shared()?, &open::shared()?), rate, Duration::from_secs(1)).await;
    if let Some(trouble) = trouble {
        servers.trouble(trouble)?;
    }
    let (others, third) = (open::shared()?, open::shared()?);
    open::open(&caller, &mix(&others, &third), rate, time).await;
    let rss_mib = round(servers.rss_mib(), 1);
    servers.check()?;
    let (others, third) = (others.borrow(), third.borrow());
    Ok(Others {
        trouble,
        throughput: round(others.confirmed as f64 / others.begun.max(1) as f64, 4),
        p50_ms: round(others.ms(0.5), 3),
        p99_ms: round(others.ms(0.99), 3),
        refused: third.refused.values().sum(),
        rss_mib,
    })
}

impl Report {
    fn judge(&mut self, config: &Config) {
        let Some((well, rest)) = self.parts.split_first() else { return };
        for part in rest {
            let trouble = part.trouble;
            if part.throughput < 0.9 {
                self.broken.push(format!("{trouble:?}: only {:.1} % of the others", part.throughput * 100.0));
            }
            if part.p99_ms > config.p99_max * well.p99_ms {
                self.broken.push(format!("{trouble:?}: p99 {} ms, {} ms without", part.p99_ms, well.p99_ms));
            }
        }
    }
}
