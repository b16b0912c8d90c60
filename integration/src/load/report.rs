//! The figures of a run, for people and for machines.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::Config;
use super::measure::{Control, Recorder, Snapshot};
use super::work::Kind;
use crate::host::Host;

/// One run. As JSON it is the object that the program prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The kind of transaction.
    pub load: &'static str,
    /// Clients.
    pub clients: usize,
    /// How long it was measured.
    pub seconds: f64,
    /// On one stream.
    pub stream: bool,
    /// With durable fences.
    pub fence: bool,
    /// What the clients waited for.
    pub wait: String,
    /// Answers a second.
    pub tx_per_s: f64,
    /// Latency.
    pub p50_ms: f64,
    /// Latency.
    pub p99_ms: f64,
    /// Latency.
    pub p999_ms: f64,
    /// Answers that were not the expected one.
    pub failed: u64,
    /// Why the first of them was not.
    pub failure: Option<String>,
    /// Synced commits a transaction, of the coordinator and of the participants' databases. Checkpoints are not in it.
    pub syncs: f64,
    /// The coordinator's group commits a transaction.
    pub store_commits: f64,
    /// Rows of one group commit.
    pub batch_rows: f64,
    /// Batches to participants a transaction, each with its answer.
    pub round_trips: f64,
    /// Processor time a transaction, of each process.
    pub cpu_us: BTreeMap<String, f64>,
    /// The most memory that each process had.
    pub rss_mib: BTreeMap<String, f64>,
    /// What the machine does without transactions, measured just before; `None` for a coordinator elsewhere.
    pub control: Option<Control>,
    /// Where it was measured.
    pub host: Host,
    /// What was asserted and did not hold.
    pub broken: Vec<String>,
}

impl Report {
    pub(super) fn new(
        kind: Kind,
        config: &Config,
        (host, control): (Host, Option<Control>),
        recorder: &Recorder,
        before: &Snapshot,
        after: &Snapshot,
        mut broken: Vec<String>,
    ) -> Self {
        let answers = recorder.latency.len();
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let each = |count: u64| round(count as f64 / (answers.max(1)) as f64, 4);
        let ms = |quantile| round(recorder.latency.value_at_quantile(quantile) as f64 / 1_000.0, 3);
        let commits = after.store_commits - before.store_commits;
        let batches = after.batches - before.batches;
        let fence = config.fence || kind.filling(0).is_some();
        let spent =
            |(name, used): (&String, &u64)| (name.clone(), each(used - before.cpu_us.get(name).copied().unwrap_or(0)));
        if recorder.failed > 0 {
            broken.push(format!("{} transactions failed", recorder.failed));
        }
        if answers == 0 {
            broken.push("there was no answer".into());
        }
        Self {
            load: kind.name(),
            clients: config.clients,
            seconds: round(seconds, 3),
            stream: config.stream,
            fence,
            wait: format!("{:?}", config.wait).to_lowercase(),
            tx_per_s: round(answers as f64 / seconds, 1),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            failed: recorder.failed,
            failure: recorder.failure.clone(),
            syncs: each(commits + if fence { batches } else { 0 }),
            store_commits: each(commits),
            batch_rows: round((after.store_rows - before.store_rows) as f64 / (commits.max(1)) as f64, 1),
            round_trips: each(batches),
            cpu_us: after.cpu_us.iter().map(spent).collect(),
            rss_mib: after.rss_mib.iter().map(|(name, mib)| (name.clone(), round(*mib, 1))).collect(),
            control,
            host,
            broken,
        }
    }
}

/// With so many digits behind the point.
pub(crate) fn round(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

/// Names and values on one line.
pub(crate) fn listed(values: &BTreeMap<String, f64>) -> String {
    let each: Vec<_> = values.iter().map(|(name, value)| format!("{name} {value:.1}")).collect();
    each.join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { load, clients, seconds, wait, .. } = self;
        let (how, fence) =
            (if self.stream { "one stream" } else { "unary" }, if self.fence { "durable" } else { "none" });
        writeln!(f, "{load}, {clients} clients, {how}, fences {fence}, wait for {wait}, {seconds:.1} s")?;
        writeln!(f, "  {:.0} tx/s   {} failed", self.tx_per_s, self.failed)?;
        writeln!(f, "  p50 {:.2} ms   p99 {:.2} ms   p99.9 {:.2} ms", self.p50_ms, self.p99_ms, self.p999_ms)?;
        writeln!(
            f,
            "  a transaction: {:.4} syncs, {:.4} store commits of {:.1} rows, {:.4} round trips",
            self.syncs, self.store_commits, self.batch_rows, self.round_trips
        )?;
        writeln!(f, "  processor, µs a transaction: {}", listed(&self.cpu_us))?;
        writeln!(f, "  memory at most, MiB: {}", listed(&self.rss_mib))?;
        if let Some(Control { calls_per_s, cpu_us }) = &self.control {
            let times = self.cpu_us.get("coordinator").map_or(0.0, |each| each / cpu_us.max(0.001));
            writeln!(
                f,
                "  an empty unary call here: {calls_per_s:.0}/s, {cpu_us:.1} µs of the coordinator's processor; \
                 a transaction costs it {times:.1} of them"
            )?;
        }
        writeln!(f, "  {}", self.host)?;
        if let Some(failure) = &self.failure {
            writeln!(f, "  the first failure: {failure}")?;
        }
        for broken in &self.broken {
            writeln!(f, "  BROKEN: {broken}")?;
        }
        Ok(())
    }
}
