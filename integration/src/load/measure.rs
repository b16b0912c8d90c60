//! What is counted while a load runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::Stage;
use super::report::round;
use crate::host;
use crate::processes::Process;

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

/// How long the control is measured.
const CONTROL: Duration = Duration::from_secs(1);

/// What the same coordinator, on the same machine, does with calls that ask nothing of it: figures of two machines, or
/// of one machine on a busy and on a quiet day, compare by what they are of this.
#[derive(Clone, Debug, Serialize)]
pub struct Control {
    /// Health checks a second, from as many clients, on as many connections.
    pub calls_per_s: f64,
    /// The coordinator's processor time for each.
    pub cpu_us: f64,
}

impl Control {
    pub(super) async fn measure(stage: &Stage, clients: usize) -> anyhow::Result<Option<Self>> {
        let Some(pid) = stage.coordinator.process.as_ref().map(Process::pid) else {
            return Ok(None);
        };
        let endpoint = Channel::from_shared(stage.coordinator.url.clone())?;
        let channels = [endpoint.connect().await?, endpoint.connect().await?];
        let (begun, used, end) = (Instant::now(), host::cpu_us(pid), Instant::now() + CONTROL);
        let mut tasks = JoinSet::new();
        for channel in channels.iter().cycle().take(clients).cloned() {
            tasks.spawn_local(async move {
                let mut health = HealthClient::new(channel);
                let mut calls = 0_u64;
                while Instant::now() < end {
                    health.check(HealthCheckRequest::default()).await?;
                    calls += 1;
                }
                anyhow::Ok(calls)
            });
        }
        let mut calls = 0;
        while let Some(ended) = tasks.join_next().await {
            calls += ended??;
        }
        let used = host::cpu_us(pid) - used;
        Ok(Some(Self {
            calls_per_s: round(calls as f64 / begun.elapsed().as_secs_f64(), 1),
            cpu_us: round(used as f64 / calls.max(1) as f64, 2),
        }))
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
