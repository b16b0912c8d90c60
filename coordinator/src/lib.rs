//! Tercet's coordinator: makes several services' local transactions end the same way, whatever crashes.
//!
//! [`run`] is the process on its embedded store; [`serve`] is the same on any [`store::Store`]. `ARCHITECTURE.md`
//! beside this crate tells where what happens.

pub mod api;
pub mod audit;
pub mod auditor;
pub mod caller;
pub mod canary;
pub mod clock;
pub mod config;
#[cfg(feature = "console")]
pub mod console;
pub mod controls;
pub mod door;
pub mod driver;
pub mod explain;
pub mod folder;
pub mod limits;
pub mod live;
mod look;
pub mod metrics;
pub mod names;
pub mod node;
pub mod operate;
pub mod outage;
pub mod plan;
pub mod request;
pub mod scanner;
pub mod server;
pub mod session;
pub mod space;
pub mod store;
mod text;
pub mod tokens;
pub mod turnstile;
pub mod writer;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_cron_scheduler::JobScheduler;
use tonic_health::ServingStatus;
use tracing::{info, warn};

use crate::canary::Canaries;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, LEASE_MS};
use crate::door::Door;
use crate::driver::{Driver, Gauges, Settings};
use crate::request::Input;
use crate::scanner::{Looks, Scanner};
use crate::server::{Addresses, Ports, Security, Services, report};
use crate::session::Sessions;
use crate::store::sqlite::SqliteStore;
use crate::store::{Owner, Store};

