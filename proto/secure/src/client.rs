//! The calling side: whom it trusts, and how it is known.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use clap::Args;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::files::{Source, Watched};
use crate::sign::Key;
use crate::token::Secret;
use crate::{Error, provider, server};

/// Whom a client trusts, and how it is known. Files are read again when they change: a new connection uses what they
/// say then.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[group(skip)]
#[command(next_help_heading = "Security of connections to a coordinator")]
pub struct Settings {
    /// Certificates of whoever signs the coordinator's, PEM; needed for https
    #[arg(long, global = true, env = "TERCET_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The own certificate chain, PEM
    #[arg(long, global = true, env = "TERCET_CLIENT_CERT", value_name = "FILE")]
    pub client_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, global = true, env = "TERCET_CLIENT_KEY", value_name = "FILE")]
    pub client_key: Option<PathBuf>,
    /// The name in the coordinator's certificate, where it is not the host of its URL
    #[arg(long, global = true, env = "TERCET_SERVER_NAME", value_name = "NAME")]
    pub server_name: Option<String>,
    /// The own secret, a file that `tercet token` wrote
    #[arg(long, global = true, env = "TERCET_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Send the own secret without TLS to other machines
    #[arg(long, global = true, env = "TERCET_INSECURE_PLAINTEXT_TOKEN")]
    pub insecure_plaintext_token: bool,
}

/// [`Settings`] with what their files say. Clones are one.
#[derive(Clone, Default)]
pub struct Credentials {
    tls: Option<Arc<Watched<ClientConfig>>>,
    server_name: Option<ServerName<'static>>,
    secret: Option<Arc<Watched<Secret>>>,
    plaintext_token: bool,
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// When files are missing, can not be read, or do not belong together.
    pub fn load(settings: &Settings) -> Result<Self, Error> {
        let source = |setting, path: &PathBuf| Source { setting, path: path.clone() };
        let own = match (&settings.client_cert, &settings.client_key) {
            (Some(cert), Some(key)) => vec![source("client_cert", cert), source("client_key", key)],
            (Some(_), None) => return Err(Error::Incomplete { setting: "client_cert", needs: "client_key" }),
            (None, Some(_)) => return Err(Error::Incomplete { setting: "client_key", needs: "client_cert" }),
            (None, None) => Vec::new(),
        };
        let tls = match &settings.ca {
            Some(ca) => {
                let sources = [vec![source("ca", ca)], own].concat();
                Some(Arc::new(Watched::load(sources, config)?))
            }
            None if !own.is_empty() => return Err(Error::Incomplete { setting: "client_cert", needs: "ca" }),
            None => None,
        };
        let server_name = settings.server_name.clone().map(|name| {
            let fault = "not a host's name";
            ServerName::try_from(name.clone()).map_err(|_| Error::Address { address: name, fault })
        });
        let secret = settings.token_file.as_ref().map(|path| {
            Watched::load(vec![source("token_file", path)], |sources, bytes| {
                let text = std::str::from_utf8(&bytes[0]).unwrap_or_default();
                Secret::parse(text).map_err(|fault| sources[0].invalid(fault))
            })
        });
        let (server_name, secret) = (server_name.transpose()?, secret.transpose()?.map(Arc::new));
        Ok(Self { tls, server_name, secret, plaintext_token: settings.insecure_plaintext_token })
    }

    /// The server at `http://HOST:PORT` or `https://HOST:PORT`; without a scheme it is http.
    ///
    /// # Errors
    /// When it is no such address, https without certificates to trust, or http to another machine that could read the
    /// secret on its way, unless that is allowed.
    pub fn target(&self, address: &str) -> Result<Target, Error> {
        let refused = |fault| Error::Address { address: address.to_owned(), fault };
        let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let uri: Uri = url.parse().map_err(|_| refused("it can not be read"))?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| refused("it has no host"))?;
        if uri.port_u16().is_none() {
            return Err(refused("it has no port"));
        }
        let tls = match uri.scheme_str() {
            Some("http") if self.secret.is_some() && !self.plaintext_token && !is_loopback(host) => {
                return Err(refused(
                    "everybody on the way could read the token: use https, or --insecure-plaintext-token",
                ));
            }
            Some("http") => None,
            Some("https") => {
                let tls = self.tls.clone().ok_or(Error::Incomplete { setting: "https", needs: "--ca" })?;
                let name = host.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name).map_err(|_| refused("its host is no name"))?;
                Some(Connector { tls, name: self.server_name.clone().unwrap_or(name) })
            }
            _ => return Err(refused("its scheme is neither http nor https")),
        };
        Ok(Target { endpoint: Endpoint::from(uri).tcp_nodelay(true), tls })
    }

    /// Adds the bearer token, if there is one.
    pub fn authorize(&self, metadata: &mut MetadataMap) {
        if let Some(secret) = &self.secret {
            let value = format!("Bearer {}", secret.current().bearer);
            metadata.insert("authorization", value.parse().expect("digits are ASCII"));
        }
    }

    /// What signatures are checked with, if anything is.
    pub fn key(&self) -> Option<Key> {
        self.secret.as_ref().and_then(|secret| secret.current().key.clone())
    }
}

