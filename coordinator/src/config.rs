//! Settings: flags, or environment variables of the same names, parsed once.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use tercet_secure::{Error, server};

use crate::limits;

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines, an object a line.
    Json,
}

/// What `tercet serve` can be told. Limits that are not here are in [`crate::limits`].
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where initiators and participants connect.
    #[arg(long, env = "TERCET_LISTEN", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,

    /// Where operators connect.
    #[arg(long, env = "TERCET_ADMIN_LISTEN", default_value = "127.0.0.1:7069")]
    pub admin_listen: SocketAddr,

    /// How the ports are secured.
    #[command(flatten)]
    pub security: server::Settings,

    /// Who may call, a line each as `tercet token` prints them; read again when it changes. Without it everyone may
    #[arg(long, env = "TERCET_TOKENS", value_name = "FILE")]
    pub tokens: Option<PathBuf>,

    /// Serve other addresses than loopback without tokens
    #[arg(long, env = "TERCET_INSECURE_NO_TOKENS")]
    pub insecure_no_tokens: bool,

    /// Where Prometheus scrapes /metrics; leave it out for none.
    #[arg(long, env = "TERCET_METRICS")]
    pub metrics: Option<SocketAddr>,

    /// Folder of the embedded store, made if it is not there.
    #[arg(long, env = "TERCET_DATA", default_value = "data/coordinator")]
    pub data: PathBuf,

    /// MiB of the store's disk that are kept for what is under way: with less free, nothing new is taken. 0: none.
    #[arg(long, env = "TERCET_DISK_RESERVE_MIB", default_value_t = 64)]
    pub disk_reserve_mib: u64,

    /// This node among those that share a store, 0 to 1023.
    #[arg(long, env = "TERCET_NODE", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1023))]
    pub node: u16,

    /// Most transactions in memory; past it new ones are refused.
    #[arg(long, env = "TERCET_LIVE_MAX", default_value_t = 200_000, value_parser = live_max())]
    pub live_max: usize,

    /// When compensation_log is scanned: a cron expression with seconds first.
    #[arg(long, env = "TERCET_SCANNER_CRON", default_value = "* * * * * *")]
    pub scanner_cron: String,

    /// Ended transactions are kept for so many seconds.
    #[arg(long, env = "TERCET_RETENTION_SECONDS", default_value_t = 3_600)]
    pub retention_seconds: u64,

    /// And at most so many of them.
    #[arg(long, env = "TERCET_RETENTION_MAX", default_value_t = 1_000_000)]
    pub retention_max: u64,

    /// How long a stop waits for what is under way, in milliseconds; the rest is due at the next start.
    #[arg(long, env = "TERCET_STOP_GRACE_MS", default_value_t = 5_000)]
    pub stop_grace_ms: u64,

    /// Text for people, JSON for machines.
    #[arg(long, env = "TERCET_LOG", value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,

    /// What is logged: a level, or directives such as "info,tercet_coordinator=debug".
    #[arg(long, env = "TERCET_LOG_FILTER", default_value = "info,tokio_cron_scheduler=warn")]
    pub log_filter: String,
}

impl Config {
    /// Whether everything that it opens is secured, or loopback, or allowed by name.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self) -> Result<(), Error> {
        self.security.check("listen", self.listen)?;
        self.security.check("admin_listen", self.admin_listen)?;
        self.metrics.map_or(Ok(()), |address| self.security.check("metrics", address))?;
        if self.tokens.is_some() || self.insecure_no_tokens {
            return Ok(());
        }
        let ports = [("listen", self.listen), ("admin_listen", self.admin_listen)];
        let exposed = ports.into_iter().find(|(_, address)| !address.ip().is_loopback());
        exposed.map_or(Ok(()), |(setting, address)| {
            Err(Error::Exposed { setting, address, needs: "--tokens", flag: "--insecure-no-tokens" })
        })
    }
}

/// What operators may set it to while it runs.
fn live_max() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=limits::LIVE_MAX_MAX)
}

/// The lease of a node in milliseconds. Another node may take its transactions over after this; a call of it is valid
/// no longer.
pub const LEASE_MS: u64 = 15_000;

/// How often the lease is renewed, in milliseconds.
pub const BEAT_MS: u64 = 3_000;

const _: () = assert!(BEAT_MS * 3 < LEASE_MS, "two beats may fail and the lease still holds");
