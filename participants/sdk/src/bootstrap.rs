//! What the binary of a service is besides its service: settings, logs, metrics, signals and the exit code.
//!
//! ```text
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> ExitCode {
//!     bootstrap::run("stock", env!("CARGO_PKG_VERSION"), async |config| {
//!         let pool = config.open::<Sqlite>().await?;
//!         config.serve(stock::service(pool).await?).await
//!     })
//!     .await
//! }
//! ```

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use sqlx::Pool;
use tercet_secure::client::Credentials;
use tercet_secure::server::Protocol;
use tercet_secure::{client, page, server};
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tracing::{error, info};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::client::{Client, Options};
use crate::fence::Dialect;
use crate::service::{BATCH_CALLS_MAX, CONNECT_MAX, Service};

/// Seconds: from a commit on a fast disk to one that a person notices.
const SECONDS: [f64; 12] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];
/// Rows of one batch.
const ROWS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines, an object a line.
    Json,
}

/// The settings of a service's process: flags, or environment variables.
#[derive(Clone, Debug, Parser)]
pub struct Config {
    /// URL of a coordinator; several with commas between them
    #[arg(long, env = "TERCET_COORDINATOR", value_delimiter = ',', default_value = "http://127.0.0.1:7070")]
    pub coordinator: Vec<String>,
    /// URL of the database, such as sqlite://stock.db; several with commas between them where a service is spread
    #[arg(long, env = "TERCET_DATABASE", value_delimiter = ',', required = true)]
    pub database: Vec<String>,
    /// Most calls of the coordinator that are executed in one local transaction; with 1 each has one of its own
    #[arg(long, env = "TERCET_BATCH_MAX", default_value_t = BATCH_CALLS_MAX,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_CALLS_MAX)))]
    pub batch_max: u32,
    /// Own address for gRPC health and reflection; none when left out
    #[arg(long, env = "TERCET_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Address for Prometheus to read metrics from; none when left out
    #[arg(long, env = "TERCET_METRICS")]
    pub metrics: Option<SocketAddr>,
    /// How the own ports are secured.
    #[command(flatten)]
    pub own_ports: server::Settings,
    /// Take calls of clients without a certificate on other addresses than loopback
    #[arg(long, env = "TERCET_INSECURE_ANY_CALLER")]
    pub insecure_any_caller: bool,
    /// How the connections to coordinators are.
    #[command(flatten)]
    pub security: client::Settings,
    /// Text for people, JSON for machines
    #[arg(long, env = "TERCET_LOG", value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,
    /// What is logged: a level, or directives such as info,sqlx=warn
    #[arg(long, env = "TERCET_LOG_FILTER", default_value = "info")]
    pub log_filter: String,
    /// The program's version, for [`Config::serve`].
    #[arg(skip)]
    pub version: String,
}

impl Config {
    /// A pool of the database, of a service that has one.
    ///
    /// # Errors
    /// When the database can not be opened, or several are named.
    pub async fn open<Db: Dialect>(&self) -> anyhow::Result<Pool<Db>> {
        let [url] = &*self.database else {
            anyhow::bail!("{} databases are named: this service has one", self.database.len());
        };
        open(url).await
    }

    /// A pool of each database, in their order.
    ///
    /// # Errors
    /// When one can not be opened.
    pub async fn open_all<Db: Dialect>(&self) -> anyhow::Result<Vec<Pool<Db>>> {
        let mut pools = Vec::with_capacity(self.database.len());
        for url in &self.database {
            pools.push(open(url).await?);
        }
        Ok(pools)
    }

    /// A connection to another service at `http://HOST:PORT` or `https://HOST:PORT`, made at the first call and again
    /// after each loss, within two seconds. What a call may take counts from then on: bound the whole of it yourself.
    ///
    /// # Errors
    /// When it is no such address, or what secures it can not be used.
    pub fn channel(&self, url: &str) -> anyhow::Result<Channel> {
        let target = Credentials::load(&self.security)?.target(url)?;
        Ok(target.with(|endpoint| endpoint.connect_timeout(CONNECT_MAX)).connect_lazy())
    }

    /// A client of the coordinators.
    ///
    /// # Errors
    /// When an address can not be read, or what secures it can not be used.
    pub fn client(&self, timeout: Duration) -> anyhow::Result<Client> {
        let options = Options { timeout, security: self.security.clone(), ..Options::default() };
        Ok(Client::connect(&self.coordinator, options)?)
    }

