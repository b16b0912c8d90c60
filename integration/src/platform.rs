//! The embedded default as a process, on ports of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::net::TcpStream;

use crate::processes::{Coordinator, Process, Spec, free_address};

/// How long it may take until its gateway listens.
const READY_MAX: Duration = Duration::from_secs(30);

/// What has a port there, besides those of [`Addresses`].
const OTHERS: [&str; 5] = ["stock", "coupon", "order", "business-log", "redemption"];

/// Where it listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The gateway, for HTTP.
    pub gateway: SocketAddr,
    /// The coordinator, for participants and initiators.
    pub coordinator: SocketAddr,
    /// The coordinator, for operators.
    pub admin: SocketAddr,
    /// The template service.
    pub template: SocketAddr,
    /// The issuing service.
    pub issuing: SocketAddr,
    /// Where Prometheus reads.
    pub metrics: SocketAddr,
}

/// One that runs. Killed when it is dropped.
#[derive(Debug)]
pub struct Platform {
    /// Its process.
    pub process: Process,
    /// Where it listens.
    pub addresses: Addresses,
    /// Its coordinator.
    pub coordinator: Coordinator,
    data: PathBuf,
}

impl Platform {
    /// How to start one with all its files in `data`, and where it listens then.
    ///
    /// # Errors
    /// When it is not built, or there is no port.
    pub fn spec(data: &Path) -> anyhow::Result<(Spec, Addresses)> {
        let addresses = Addresses {
            gateway: free_address()?,
            coordinator: free_address()?,
            admin: free_address()?,
            template: free_address()?,
            issuing: free_address()?,
            metrics: free_address()?,
        };
        let spec = Spec::new("platform", "tercet-platform", "tercet-platform", data)?;
        let mut spec = spec
            .with("--seconds", "0")
            .with("--data", data)
            .with("--gateway", addresses.gateway.to_string())
            .with("--coordinator", addresses.coordinator.to_string())
            .with("--admin", addresses.admin.to_string())
            .with("--template", addresses.template.to_string())
            .with("--issuing", addresses.issuing.to_string())
            .with("--metrics", addresses.metrics.to_string());
        for name in OTHERS {
            spec = spec.with(&format!("--{name}"), free_address()?.to_string());
        }
        Ok((spec, addresses))
    }

    /// Starts one with these flags, and waits until its gateway listens. It has done nothing by then, unless there are
    /// files of an earlier one.
    ///
    /// # Errors
    /// When it is not built, or does not get ready.
    pub async fn start(data: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        let (spec, addresses) = Self::spec(data)?;
        let spec = flags.iter().fold(spec, |spec, flag| spec.word(flag));
        let mut process = spec.start()?;
        let begun = Instant::now();
        while TcpStream::connect(addresses.gateway).await.is_err() {
            process.check()?;
            if begun.elapsed() > READY_MAX {
                bail!("the platform does not get ready");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let coordinator = Coordinator::connect(&addresses.coordinator.to_string(), &addresses.admin.to_string())?;
        Ok(Self { process, addresses, coordinator, data: data.into() })
    }

    /// The keys that sign the tokens of its users.
    pub fn jwks(&self) -> PathBuf {
        self.data.join("jwks.json")
    }

    /// The URL of the database of this name.
    pub fn database(&self, name: &str) -> String {
        format!("sqlite://{}", self.data.join(format!("{name}.db")).display())
    }
}
