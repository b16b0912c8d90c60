//! The gateway: HTTP and JSON for users, shops and operators, in front of the services of the coupon platform.
//!
//! It keeps nothing but what never changes ([`terms`]): callers are known by their tokens ([`token`]), what they may
//! ask is in the table of routes ([`routes`]), and what they are told comes from the services. Errors are those of the
//! catalogue in [`tercet_rules`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tercet_secure::server::Protocol;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::info;

mod api;
pub mod config;
mod cors;
mod front;
pub mod limits;
mod malformed;
mod metrics;
mod openapi;
mod problem;
mod rates;
mod route;
mod routes;
mod schema;
mod server;
mod services;
mod terms;
pub mod token;
mod trace;
mod wire;

use config::Config;
use front::Front;
use server::Patience;
use services::Services;
pub use services::Within;
use token::{Source, Verifier};

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certificates, keys or addresses of the settings can not be used, or a port would be open to everyone: mend the
    /// setting that the error names.
    #[error(transparent)]
    Security(#[from] tercet_secure::Error),
    /// The keys of tokens can not be read from their URL: reach it, or mend what is there.
    #[error("jwks: {url}: {fault}")]
    Keys {
        /// Where they are.
        url: String,
        /// What is wrong.
        fault: String,
    },
    /// The own port can not be opened: free it, or choose another.
    #[error("port {address} can not be opened")]
    Port {
        /// The address.
        address: SocketAddr,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
}

/// Runs the gateway until `shutdown` ends: then it takes no further request, answers those under way and returns.
/// Services in `within` are called without a connection. `ready` is told where it listens. A recorder of metrics has to
/// be installed before.
///
/// # Errors
/// Those of [`Error`]. A service that can not be reached is none: its routes answer SYSTEM_BUSY until it is there.
pub async fn run(
    config: Config,
    within: Within,
    ready: oneshot::Sender<SocketAddr>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    config.own_ports.check("listen", config.listen)?;
    let tls = config.own_ports.load(Protocol::Http1)?;
    let services = Services::new(&config, within)?;
    let verifier = Verifier::new(Source::open(&config.tokens).await?, &config.tokens)?;
    metrics::describe();
    let front = Arc::new(Front::new(routes::table(), services, verifier, &config));
    let port = |source| Error::Port { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(port)?;
    let address = listener.local_addr().map_err(port)?;
    info!(%address, "the gateway is open");
    // Whoever does not listen does not want to know.
    let _ = ready.send(address);
    let patience = Patience {
        head: Duration::from_millis(config.client_timeout_ms),
        grace: Duration::from_millis(config.stop_grace_ms),
    };
    server::serve(listener, tls, front, shutdown, patience).await;
    Ok(())
}
