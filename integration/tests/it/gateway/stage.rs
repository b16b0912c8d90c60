//! A gateway in front of the real services, and somebody who speaks HTTP with it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sqlx::Sqlite;
use tempfile::TempDir;
use tercet::fence::Dialect as _;
use tercet_coupon_template::api::Api;
use tercet_coupon_template::store::Store as _;
use tercet_coupon_template::templates::Templates;
use tercet_events::outbox::Outbox;
use tercet_gateway::Within;
use tercet_gateway::config::Config;
use tercet_gateway::token::{self, Bearer, Role};
use tercet_integration::processes::free_address;
use tercet_proto::coupon_template::v1::coupon_templates_server::CouponTemplatesServer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::Server;

/// A gateway that runs.
pub(super) struct Gateway {
    pub(super) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), tercet_gateway::Error>>,
}

impl Gateway {
    /// With these flags.
    pub(super) async fn start(flags: &[&str]) -> Self {
        Self::before(Within::default(), flags).await
    }

    /// Before services in this process.
    async fn before(within: Within, flags: &[&str]) -> Self {
        let flags = [&["--listen", "127.0.0.1:0", "--token-leeway-seconds", "0"], flags].concat();
        let config = Config::from_flags(&flags).unwrap_or_else(|error| panic!("{error}"));
        let ((ready, is_ready), (stop, stopped)) = (oneshot::channel(), oneshot::channel());
        let running = tokio::spawn(tercet_gateway::run(config, within, ready, async { drop(stopped.await) }));
        let address = is_ready.await.expect("it starts");
        Self { address, stop: Some(stop), running }
    }

    /// Tells it to stop.
    pub(super) fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has stopped.
    pub(super) async fn stopped(self) {
        self.running.await.expect("it does not panic").expect("it stops well");
    }

    pub(super) async fn ask(&self, ask: Ask) -> Told {
        send(self.address, ask).await
    }
}

/// Whoever answers HTTP.
pub(super) trait Asks {
    async fn ask(&self, ask: Ask) -> Told;
}

impl Asks for Stage {
    async fn ask(&self, ask: Ask) -> Told {
        self.gateway.ask(ask).await
    }
}

impl Asks for Platform {
    async fn ask(&self, ask: Ask) -> Told {
        send(self.running.addresses.gateway, ask).await
    }
}

/// Asks on a connection of its own.
pub(super) async fn send(address: SocketAddr, ask: Ask) -> Told {
    try_send(address, ask).await.expect("it answers to the end")
}

/// The same of somebody who may be killed: an error where nothing is known of what became of it.
pub(crate) async fn try_send(address: SocketAddr, ask: Ask) -> anyhow::Result<Told> {
    let socket = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(ask.into_request()).await?;
    let (parts, body) = response.into_parts();
    let text = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(Told { status: parts.status.as_u16(), headers: parts.headers, text, body })
}

/// The embedded default, as a process.
pub(super) struct Platform {
    pub(super) keys: Keys,
    pub(super) running: tercet_integration::platform::Platform,
    _folder: TempDir,
}

impl Platform {
    /// With these flags, and nothing in it yet.
    pub(super) async fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let running = tercet_integration::platform::Platform::start(folder.path(), flags).await;
        let running = running.unwrap_or_else(|error| panic!("{error:#}"));
        Self { keys: Keys::read(running.jwks()), running, _folder: folder }
    }
}

type Metadata = Arc<Mutex<Vec<MetadataMap>>>;

/// The template service on SQLite, and what it is told besides the requests.
async fn template() -> (TempDir, Routes, Metadata) {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/coupon_template.db", folder.path().display());
    let pool = Sqlite::open(&url).await.expect("the database is there");
    Sqlite::migrate(&pool).await.expect("the schema is sound");
    let metadata = Metadata::default();
    let seen = Arc::clone(&metadata);
    let look = move |request: tonic::Request<()>| {
        seen.lock().expect("nobody panics").push(request.metadata().clone());
        Ok(request)
    };
    let server = CouponTemplatesServer::with_interceptor(Api::new(Templates::new(pool, Outbox::off())), look);
    (folder, Routes::new(server), metadata)
}

/// The template service on SQLite, with a gateway before it.
pub(super) struct Stage {
    pub(super) gateway: Gateway,
    pub(super) keys: Keys,
    /// What the services were told besides the requests.
    pub(super) metadata: Metadata,
    _folder: TempDir,
}