/// How long connections may take to close once there is no driver any more.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// Why a coordinator did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port can not be had: another process has it, or the address is not this machine's.
    #[error("{setting}: can not listen on {address}: {source}")]
    Listen {
        /// Which setting names it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A store of one process is in use. Nothing was changed.
    #[error("another process runs a coordinator on the folder {}", .folder.display())]
    Held {
        /// The folder of its data.
        folder: PathBuf,
    },
    /// A port can not be secured as it is asked for, or would be open to everyone.
    #[error(transparent)]
    Security(#[from] tercet_secure::Error),
    /// The store does not open, or has ended this node.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The scanner's schedule can not be read.
    #[error("scanner_cron: {0:?} is not a cron expression with seconds first")]
    Schedule(String),
    /// The driver has failed, which it never should.
    #[error("the driver failed: what was under way is due at the next start")]
    Driver,
    /// The server has failed.
    #[error("the gRPC server failed: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs a coordinator on its embedded store until `shutdown` ends. `ready` hears the addresses once calls are served.
///
/// # Errors
/// When it can not start: its folder is another process's, say.
pub fn run(
    config: Config,
    ready: oneshot::Sender<Addresses>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> BoxFuture<'static, Result<(), Error>> {
    run_embedded(config, ready, shutdown.boxed())
}

/// Without types, so that a coordinator is compiled here and not once more by each caller.
fn run_embedded(
    config: Config,
    ready: oneshot::Sender<Addresses>,
    shutdown: BoxFuture<'static, ()>,
) -> BoxFuture<'static, Result<(), Error>> {
    run_on_sqlite(config, ready, shutdown).boxed()
}

async fn run_on_sqlite(
    config: Config,
    ready: oneshot::Sender<Addresses>,
    shutdown: BoxFuture<'static, ()>,
) -> Result<(), Error> {
    let clock = SystemClock::start();
    let ports = Ports::open(&config).await?;
    // Before the store is touched, and until it is closed.
    let _held = folder::hold(&config.data).await?;
    let store = Arc::new(SqliteStore::open(&config.data.join("tercet.db"), clock.clone()).await?);
    let result = serve(Arc::clone(&store), clock, ports, config, ready, shutdown).await;
    // What was under way when the grace period ended may still hold the store; then the next start finds a longer log.
    if let Some(store) = Arc::into_inner(store) {
        store.close().await?;
    }
    result
}

/// Runs a coordinator on a store until `shutdown` ends, and then at most the grace period of the configuration longer.
///
/// # Errors
/// When it can not start, or when another start of the same node has taken over.
pub async fn serve<S: Store>(
    store: Arc<S>,
    clock: SystemClock,
    ports: Ports,
    config: Config,
    ready: oneshot::Sender<Addresses>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let security = Security::load(&config)?;
    let beat = store.beat(config.node, None, LEASE_MS).await?;
    clock.raise(beat.now);
    let owner = Owner { node: config.node, epoch: beat.epoch };
    let settings = Settings { owner, live_max: config.live_max, lease_end: writer::lease_end(beat.now, LEASE_MS) };
    let (inbox, inputs) = mpsc::channel(limits::INBOX_MAX);
    let sessions = Sessions::new(clock.clone());
    let driver = Driver::new(Arc::clone(&store), sessions.clone(), clock.clone(), settings, inputs);
    let gauges = driver.gauges();
    let (stop, stopping) = watch::channel(false);

    let tick = Arc::new(Notify::new());
    let (schedule, watchdog) = scanner::schedule(&config.scanner_cron, clock.clone(), Arc::clone(&tick))
        .await
        .map_err(|_| Error::Schedule(config.scanner_cron.clone()))?;
    let looks = Looks::new(&config.scanner_cron, owner).map_err(|_| Error::Schedule(config.scanner_cron.clone()))?;
    let (superseded, mut ended) = oneshot::channel();
    let parts = (Arc::clone(&store), clock.clone(), inbox.clone(), Arc::clone(&gauges), settings);
    let mut work = background(parts, &sessions, tick, &config, superseded);
    work.spawn(watchdog.run());
    work.spawn(look::run(clock.clone(), Arc::clone(&gauges), sessions.clone()));
    let mut driven = tokio::spawn(driver.run(stopping));

    let addresses = ports.addresses().unwrap_or(Addresses { listen: config.listen, admin: config.admin_listen });
    let coordinator =
        api::coordinator::Service::new(Arc::clone(&store), Door::new(inbox.clone(), gauges.clone(), sessions.clone()));
    let admin = api::admin::Service {
        coordinator: coordinator.clone(),
        store,
        sessions: sessions.clone(),
        inbox: inbox.clone(),
        gauges: Arc::clone(&gauges),
        settings,
        looks,
        started_at: clock.now(),
        clock: clock.clone(),
    };
    let readiness = (Arc::clone(&gauges), inbox.clone(), sessions.clone());
    let services = Services { coordinator, sessions: api::sessions::Service::new(sessions, inbox, clock), admin };
    let (health, health_service) = tonic_health::server::health_reporter();
    report(&health, ServingStatus::Serving).await;
    if let Some(watch) = space::Watch::new(&config, Arc::clone(&gauges)) {
        work.spawn(watch.run());
    }
    work.spawn(canary::watch_readiness(readiness, stop.subscribe(), health.clone()));
    let (close, closing) = oneshot::channel::<()>();
    let closing = closing.map(drop).shared();
    let mut server = std::pin::pin!(services.serve(ports, health_service, security, closing).fuse());
    // The server takes connections from the moment it is first polled; the ports hold them until then.
    ready.send(addresses).ok();
    info!(address = %addresses.listen, admin = %addresses.admin, node = config.node, epoch = beat.epoch, "ready");
    let result = tokio::select! {
        served = &mut server => served.map_err(Error::Serve),
        // Without a word only when there is no driver to tell of its lease any more.
        fatal = &mut ended => Err(fatal.map_or(Error::Driver, Error::Store)),
        _ = &mut driven => Err(Error::Driver),
        () = shutdown => Ok(()),
    };
    let result = if result.is_ok() {
        info!("stopping: nothing new, what is under way ends");
        stop.send(true).ok();
        report(&health, ServingStatus::NotServing).await;
        drain(&mut server, &mut driven, Duration::from_millis(config.stop_grace_ms)).await
    } else {
        result
    };
    // Without a driver every session ends, and every call that waits. Then the connections do, which would outlive
    // this.
    driven.abort();
    drop(close);
    drop(tokio::time::timeout(CLOSE_MAX, &mut server).await);
    end(driven, work, schedule).await;
    result
}

/// Starts what a coordinator does beside driving.
fn background<S: Store>(
    (store, clock, inbox, gauges, settings): (Arc<S>, SystemClock, mpsc::Sender<Input>, Arc<Gauges>, Settings),
    sessions: &Sessions,
    tick: Arc<Notify>,
    config: &Config,
    superseded: oneshot::Sender<store::Error>,
) -> JoinSet<()> {
    let mut work = JoinSet::new();
    if let Some(canaries) = Canaries::new(sessions.clone(), inbox.clone(), Arc::clone(&gauges)) {
        work.spawn(canaries.run());
    }
    work.spawn(sessions.clone().audit());
    work.spawn(node::purge(Arc::clone(&store), clock.clone(), config.retention_seconds, config.retention_max));
    let scanner = Scanner {
        store: Arc::clone(&store),
        clock: clock.clone(),
        services: connected(sessions),
        inbox: inbox.clone(),
        gauges: Arc::clone(&gauges),
        settings,
    };
    work.spawn(scanner.run(tick));
    work.spawn(node::Node { store, clock, inbox, gauges, settings }.run(superseded));
    work
}

/// Ends every task, so that nothing holds the store any more.
async fn end(driven: JoinHandle<()>, mut work: JoinSet<()>, mut schedule: JobScheduler) {
    if !driven.is_finished() {
        drop(driven.await);
    }
    work.shutdown().await;
    // It only ticks; there is nothing to save.
    drop(schedule.shutdown().await);
}

/// Lets what is under way end, for so long at most. Participants answer through the server, so it goes on meanwhile.
///
/// # Errors
/// [`Error::Driver`].
async fn drain(server: impl Future, driven: &mut JoinHandle<()>, grace: Duration) -> Result<(), Error> {
    let all = tokio::select! {
        _ = server => false,
        finished = tokio::time::timeout(grace, driven) => match finished {
            Ok(ended) => ended.map(|()| true).map_err(|_| Error::Driver)?,
            Err(_) => false,
        },
    };
    if all {
        info!("stopped: nothing is left under way");
    } else {
        warn!("stopped: what is left is due at the next start");
    }
    Ok(())
}

/// Whom the scanner may call at all.
fn connected(sessions: &Sessions) -> scanner::Services {
    let sessions = sessions.clone();
    Box::new(move || sessions.rooms())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_driver_that_fails_has_not_ended_well() {
        let grace = Duration::from_secs(10);
        let ended = |fails: bool| tokio::spawn(async move { assert!(!fails, "on purpose") });
        assert!(matches!(drain(std::future::pending::<()>(), &mut ended(true), grace).await, Err(Error::Driver)));
        assert!(drain(std::future::pending::<()>(), &mut ended(false), grace).await.is_ok());
    }
}
