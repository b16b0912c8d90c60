//! A Prometheus of a test's own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tercet_integration::processes::{Process, Spec, free_address};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long it may take to get ready.
const READY_MAX: Duration = Duration::from_secs(20);

/// A program of the Debian package prometheus.
pub(super) fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{program} is missing: integration/test.sh fetches it"))
}

/// A running Prometheus. It is killed when it is dropped.
pub(super) struct Prometheus {
    _process: Process,
    address: SocketAddr,
}

/// A rule as Prometheus has read it.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) query: String,
    pub(super) health: String,
    pub(super) error: String,
}

impl Prometheus {
    /// Starts one with the configuration and the rules of `charts`, but quicker: it scrapes a coordinator, a whole
    /// platform and a gateway and looks at the rules twice a second, and no alert waits before it fires.
    pub(super) async fn start(
        folder: &Path,
        [coordinator, platform, gateway]: [SocketAddr; 3],
        charts: &Path,
    ) -> anyhow::Result<Self> {
        let rules = std::fs::read_to_string(charts.join("alerts.yaml"))?;
        let rules: Vec<_> = rules.lines().filter(|line| !line.trim().starts_with("for: ")).collect();
        std::fs::write(folder.join("alerts.yaml"), rules.join("\n"))?;
        let config = std::fs::read_to_string(charts.join("provisioning/prometheus.yml"))?;
        let quick =
            config.replace(": 15s", ": 500ms").replace("127.0.0.1:7079", &format!("{coordinator}\", \"{platform}"));
        let quick = quick.replace("127.0.0.1:7078", &gateway.to_string());
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, quick.replace("../alerts.yaml", "alerts.yaml"))?;
        let address = free_address()?;
        let spec = Spec {
            name: "prometheus".into(),
            program: find("prometheus"),
            arguments: Vec::new(),
            environment: Vec::new(),
            log: folder.join("prometheus.log"),
        };
        let spec = spec
            .with("--config.file", config)
            .with("--storage.tsdb.path", folder.join("prometheus"))
            .with("--web.listen-address", address.to_string())
            .with("--log.level", "warn");
        let mut process = spec.start()?;
        let begun = Instant::now();
        while get(address, "/-/ready").await.is_err() {
            process.check()?;
            if begun.elapsed() > READY_MAX {
                bail!("it does not get ready");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { _process: process, address })
    }

    async fn api(&self, path: &str) -> anyhow::Result<Value> {
        let answer: Value = serde_json::from_str(&get(self.address, &format!("/api/v1/{path}")).await?)?;
        if answer["status"] != "success" {
            bail!("{path}: {answer}");
        }
        Ok(answer["data"].clone())
    }

    /// The values of an expression at this moment, with the service that each is about.
    pub(super) async fn query(&self, expression: &str) -> anyhow::Result<Vec<(String, f64)>> {
        let data = self.api(&format!("query?query={}", encoded(expression))).await?;
        let samples = data["result"].as_array().with_context(|| format!("{expression} is no vector: {data}"))?;
        let samples = samples.iter().map(|sample| {
            let service = sample["metric"]["service"].as_str().unwrap_or_default().to_owned();
            let value = sample["value"][1].as_str().unwrap_or_default();
            Ok((service, value.parse().with_context(|| format!("{expression}: {sample}"))?))
        });
        samples.collect()
    }

    /// The rules, in their order.
    pub(super) async fn rules(&self) -> anyhow::Result<Vec<Rule>> {
        let data = self.api("rules?type=alert").await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let groups = data["groups"].as_array().context("groups")?.iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let rules = rules.map(|rule| Rule {
            name: text(&rule["name"]),
            query: text(&rule["query"]),
            health: text(&rule["health"]),
            error: text(&rule["lastError"]),
        });
        Ok(rules.collect())
    }

    /// Alerts that fire, and the service that each is about.
    pub(super) async fn firing(&self) -> anyhow::Result<Vec<(String, String)>> {
        let data = self.api("alerts").await?;
        let alerts = data["alerts"].as_array().context("alerts")?.iter().filter(|alert| alert["state"] == "firing");
        let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
        Ok(alerts.map(|alert| (label(alert, "alertname"), label(alert, "service"))).collect())
    }
}

/// The body of an answer. HTTP/1.0, so that it comes in one piece.
pub(super) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let answer = String::from_utf8(bytes)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head and a body")?;
    // What is wrong with a question stands in the body.
    let status = head.split(' ').nth(1).unwrap_or_default();
    if ["200", "400", "422"].contains(&status) { Ok(body.to_owned()) } else { bail!("{path}: {head}") }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}
