//! What the embedded store's group commits cost, and how long one of them stalls when it moves the log into the
//! database.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use serde::Serialize;
use tercet_coordinator::clock::{Clock as _, SystemClock};
use tercet_coordinator::config::LEASE_MS;
use tercet_coordinator::store::{Advance, Create, Owner, SqliteStore, Store as _, Write, Written};
use tercet_core::{Timestamp, Xid, XidSource};

use super::report::round;
use crate::host::Host;

/// Bytes of a row that is written once, and of what changes with each write: those of three branches.
const PLAN_BYTES: usize = 300;
const STATE_BYTES: usize = 95;

/// Group commits one after another.
#[derive(Args, Clone, Debug)]
pub struct CommitsConfig {
    /// Rows of one commit
    #[arg(long, default_value_t = 64)]
    pub rows: usize,
    /// How long
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// The time of commits, those apart that also moved the log into the database.
#[derive(Debug, Serialize)]
pub struct Commits {
    /// Rows of one commit.
    pub rows: usize,
    /// Commits a second.
    pub commits_per_s: f64,
    /// Rows a second.
    pub rows_per_s: f64,
    /// Of the commits without a checkpoint.
    pub plain: Times,
    /// Of those with one.
    pub checkpoint: Times,
    /// Where it was measured.
    pub host: Host,
}

/// Durations in milliseconds.
#[derive(Debug, Serialize)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// Half of them took at most this.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Times {
    fn new(times: &Histogram<u64>) -> Self {
        let ms = |us: u64| round(us as f64 / 1_000.0, 3);
        Self {
            count: times.len(),
            p50_ms: ms(times.value_at_quantile(0.5)),
            p99_ms: ms(times.value_at_quantile(0.99)),
            max_ms: ms(times.max()),
        }
    }
}

impl fmt::Display for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, commits_per_s, rows_per_s, plain, checkpoint, host } = self;
        writeln!(f, "{rows} rows a commit: {commits_per_s:.0} commits/s, {rows_per_s:.0} rows/s")?;
        for (what, Times { count, p50_ms, p99_ms, max_ms }) in [("plain", plain), ("checkpoint", checkpoint)] {
            writeln!(f, "  {what:<10} {count:>7}   p50 {p50_ms:.2} ms   p99 {p99_ms:.2} ms   max {max_ms:.2} ms")?;
        }
        writeln!(f, "  {host}")
    }
}

/// Writes batches of new transactions and of ends of the batch before, one commit after another.
///
/// # Errors
/// When the store does not take one.
pub async fn run(config: &CommitsConfig) -> anyhow::Result<Commits> {
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message("measuring the disk");
    let folder = tempfile::tempdir()?;
    let host = Host::measure(folder.path())?;
    progress.set_message("committing");
    let (clock, path) = (SystemClock::start(), folder.path().join("tercet.db"));
    let store = SqliteStore::open(&path, clock.clone()).await?;
    let beat = store.beat(0, None, LEASE_MS).await?;
    let owner = Owner { node: 0, epoch: beat.epoch };
    let mut xids = XidSource::new(0, beat.epoch);
    let mut histograms = [Histogram::new_with_bounds(1, 60_000_000, 3)?, Histogram::new_with_bounds(1, 60_000_000, 3)?];
    let [plain, checkpoint] = &mut histograms;
    let (mut live, mut moved) = (Vec::new(), log_number(&path));
    let mut last: Option<u64> = None;
    let (begun, end) = (Instant::now(), Instant::now() + Duration::from_secs(config.seconds));
    while Instant::now() < end {
        let now = clock.now();
        let batch = batch(config.rows, &mut live, (&mut xids, owner), now);
        let started = Instant::now();
        let written = store.write(batch).await?;
        let took = started.elapsed().as_micros() as u64;
        anyhow::ensure!(written.iter().all(|one| matches!(one, Written::Done { .. })), "a write was not done");
        // A log that begins anew was moved at the end of the commit before.
        let number = log_number(&path);
        if let Some(before) = last.replace(took) {
            if number == moved {
                plain.saturating_record(before)
            } else {
                checkpoint.saturating_record(before)
            };
        }
        moved = number;
    }
    let seconds = begun.elapsed().as_secs_f64();
    progress.finish_and_clear();
    let commits = plain.len() + checkpoint.len();
    Ok(Commits {
        rows: config.rows,
        commits_per_s: round(commits as f64 / seconds, 1),
        rows_per_s: round((commits * config.rows as u64) as f64 / seconds, 1),
        plain: Times::new(plain),
        checkpoint: Times::new(checkpoint),
        host,
    })
}

/// Half of it ends transactions of `live`, oldest first; the rest is new, and joins them.
fn batch(rows: usize, live: &mut Vec<Xid>, (xids, owner): (&mut XidSource, Owner), now: Timestamp) -> Vec<Write> {
    let state = Bytes::from_static(&[0x5a; STATE_BYTES]);
    let end = |xid| {
        Write::Advance(Advance {
            xid,
            version: 1,
            status: 4,
            ended_at: Some(now),
            owner: None,
            wake_at: None,
            state: state.clone(),
            keys: Vec::new(),
            compensations: Vec::new(),
            audit: None,
        })
    };
    let mut batch: Vec<Write> = live.drain(..live.len().min(rows / 2)).map(end).collect();
    while batch.len() < rows {
        let xid = xids.next(now);
        live.push(xid);
        batch.push(Write::Create(Create {
            xid,
            mode: 1,
            status: 1,
            ended_at: None,
            owner,
            wake_at: Some(now),
            idempotency_key: None,
            digest: 0,
            plan: Bytes::from_static(&[0x5a; PLAN_BYTES]),
            state: state.clone(),
            keys: Vec::new(),
        }));
    }
    batch
}

/// How often SQLite has begun its write-ahead log anew: bytes 12 to 15 of the log's header.
fn log_number(database: &Path) -> u32 {
    use std::io::Read as _;
    let mut header = [0; 16];
    let log = std::fs::File::open(database.with_extension("db-wal"));
    let read = log.and_then(|mut log| log.read_exact(&mut header));
    let [.., a, b, c, d] = header;
    read.map_or(0, |()| u32::from_be_bytes([a, b, c, d]))
}
