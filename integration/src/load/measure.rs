//! What is counted while a load runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Stage;
use crate::host;

/// The answers that the clients got.
pub(super) struct Recorder {
    /// Between warm-up and end.
    pub(super) measuring: bool,
    /// Answers ever.
    pub(super) answered: u64,
    /// Confirmed while measuring, in microseconds.
    pub(super) latency: Histogram<u64>,
    /// Failed at any time.
    pub(super) failed: u64,
    /// Why the first one did.
    pub(super) failure: Option<String>,
}

impl Recorder {
    pub(super) fn new() -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        Ok(Self { measuring: false, answered: 0, latency, failed: 0, failure: None })
    }

    pub(super) fn record(&mut self, took: Duration, told: anyhow::Result<()>) {
        match told {
            Ok(()) => {
                self.answered += 1;
                if self.measuring {
                    self.latency.saturating_record(took.as_micros() as u64);
                }
            }
            Err(error) => {
                self.failed += 1;
                self.failure.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
}

/// What the coordinator and the processes have used up to a moment.
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) store_commits: u64,
    pub(super) store_rows: u64,
    pub(super) batches: u64,
    pub(super) cpu_us: BTreeMap<String, u64>,
    pub(super) rss_mib: BTreeMap<String, f64>,
}

impl Snapshot {
    pub(super) async fn take(stage: &Stage) -> anyhow::Result<Self> {
        let statistics = stage.coordinator.statistics().await?;
        let of_servers = stage.processes().map(|process| (process.name().to_owned(), process.pid()));
        let pids: Vec<_> = of_servers.chain([("load".to_owned(), std::process::id())]).collect();
        Ok(Self {
            at: Instant::now(),
            store_commits: statistics.store_commits,
            store_rows: statistics.store_rows,
            batches: statistics.batches,
            cpu_us: pids.iter().map(|(name, pid)| (name.clone(), host::cpu_us(*pid))).collect(),
            rss_mib: pids.iter().map(|(name, pid)| (name.clone(), host::rss_peak_mib(*pid))).collect(),
        })
    }
}