/// Whether it is this machine by what it is called.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    address.map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        self.authorize(request.metadata_mut());
        Ok(request)
    }
}

fn config(sources: &[Source], bytes: &[Vec<u8>]) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| sources[0].invalid(error))?
        .with_root_certificates(server::roots(&sources[0], &bytes[0])?);
    let mut config = match bytes {
        [_, cert, key] => {
            let chain = server::certificates(&sources[1], cert)?;
            let config = builder.with_client_auth_cert(chain, server::private_key(&sources[2], key)?);
            config.map_err(|error| sources[1].invalid(format!("does not go with its key: {error}")))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A server to connect to.
#[derive(Clone)]
pub struct Target {
    endpoint: Endpoint,
    tls: Option<Connector>,
}

impl Target {
    /// The same with other options of the connection.
    #[must_use]
    pub fn with(self, change: impl FnOnce(Endpoint) -> Endpoint) -> Self {
        Self { endpoint: change(self.endpoint), tls: self.tls }
    }

    /// Its address.
    pub fn uri(&self) -> &Uri {
        self.endpoint.uri()
    }

    /// Connects.
    ///
    /// # Errors
    /// When nobody answers, or one side does not trust the other.
    pub fn connect(&self) -> BoxFuture<'_, Result<Channel, tonic::transport::Error>> {
        match &self.tls {
            Some(connector) => self.endpoint.connect_with_connector(connector.clone()).boxed(),
            None => self.endpoint.connect().boxed(),
        }
    }

    /// Connects at the first call, and again after each loss. To be called within a tokio runtime.
    pub fn connect_lazy(&self) -> Channel {
        match &self.tls {
            Some(connector) => self.endpoint.connect_with_connector_lazy(connector.clone()),
            None => self.endpoint.connect_lazy(),
        }
    }
}

/// Makes TLS connections with what the files say at that moment.
#[derive(Clone)]
struct Connector {
    tls: Arc<Watched<ClientConfig>>,
    name: ServerName<'static>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { tls, name } = self.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let socket = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
            socket.set_nodelay(true)?;
            Ok(TokioIo::new(TlsConnector::from(tls.current()).connect(name, socket).await?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_somebody_to_trust_there_is_no_https_and_nothing_else_is_spoken_in_its_place() {
        let told = |address: &str| match Credentials::default().target(address) {
            Ok(target) => target.uri().to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(told("https://127.0.0.1:7070"), "https: needs --ca too");
        assert_eq!(told("http://127.0.0.1:7070"), "http://127.0.0.1:7070/");
        assert_eq!(told("localhost:7070"), "http://localhost:7070/");
        assert_eq!(told("localhost"), "\"localhost\" is not an address: it has no port");
        let other = "\"ftp://a:1\" is not an address: its scheme is neither http nor https";
        assert_eq!(told("ftp://a:1"), other);
    }

    #[test]
    fn a_token_leaves_the_machine_encrypted_unless_anything_else_is_allowed_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "ab".repeat(32)).expect("it is written");
        let mut settings = Settings { token_file: Some(file), ..Settings::default() };
        let told = |settings: &Settings, address: &str| {
            Credentials::load(settings).expect("the files are there").target(address).map_err(|error| error.to_string())
        };
        for here in ["127.0.0.1:7070", "http://[::1]:7070", "localhost:7070"] {
            told(&settings, here).expect("nobody else hears it");
        }
        for away in ["10.0.0.1:7070", "http://[fd00::1]:7070", "tercet:7070", "localhost.example:7070"] {
            let fault = told(&settings, away).err().unwrap_or_default();
            assert!(fault.contains("--insecure-plaintext-token"), "{away}: {fault}");
            told(&Settings::default(), away).expect("there is no token");
        }
        settings.insecure_plaintext_token = true;
        told(&settings, "10.0.0.1:7070").expect("it is allowed");
    }
}
