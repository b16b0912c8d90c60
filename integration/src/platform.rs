//! The embedded default as a process, on ports of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::net::TcpStream;

use crate::processes::{Coordinator, Process, Spec, free_port};

/// How long it may take until its gateway listens.
const READY_MAX: Duration = Duration::from_secs(30);

/// What has a port there, besides the coordinator and the gateway.
const OTHERS: [&str; 7] = ["metrics", "stock", "coupon", "order", "template", "business-log", "issuing"];

/// One that runs. Killed when it is dropped.
#[derive(Debug)]
pub struct Platform {
    /// Its process.
    pub process: Process,
    /// Where its gateway listens.
    pub gateway: SocketAddr,
    /// Its coordinator.
    pub coordinator: Coordinator,
    data: PathBuf,
}

impl Platform {
    /// Starts one with all its files in `data` and these flags, and waits until its gateway listens. It has done
    /// nothing by then, unless there are files of an earlier one.
    ///
    /// # Errors
    /// When it is not built, or does not get ready.
    pub async fn start(data: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        let mut spec = Spec::new("platform", "tercet-platform", "tercet-platform", data)?;
        spec = spec.with("--seconds", "0").with("--data", data);
        let address = || Ok::<_, anyhow::Error>(SocketAddr::from(([127, 0, 0, 1], free_port()?)));
        let (gateway, coordinator, admin) = (address()?, address()?.to_string(), address()?.to_string());
        spec = spec.with("--gateway", gateway.to_string());
        spec = spec.with("--coordinator", &coordinator).with("--admin", &admin);
        for name in OTHERS {
            spec = spec.with(&format!("--{name}"), address()?.to_string());
        }
        let spec = flags.iter().fold(spec, |spec, flag| spec.word(flag));
        let mut process = spec.start()?;
        let begun = Instant::now();
        while TcpStream::connect(gateway).await.is_err() {
            process.check()?;
            if begun.elapsed() > READY_MAX {
                bail!("the platform does not get ready");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let coordinator = Coordinator::connect(&coordinator, &admin)?;
        Ok(Self { process, gateway, coordinator, data: data.into() })
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
