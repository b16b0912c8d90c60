//! The coordinator and the services in one process: each has a thread, a database file and a port of its own, and they
//! speak over their sockets as they would apart. Only the gateway calls the routes of the services as they are: what
//! users ask costs neither a connection nor a hand-over to another thread.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::{Sqlite, SqlitePool};
use tercet::client::{Client, Options};
use tercet::fence::Dialect as _;
use tercet::service::Service;
use tercet_coordinator::config::{Config, LogFormat};
use tercet_coupon::Shards;
use tercet_coupon::issuing::{self, Peers};
use tercet_coupon::redemption;
use tercet_events::bus::{Bus, Group};
use tercet_gateway::Within;
use tercet_proto::admin::v1::GetStatisticsRequest;
use tercet_proto::admin::v1::admin_client::AdminClient;
use tercet_secure::client::Credentials;
use tercet_secure::{page, server};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::service::Routes;
use tonic::transport::Channel;

/// Everything has to be connected within this time.
const READY_MAX: Duration = Duration::from_secs(10);

/// Between two looks whether it is.
const POLL: Duration = Duration::from_millis(5);

/// The services of the platform.
pub const SERVICES: [&str; 7] = [
    tercet_stock::SERVICE,
    tercet_coupon::SERVICE,
    tercet_order::SERVICE,
    tercet_coupon_template::SERVICE,
    tercet_business_log::SERVICE,
    issuing::SERVICE,
    redemption::SERVICE,
];

/// Those of them that take part in no transaction.
const ALONE: [&str; 4] =
    [tercet_coupon_template::SERVICE, tercet_business_log::SERVICE, issuing::SERVICE, redemption::SERVICE];

/// Who is told what the services tell, within this process.
const GROUPS: [Group; 4] = [
    tercet_order::coupon_use::GROUP,
    tercet_business_log::writer::GROUP,
    tercet_coupon_template::usage::GROUP,
    issuing::occasions::GROUP,
];

/// Where everything listens and lives, and how much it does at a time.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Folder of all databases, made if it is not there.
    pub data: PathBuf,
    /// The coordinator's port.
    pub coordinator: SocketAddr,
    /// The coordinator's port for operators.
    pub admin: SocketAddr,
    /// The services' own ports, in the order of [`SERVICES`].
    pub services: [SocketAddr; SERVICES.len()],
    /// The gateway's address for HTTP.
    pub gateway: SocketAddr,
    /// Where Prometheus reads.
    pub metrics: SocketAddr,
    /// Most calls of one local transaction: see [`Service::batch_max`].
    pub batch_max: u32,
}

impl Addresses {
    /// Each by the flag that names it.
    fn by_flag(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let services = ["--stock", "--coupon", "--order", "--template", "--business-log", "--issuing", "--redemption"];
        let others = [
            ("--coordinator", self.coordinator),
            ("--admin", self.admin),
            ("--gateway", self.gateway),
            ("--metrics", self.metrics),
        ];
        others.into_iter().chain(services.into_iter().zip(self.services))
    }

    /// Whether each is of this machine alone, as it has to be where nothing has TLS.
    ///
    /// # Errors
    /// When one is not: by the flag that names it.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.by_flag().find(|(_, address)| !address.ip().is_loopback()) {
            None => Ok(()),
            Some((flag, address)) => bail!(
                "{flag} {address} is not loopback, and this program is for whoever is on this machine: \
                 to serve others, start the coordinator, each service and the gateway apart, with TLS"
            ),
        }
    }

    /// The coordinator as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.coordinator)
    }

    /// The coordinator's port for operators, as a URL.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// The keys that sign tokens for the gateway, made if they are not there.
    pub fn jwks(&self) -> PathBuf {
        self.data.join("jwks.json")
    }

    /// The coordinator as operators see it. To be called within a tokio runtime.
    ///
    /// # Errors
    /// None: what an address shows is a URL.
    pub fn operate(&self) -> anyhow::Result<AdminClient<Channel>> {
        Ok(AdminClient::new(Credentials::default().target(&self.admin_url())?.connect_lazy()))
    }

    /// The database file of a service.
    pub fn database(&self, service: &str) -> PathBuf {
        // They issue and redeem what the coupon service keeps.
        let is_coupons = [issuing::SERVICE, redemption::SERVICE].contains(&service);
        let owner = if is_coupons { tercet_coupon::SERVICE } else { service };
        self.data.join(format!("{owner}.db"))
    }

    /// A service's own port, as a URL.
    fn own_url(&self, service: &str) -> anyhow::Result<String> {
        let at = SERVICES.iter().position(|name| *name == service).context("there is such a service")?;
        Ok(format!("http://{}", self.services[at]))
    }
}

/// All that runs. It stops when it is told to, or when a part of it fails.
pub struct Running {
    /// Where.
    pub addresses: Addresses,
    /// Its metrics.
    pub metrics: PrometheusHandle,
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    failures: mpsc::UnboundedReceiver<anyhow::Error>,
}

