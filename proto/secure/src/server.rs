//! The serving side: TLS in front of a port, and what may be served without it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Args;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

use crate::files::{Source, Watched};
use crate::{Error, provider};

/// A handshake has to be over within this time.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Handshakes at a time; further connections wait.
const HANDSHAKES_MAX: usize = 256;

/// How the ports of a process are secured.
#[derive(Args, Clone, Debug, Default)]
#[group(skip)]
#[command(next_help_heading = "Security of the own ports")]
pub struct Settings {
    /// Certificate chain of the own ports, PEM; read again when it changes
    #[arg(long, env = "TERCET_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, env = "TERCET_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Certificates of whoever signs clients' certificates, PEM: then only clients with one are let in
    #[arg(long, env = "TERCET_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Serve other addresses than loopback without TLS
    #[arg(long, env = "TERCET_INSECURE_PLAINTEXT")]
    pub insecure_plaintext: bool,
}

/// What TLS tells its clients that it speaks.
#[derive(Clone, Copy, Debug)]
pub enum Protocol {
    /// gRPC.
    Http2,
    /// Prometheus.
    Http1,
}

/// TLS of a port.
pub type Tls = Arc<Watched<ServerConfig>>;

impl Settings {
    /// Reads the files; `None` without a certificate.
    ///
    /// # Errors
    /// When files are missing, can not be read, or do not belong together.
    pub fn load(&self, protocol: Protocol) -> Result<Option<Tls>, Error> {
        let (cert, key) = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => (cert, key),
            (Some(_), None) => return Err(Error::Incomplete { setting: "tls_cert", needs: "tls_key" }),
            (None, Some(_)) => return Err(Error::Incomplete { setting: "tls_key", needs: "tls_cert" }),
            (None, None) if self.tls_client_ca.is_some() => {
                return Err(Error::Incomplete { setting: "tls_client_ca", needs: "tls_cert" });
            }
            (None, None) => return Ok(None),
        };
        let mut sources =
            vec![Source { setting: "tls_cert", path: cert.clone() }, Source { setting: "tls_key", path: key.clone() }];
        sources.extend(self.tls_client_ca.iter().map(|path| Source { setting: "tls_client_ca", path: path.clone() }));
        let watched = Watched::load(sources, move |sources, bytes| config(protocol, sources, bytes))?;
        Ok(Some(Arc::new(watched)))
    }

    /// Whether the address of this setting may be served as it is.
    ///
    /// # Errors
    /// When it is neither loopback nor secured, and nobody has allowed that.
    pub fn check(&self, setting: &'static str, address: SocketAddr) -> Result<(), Error> {
        if address.ip().is_loopback() || self.tls_cert.is_some() || self.insecure_plaintext {
            return Ok(());
        }
        let (needs, flag) = ("--tls-cert and --tls-key", "--insecure-plaintext");
        Err(Error::Exposed { setting, address, needs, flag })
    }

    /// Whether nobody but who may can call what is at the address of this setting, where a certificate is all that
    /// tells callers apart.
    ///
    /// # Errors
    /// When it is neither loopback nor for clients with a certificate alone.
    pub fn check_callers(&self, setting: &'static str, address: SocketAddr) -> Result<(), Error> {
        if address.ip().is_loopback() || self.tls_client_ca.is_some() {
            return Ok(());
        }
        let (needs, flag) = ("--tls-client-ca", "--insecure-any-caller");
        Err(Error::Exposed { setting, address, needs, flag })
    }
}

fn config(protocol: Protocol, sources: &[Source], bytes: &[Vec<u8>]) -> Result<ServerConfig, Error> {
    let chain = certificates(&sources[0], &bytes[0])?;
    let key = private_key(&sources[1], &bytes[1])?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| sources[0].invalid(error))?;
    let builder = match sources.get(2).zip(bytes.get(2)) {
        Some((source, bytes)) => {
            let roots = Arc::new(roots(source, bytes)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| source.invalid(error))?)
        }
        None => builder.with_no_client_auth(),
    };
    let config = builder.with_single_cert(chain, key);
    let mut config = config.map_err(|error| sources[0].invalid(format!("does not go with its key: {error}")))?;
    config.alpn_protocols = match protocol {
        Protocol::Http2 => vec![b"h2".to_vec()],
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}

pub(crate) fn certificates(source: &Source, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| source.invalid(error))?;
    if found.is_empty() { Err(source.invalid("holds no certificate")) } else { Ok(found) }
}

pub(crate) fn private_key(source: &Source, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| source.invalid(format!("holds no private key: {error}")))
}

pub(crate) fn roots(source: &Source, pem: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(source, pem)? {
        roots.add(certificate).map_err(|error| source.invalid(error))?;
    }
    Ok(roots)
}

/// Serves these routes on a port, until `until` ends and the calls under way with it.
///
/// # Errors
/// When the port breaks.
pub fn serve(
    routes: Routes,
    listener: TcpListener,
    tls: Option<Tls>,
    until: BoxFuture<'static, ()>,
) -> BoxFuture<'static, Result<(), tonic::transport::Error>> {
    Server::builder().add_routes(routes).serve_with_incoming_shutdown(incoming(listener, tls), until).boxed()
}

/// The connections of a port, past their handshakes.
pub fn incoming(listener: TcpListener, tls: Option<Tls>) -> impl Stream<Item = io::Result<Connection>> {
    let handshake = move |accepted: io::Result<TcpStream>| {
        let tls = tls.clone();
        async move {
            let socket = match accepted {
                Ok(socket) => socket,
                Err(error) => return Some(Err(error)),
            };
            let Some(tls) = tls else { return Some(Ok(Connection::Plain(socket))) };
            let handshake = TlsAcceptor::from(tls.current()).accept(socket);
            match tokio::time::timeout(HANDSHAKE_MAX, handshake).await {
                Ok(Ok(stream)) => Some(Ok(Connection::Tls(Box::new(stream)))),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a client is not let in");
                    None
                }
                Err(_) => None,
            }
        }
    };
    let accepted = TcpIncoming::from(listener).with_nodelay(Some(true));
    accepted.map(handshake).buffer_unordered(HANDSHAKES_MAX).filter_map(std::future::ready)
}

/// A connection with or without TLS.
#[derive(Debug)]
pub enum Connection {
    /// Without.
    Plain(TcpStream),
    /// With.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match self {
            Self::Plain(socket) => socket.connect_info(),
            Self::Tls(stream) => stream.get_ref().0.connect_info(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
