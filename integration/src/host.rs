//! What the machine says: processor time and memory of a process, and how fast its disk syncs.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Linux counts processor time in hundredths of a second, whatever the kernel's own tick is.
const TICK_US: u64 = 10_000;

/// Processor time that a process with all its threads has used, in microseconds, in steps of 10 ms. 0 once it is gone.
pub fn cpu_us(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold anything; the state is the first field behind it.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |at: usize| fields.split_whitespace().nth(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) * TICK_US
}

/// Memory of a process that is in RAM, in MiB. 0 once it is gone.
pub fn rss_mib(pid: u32) -> f64 {
    memory_mib(pid, "VmRSS:")
}

/// The most that [`rss_mib`] has been.
pub fn rss_peak_mib(pid: u32) -> f64 {
    memory_mib(pid, "VmHWM:")
}

fn memory_mib(pid: u32, field: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1_024.0
}

/// The process of this machine that listens on a port of IPv4; `None` where there is none that this one may look into.
pub fn listener(port: u16) -> Option<u32> {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let (local, listens) = (format!(":{port:04X}"), "0A");
    let inode = sockets.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(1)?.ends_with(&local) && *fields.get(3)? == listens).then(|| fields.get(9).copied())?
    })?;
    let socket = format!("socket:[{inode}]");
    let has = |pid: &u32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|link| link.as_os_str() == &*socket)
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(has)
}

/// What a figure depends on besides the program.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// Processors that this process may use.
    pub cores: usize,
    /// Appending 4 KiB to a growing file and fdatasync, half of the time at most this.
    pub fdatasync_p50_us: u64,
    /// The same, 99 of 100 times.
    pub fdatasync_p99_us: u64,
    /// In words.
    pub durability: &'static str,
}

impl Host {
    /// Measures the disk under `folder` for a second.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn measure(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("fdatasync");
        let mut file = File::create(&path).with_context(|| format!("{} can not be written", folder.display()))?;
        let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            let begun = Instant::now();
            file.write_all(&[0x5a; 4_096])?;
            file.sync_data()?;
            times.saturating_record(begun.elapsed().as_micros() as u64);
        }
        std::fs::remove_file(&path)?;
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            fdatasync_p50_us: times.value_at_quantile(0.5),
            fdatasync_p99_us: times.value_at_quantile(0.99),
            durability: "SQLite, WAL, synchronous=FULL: every commit is synced before it is answered",
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, fdatasync_p50_us, fdatasync_p99_us, durability } = self;
        write!(f, "{cores} cores, fdatasync p50 {fdatasync_p50_us} µs p99 {fdatasync_p99_us} µs; {durability}")
    }
}