/// Starts everything and waits until each service is ready: most of them need a session with the coordinator for it.
///
/// # Errors
/// When a port or a database can not be had, or the services do not connect in time.
pub async fn start(addresses: Addresses) -> anyhow::Result<Running> {
    addresses.check()?;
    let metrics = exporter(addresses.metrics).await?;
    let (stop, stopping) = watch::channel(false);
    let (failed, failures) = mpsc::unbounded_channel();
    let mut running = Running { addresses: addresses.clone(), metrics, threads: Vec::new(), stop, failures };
    let (ready, is_ready) = oneshot::channel();
    let config = coordinator_config(&addresses);
    let stopped = stopping.clone();
    running.thread("coordinator", failed.clone(), async move {
        Ok(tercet_coordinator::run(config, ready, told(stopped)).await?)
    })?;
    if is_ready.await.is_err() {
        return Err(running.failure().await);
    }
    let bus = Bus::in_process(&GROUPS);
    let within = Arc::new(Mutex::new(Within::default()));
    for (service, listen) in SERVICES.into_iter().zip(addresses.services) {
        let (addresses, bus, stopped) = (addresses.clone(), bus.clone(), stopping.clone());
        let within = Arc::clone(&within);
        running.thread(service, failed.clone(), async move {
            let made = make(service, &addresses, &bus).await?.coordinator(addresses.url()).listen(listen);
            note(&mut within.lock().unwrap_or_else(PoisonError::into_inner), service, made.own_routes());
            let made = made.version(env!("CARGO_PKG_VERSION")).batch_max(addresses.batch_max);
            Ok(made.run(told(stopped)).await?)
        })?;
    }
    let connected = tokio::time::timeout(READY_MAX, connected(&addresses));
    let failure = tokio::select! {
        connected = connected => match connected {
            Ok(connected) => connected.err(),
            Err(_) => Some(anyhow::anyhow!("the services did not connect to the coordinator within {READY_MAX:?}")),
        },
        failure = running.failures.recv() => failure,
    };
    if let Some(error) = failure {
        running.stop();
        return Err(error);
    }
    // The last, so that whom it lets in finds the services.
    let config = gateway_config(&addresses)?;
    let within = within.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (ready, is_ready) = oneshot::channel();
    running.thread("gateway", failed, async move {
        Ok(tercet_gateway::run(config, within, ready, told(stopping)).await?)
    })?;
    if is_ready.await.is_err() {
        return Err(running.failure().await);
    }
    Ok(running)
}

impl Running {
    fn thread(
        &mut self,
        name: &'static str,
        failed: mpsc::UnboundedSender<anyhow::Error>,
        work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) -> anyhow::Result<()> {
        let run = move || {
            // One thread each: a runtime of two costs more of both cores than it brings.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(work));
            if let Err(error) = result {
                // Nobody listens any more only when everything stops anyway.
                drop(failed.send(error.context(name)));
            }
        };
        self.threads.push(std::thread::Builder::new().name(name.into()).spawn(run)?);
        Ok(())
    }

    /// The first failure of a part; never without one.
    pub async fn failure(&mut self) -> anyhow::Error {
        match self.failures.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Stops everything: what is under way ends first.
    pub fn stop(self) {
        self.stop.send(true).ok();
        for thread in self.threads {
            // A thread that panicked has said so on standard error.
            drop(thread.join());
        }
    }
}

async fn told(mut stop: watch::Receiver<bool>) {
    // The sender is gone only when the process ends.
    drop(stop.changed().await);
}

fn coordinator_config(addresses: &Addresses) -> Config {
    Config {
        listen: addresses.coordinator,
        admin_listen: addresses.admin,
        security: server::Settings::default(),
        tokens: None,
        insecure_no_tokens: false,
        metrics: None,
        data: addresses.data.join("coordinator"),
        node: 0,
        live_max: 200_000,
        scanner_cron: "* * * * * *".into(),
        retention_seconds: 3_600,
        disk_reserve_mib: 64,
        retention_max: 1_000_000,
        stop_grace_ms: 2_000,
        log: LogFormat::Text,
        log_filter: String::new(),
    }
}

/// A gateway for whoever is on this machine: he may ask as often as he likes, and claim as often as anybody.
fn gateway_config(addresses: &Addresses) -> anyhow::Result<tercet_gateway::config::Config> {
    let jwks = addresses.jwks();
    if !jwks.exists() {
        let keys = tercet_gateway::token::new_keys("first")?;
        // Whoever reads them may be anyone.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&jwks);
        let written = file.and_then(|mut file| file.write_all(keys.as_bytes()));
        written.with_context(|| format!("can not write {}", jwks.display()))?;
    }
    let (listen, jwks) = (addresses.gateway.to_string(), jwks.display().to_string());
    let template = addresses.own_url(tercet_coupon_template::SERVICE)?;
    let issuing = addresses.own_url(issuing::SERVICE)?;
    let log = addresses.own_url(tercet_business_log::SERVICE)?;
    let redemption = addresses.own_url(redemption::SERVICE)?;
    let stock = addresses.own_url(tercet_stock::SERVICE)?;
    let order = addresses.own_url(tercet_order::SERVICE)?;
    let services = [
        ["--template", &template, "--issuing", &issuing, "--order", &order].as_slice(),
        &["--business-log", &log, "--redemption", &redemption, "--stock", &stock],
    ]
    .concat();
    let flags = [&["--listen", &listen, "--jwks", &jwks, "--address-per-second", "0"], &services[..]].concat();
    Ok(tercet_gateway::config::Config::from_flags(&flags)?)
}

/// Lets the gateway call the service's routes, where it does.
fn note(within: &mut Within, service: &str, routes: Routes) {
    let place = match service {
        tercet_coupon_template::SERVICE => &mut within.template,
        issuing::SERVICE => &mut within.issuing,
        tercet_business_log::SERVICE => &mut within.business_log,
        redemption::SERVICE => &mut within.redemption,
        tercet_stock::SERVICE => &mut within.stock,
        tercet_order::SERVICE => &mut within.order,
        _ => return,
    };
    *place = Some(routes);
}

/// Opens a service's database.
///
/// # Errors
/// When it can not be opened.
pub async fn open(file: &Path) -> anyhow::Result<SqlitePool> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("can not write {}", folder.display()))?;
    }
    Sqlite::open(&format!("sqlite://{}", file.display())).await.with_context(|| file.display().to_string())
}

