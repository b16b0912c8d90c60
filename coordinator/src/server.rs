//! The coordinator's two gRPC ports: one for initiators and participants, one for operators.

use std::net::SocketAddr;
use std::sync::Arc;

use tercet_proto::admin::v1::admin_server::{self, AdminServer};
use tercet_proto::coordinator::v1::coordinator_server::{self, CoordinatorServer};
use tercet_proto::participant::v1::sessions_server::{self, SessionsServer};
use tercet_secure::server::{Protocol, Tls, incoming};
use tokio::net::TcpListener;
use tonic::transport::server::{Router, Server};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{self, Health, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_reflection::pb::v1::server_reflection_server;
use tower_layer::{Identity, Stack};
use tracing::info;

use crate::api::access::Access;
use crate::config::Config;
use crate::store::Store;
use crate::tokens::Tokens;
use crate::{Error, api, limits};

/// Both ports, taken and not served yet.
#[derive(Debug)]
pub struct Ports {
    /// For initiators and participants.
    pub listen: TcpListener,
    /// For operators.
    pub admin: TcpListener,
}

/// Where a coordinator can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// By initiators and participants.
    pub listen: SocketAddr,
    /// By operators.
    pub admin: SocketAddr,
}

impl Ports {
    /// Takes the ports of a configuration.
    ///
    /// # Errors
    /// When one of them can not be had.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            listen: open("listen", config.listen).await?,
            admin: open("admin_listen", config.admin_listen).await?,
        })
    }

    /// Where they are, whatever was asked for.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses { listen: self.listen.local_addr()?, admin: self.admin.local_addr()? })
    }
}

async fn open(setting: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { setting, address, source })
}

/// Who is let in on the two ports, and what is allowed there.
pub(crate) struct Security {
    tls: Option<Tls>,
    access: Access,
}

impl Security {
    /// Reads the files of a configuration.
    ///
    /// # Errors
    /// When they can not be used, or a port would be open to more than this machine and nobody has allowed that.
    pub(crate) fn load(config: &Config) -> Result<Self, tercet_secure::Error> {
        config.check()?;
        let tls = config.security.load(Protocol::Http2)?;
        let tokens = config.tokens.as_deref().map(Tokens::watch).transpose()?;
        if tokens.is_none() {
            info!("no tokens: whoever reaches a port may do everything");
        }
        Ok(Self { tls, access: Access(tokens.map(Arc::new)) })
    }
}

/// What is served on the two ports.
pub(crate) struct Services<S: Store> {
    pub coordinator: api::coordinator::Service<S>,
    pub sessions: api::sessions::Service,
    pub admin: api::admin::Service<S>,
}

impl<S: Store> Services<S> {
    /// Serves them until `closing` ends, and connections end with it.
    pub(crate) async fn serve(
        self,
        ports: Ports,
        health: HealthServer<impl Health>,
        security: Security,
        closing: impl Future<Output = ()> + Clone,
    ) -> Result<(), tonic::transport::Error> {
        let message = limits::MESSAGE_BYTES_MAX + limits::BODY_BYTES_MAX;
        let names = [coordinator_server::SERVICE_NAME, sessions_server::SERVICE_NAME];
        let public = server(&names, health.clone(), &security)
            .add_service(CoordinatorServer::new(self.coordinator).max_decoding_message_size(message))
            .add_service(SessionsServer::new(self.sessions).max_decoding_message_size(message))
            .serve_with_incoming_shutdown(incoming(ports.listen, security.tls.clone()), closing.clone());
        let admin = server(&[admin_server::SERVICE_NAME], health, &security)
            .add_service(AdminServer::new(self.admin))
            .serve_with_incoming_shutdown(incoming(ports.admin, security.tls), closing);
        tokio::try_join!(public, admin).map(|_| ())
    }
}

/// A port's server with health, and with reflection of what this port has.
fn server(
    names: &[&'static str],
    health: HealthServer<impl Health>,
    security: &Security,
) -> Router<Stack<Access, Identity>> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tercet_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let names = names.iter().chain(&[health_server::SERVICE_NAME, server_reflection_server::SERVICE_NAME]);
    let reflection = names.fold(reflection, |reflection, name| reflection.with_service_name(*name));
    let reflection = reflection.build_v1().expect("the descriptors are made by the build");
    Server::builder()
        .max_concurrent_streams(limits::STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(limits::RESETS_MAX))
        .layer(security.access.clone())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .add_service(health)
        .add_service(reflection)
}

/// Tells the same of the process and of each of its services.
pub(crate) async fn report(health: &HealthReporter, status: ServingStatus) {
    for service in ["", coordinator_server::SERVICE_NAME, sessions_server::SERVICE_NAME, admin_server::SERVICE_NAME] {
        health.set_service_status(service, status).await;
    }
}
