//! Brokers of a run's own: made, started, killed and started again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;

use crate::processes::{Process, Spec, free_address};

/// How long a broker may take until it listens.
const READY_MAX: Duration = Duration::from_secs(60);

/// Where Java may be.
const PLACES: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

/// Small and quick to start.
const JAVA: [&str; 6] = [
    "-Xms192m",
    "-Xmx192m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
];

/// One node that is broker and controller. What it acknowledges survives its SIGKILL: it is in the system's memory.
#[derive(Debug)]
pub struct Broker {
    /// Its process.
    pub process: Process,
    /// `host:port`, the same after every start.
    pub address: String,
}

impl Broker {
    /// Starts a broker with its data in `folder`; `None` where its jars are not there.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some(jars) = jars()? else { return Ok(None) };
        let (port, controller) = (free_address()?.port(), free_address()?.port());
        let address = format!("127.0.0.1:{port}");
        let data = folder.join("kafka");
        let properties = folder.join("kafka.properties");
        std::fs::write(&properties, settings(port, controller, &data))?;
        let classes = format!("{}/*", jars.display());
        let java = java()?;
        let log = folder.join("kafka-format.log");
        let format = Command::new(&java)
            .args(JAVA)
            .args(["-cp", &classes, "kafka.tools.StorageTool", "format", "--cluster-id", "dGVyY2V0LXRlc3RzLi4uLg"])
            .arg("--config")
            .arg(&properties)
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .status()?;
        if !format.success() {
            bail!("the broker's folder can not be made: {}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        let mut spec = Spec {
            name: "kafka".into(),
            program: java,
            arguments: JAVA.iter().map(Into::into).collect(),
            environment: Vec::new(),
            log: folder.join("kafka.log"),
        };
        spec = spec.word("-cp").word(&classes).word("kafka.Kafka").word(&properties.to_string_lossy());
        let mut broker = Self { process: spec.start()?, address };
        broker.wait_ready().await?;
        Ok(Some(broker))
    }

    /// Waits until it listens.
    ///
    /// # Errors
    /// When it has ended, or a minute is not enough.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(&self.address).await.is_err() {
            self.process.check()?;
            if begun.elapsed() > READY_MAX {
                bail!("kafka does not get ready");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

fn settings(port: u16, controller: u16, data: &Path) -> String {
    let data = data.display();
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=2097152
"
    )
}

fn java() -> anyhow::Result<PathBuf> {
    let found = PLACES.iter().map(|place| Path::new(place).join("java")).find(|path| path.is_file());
    found.context("Java is not installed: Debian's package is default-jre-headless")
}

/// The folder of the broker's jars, which `integration/test.sh` fetches beside what cargo builds.
fn jars() -> anyhow::Result<Option<PathBuf>> {
    let own = std::env::current_exe().context("the own program can not be found")?;
    Ok(own.ancestors().map(|folder| folder.join("kafka/libs")).find(|folder| folder.is_dir()))
}