async fn make(service: &str, addresses: &Addresses, bus: &Bus) -> anyhow::Result<Service<Sqlite>> {
    let file = addresses.database(service);
    let (pool, bus) = (open(&file).await?, Some(bus));
    let made = match service {
        tercet_stock::SERVICE => tercet_stock::service(pool, bus).await.map_err(anyhow::Error::from),
        tercet_coupon::SERVICE => tercet_coupon::service(Shards::one(pool), bus).await.map_err(anyhow::Error::from),
        tercet_order::SERVICE => {
            let redemption = addresses.own_url(redemption::SERVICE)?;
            let redemption = Credentials::default().target(&redemption)?.connect_lazy();
            let service = tercet_order::service(pool.clone(), bus).await.map_err(anyhow::Error::from);
            service.map(|service| tercet_order::closing(service, pool, redemption))
        }
        tercet_coupon_template::SERVICE => {
            tercet_coupon_template::service(pool, bus).await.map_err(anyhow::Error::from)
        }
        tercet_business_log::SERVICE => {
            let settings = tercet_business_log::Settings::default();
            tercet_business_log::service(pool, bus, settings).await.map_err(anyhow::Error::from)
        }
        issuing::SERVICE => {
            let peers = peers(addresses, issuing::limits::CALL_TIMEOUT)?;
            let settings = issuing::Settings::default();
            issuing::service(Shards::one(pool), peers, settings, bus).await.map_err(anyhow::Error::from)
        }
        redemption::SERVICE => {
            let peers = peers(addresses, redemption::limits::CALL_TIMEOUT)?;
            redemption::service(Shards::one(pool), peers, redemption::Settings::default())
                .await
                .map_err(anyhow::Error::from)
        }
        other => bail!("there is no service {other}"),
    };
    made.with_context(|| file.display().to_string())
}

/// Whom issuing and redemption ask; the coordinator for so long.
fn peers(addresses: &Addresses, timeout: Duration) -> anyhow::Result<Peers> {
    let templates = addresses.own_url(tercet_coupon_template::SERVICE)?;
    Ok(Peers {
        client: Client::connect([addresses.url()], Options { timeout, ..Options::default() })?,
        templates: Credentials::default().target(&templates)?.connect_lazy(),
    })
}

async fn exporter(address: SocketAddr) -> anyhow::Result<PrometheusHandle> {
    server::Settings::default().check("metrics", address)?;
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("can not listen on {address} for metrics"))?;
    let recorder = tercet_coordinator::metrics::exporter()?.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).ok().context("another metrics recorder is installed")?;
    tercet_coordinator::metrics::describe();
    let shown = handle.clone();
    tokio::spawn(page::serve(listener, None, "/metrics", move || shown.render()));
    Ok(handle)
}

/// Ends when every service has a session, or an open port where it needs none.
async fn connected(addresses: &Addresses) -> anyhow::Result<()> {
    let (alone, participants): (Vec<_>, Vec<_>) =
        SERVICES.into_iter().zip(addresses.services).partition(|(service, _)| ALONE.contains(service));
    for (_, address) in alone {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
    }
    let mut admin = addresses.operate()?;
    loop {
        let statistics = admin.get_statistics(GetStatisticsRequest::default()).await?.into_inner();
        let has = |(service, _): &(&str, _)| statistics.participants.iter().any(|own| own.service == *service);
        if participants.iter().all(has) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}