impl Stage {
    pub(super) async fn start(flags: &[&str]) -> Self {
        let (folder, routes, metadata) = template().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let template = format!("http://{}", listener.local_addr().expect("it has one"));
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming(incoming));
        let keys = Keys::new(folder.path().join("jwks.json"), "first");
        let jwks = keys.path.display().to_string();
        let flags = [&["--jwks", &jwks, "--template", &template], flags].concat();
        Self { gateway: Gateway::start(&flags).await, keys, metadata, _folder: folder }
    }

    /// With the service in the gateway's own process, and nobody at its address.
    pub(super) async fn within() -> Self {
        let (folder, routes, metadata) = template().await;
        let keys = Keys::new(folder.path().join("jwks.json"), "first");
        let (jwks, nobody) = (keys.path.display().to_string(), format!("http://{}", free_address().expect("one")));
        let within = Within { template: Some(routes), ..Within::default() };
        let gateway = Gateway::before(within, &["--jwks", &jwks, "--template", &nobody]).await;
        Self { gateway, keys, metadata, _folder: folder }
    }

    pub(super) async fn ask(&self, ask: Ask) -> Told {
        self.gateway.ask(ask).await
    }
}

/// A set of keys with one secret, in a file.
pub(crate) struct Keys {
    pub(crate) path: PathBuf,
    pub(super) text: String,
}

impl Keys {
    pub(crate) fn new(path: PathBuf, kid: &str) -> Self {
        let text = token::new_keys(kid).expect("there is chance");
        std::fs::write(&path, &text).expect("it can be written");
        Self { path, text }
    }

    fn read(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).expect("it is there");
        Self { path, text }
    }

    pub(super) fn mint(&self, bearer: Bearer, lasts: Duration) -> String {
        token::mint(self.text.as_bytes(), bearer, lasts).expect("it has a secret")
    }

    pub(crate) fn user(&self, user_id: i64) -> String {
        self.mint(bearer(Role::User, &user_id.to_string()), Duration::from_secs(60))
    }

    /// A user's consent, for this shop.
    pub(crate) fn consent(&self, user_id: i64, shop_id: i64) -> String {
        let bearer = Bearer { shop_id: Some(shop_id), ..bearer(Role::User, &user_id.to_string()) };
        self.mint(bearer, Duration::from_secs(60))
    }

    /// A person of shop 9.
    pub(crate) fn shop(&self, name: &str) -> String {
        self.mint(bearer(Role::Shop, name), Duration::from_secs(60))
    }

    pub(super) fn operator(&self, name: &str) -> String {
        self.mint(bearer(Role::Operator, name), Duration::from_secs(60))
    }
}

pub(super) fn bearer(role: Role, subject: &str) -> Bearer {
    let (subject, shop_id) = (subject.to_owned(), (role == Role::Shop).then_some(9));
    Bearer { role, subject, shop_id, order_id: None, groups: Vec::new(), issuer: None, audience: None }
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Ask {
    pub(crate) fn new(method: &str, path: impl Into<String>) -> Self {
        let method = method.parse().expect("a method");
        Self { method, path: path.into(), headers: HeaderMap::new(), body: String::new() }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let name = name.parse::<HeaderName>().expect("a name");
        self.headers.append(name, value.parse().expect("a value"));
        self
    }

    pub(crate) fn by(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn consent(self, token: &str) -> Self {
        self.with("x-user-authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.text(&body.to_string())
    }

    pub(super) fn text(self, body: &str) -> Self {
        Self { body: body.to_owned(), ..self.with("content-type", "application/json") }
    }

    fn into_request(self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::from(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.path.parse().expect("a path");
        *request.headers_mut() = self.headers;
        request.headers_mut().insert("host", "localhost".parse().expect("a value"));
        request
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
    pub(crate) body: Value,
}

impl Told {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("it is text"))
    }

    /// The code of an error, after a look at what every error has.
    #[track_caller]
    pub(crate) fn code(&self) -> &str {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let text = |name: &str| self.body[name].as_str().unwrap_or_else(|| panic!("{name} in {self:?}"));
        assert_eq!(self.body["status"], self.status);
        assert_eq!(text("request_id"), self.header("x-request-id"));
        assert_eq!(text("type"), format!("urn:tercet:problem:{}", text("code")));
        assert!(!text("title").is_empty() && !text("title").contains('{'), "{self:?}");
        text("code")
    }

    /// What was asked for.
    #[track_caller]
    pub(super) fn good(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        self.body
    }
}