    /// Runs the service with these settings until the process is told to stop.
    ///
    /// # Errors
    /// Those of [`Service::run`].
    pub async fn serve<Db: Dialect>(self, service: Service<Db>) -> anyhow::Result<()> {
        let mut service = self.coordinator.into_iter().fold(service.version(self.version), Service::coordinator);
        service = service.batch_max(self.batch_max);
        if let Some(address) = self.listen {
            service = service.listen(address).own_port(self.own_ports).any_caller(self.insecure_any_caller);
        }
        service = service.security(self.security);
        Ok(service.run(stop_signal()?).await?)
    }

    /// The part of the database's URL that tells which kind it is, such as `sqlite`.
    pub fn scheme(&self) -> &str {
        self.database.first().and_then(|url| url.split(':').next()).unwrap_or_default()
    }
}

async fn open<Db: Dialect>(url: &str) -> anyhow::Result<Pool<Db>> {
    // What stands before an @ is a name and a password.
    let place = url.rsplit('@').next().unwrap_or_default();
    Db::open(url).await.map_err(|error| anyhow::anyhow!("database {place}: {error}"))
}

/// No settings of the service's own.
#[derive(Clone, Copy, Debug, Args)]
struct Nothing {}

#[derive(Parser)]
struct All<Own: Args> {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    own: Own,
}

/// Reads the settings, starts logs and metrics, and runs `start` to its end. Settings that can not be read end the
/// process with their error, and so does `--help` with the help.
pub async fn run(
    name: &'static str,
    version: &'static str,
    start: impl AsyncFnOnce(Config) -> anyhow::Result<()>,
) -> ExitCode {
    run_with(name, version, async |config, Nothing {}| start(config).await).await
}

/// As [`run`], for a service that has settings of its own besides.
pub async fn run_with<Own: Args>(
    name: &'static str,
    version: &'static str,
    start: impl AsyncFnOnce(Config, Own) -> anyhow::Result<()>,
) -> ExitCode {
    let about = format!("The service {name}, a participant of Tercet");
    let matches = All::<Own>::command().name(name).version(version).about(about).get_matches();
    let All { mut config, own } = All::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    version.clone_into(&mut config.version);
    let started = match (logs(config.log, &config.log_filter), config.metrics) {
        (Ok(()), Some(address)) => metrics(address, &config.own_ports).await,
        (begun, _) => begun,
    };
    let result = match started {
        Ok(()) => start(config, own).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            // The alternate form has the causes on the same line.
            error!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the process's logs, on standard error.
///
/// # Errors
/// When the filter is none (info is logged then), or logs have begun already.
pub fn logs(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let (filter, wrong) = match filter.parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(error) => {
            let wrong = anyhow::anyhow!("log-filter {filter:?}: {error}");
            (Targets::new().with_default(LevelFilter::INFO), Some(wrong))
        }
    };
    let colours = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
    let logs = logs.with_writer(std::io::stderr).with_ansi(colours);
    let begun = match format {
        LogFormat::Text => logs.finish().with(filter).try_init(),
        LogFormat::Json => logs.json().finish().with(filter).try_init(),
    };
    begun.map_err(|error| anyhow::anyhow!("logs: {error}"))?;
    wrong.map_or(Ok(()), Err)
}

/// Starts the process's metrics, and shows them to Prometheus on a port of their own.
///
/// # Errors
/// When the port can not be opened or would be open to everyone, or metrics have begun already.
pub async fn metrics(address: SocketAddr, own_ports: &server::Settings) -> anyhow::Result<()> {
    own_ports.check("metrics", address)?;
    let tls = own_ports.load(Protocol::Http1)?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| anyhow::anyhow!("metrics: can not listen on {address}: {error}"))?;
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_rows".into()), &ROWS)?
        .build_recorder();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder).map_err(|_| anyhow::anyhow!("another metrics recorder is installed"))?;
    tokio::spawn(page::serve(listener, tls, "/metrics", move || handle.render()));
    Ok(())
}

/// Ends when the process is asked to: SIGTERM, or Ctrl-C.
///
/// # Errors
/// When the system does not let the process listen.
#[cfg(unix)]
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Ends on Ctrl-C.
///
/// # Errors
/// Never here.
#[cfg(not(unix))]
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::time::timeout;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_neither_taken_nor_refused_is_given_up() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody accepts them, so that the system has no place for another.
        let mut waiting = Vec::new();
        while let Ok(connected) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
        }
        let config = Config::parse_from(["stock", "--database", "sqlite://stock.db"]);
        let mut client = HealthClient::new(config.channel(&format!("http://{address}")).unwrap());
        let answer = timeout(2 * CONNECT_MAX, client.check(HealthCheckRequest::default())).await;
        assert_eq!(answer.expect("it is given up").unwrap_err().code(), tonic::Code::Unavailable);
    }
}
