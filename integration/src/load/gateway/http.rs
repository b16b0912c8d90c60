//! The least that speaks HTTP/1.1 with a gateway: connections that are kept, and answers that are read to their end.

use std::cell::RefCell;
use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Connections at a time. A request past that waits here, and its wait counts.
const CONNECTIONS: usize = 512;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The way to one gateway.
pub(super) struct Http {
    address: SocketAddr,
    host: HeaderValue,
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
    places: Semaphore,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Answer {
    /// The code of an error; empty where it is none of the gateway's own.
    pub(super) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }

    /// What was asked for.
    pub(super) fn good(&self) -> anyhow::Result<Value> {
        if !(200..300).contains(&self.status) {
            anyhow::bail!("the gateway answers {}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        serde_json::from_slice(&self.body).context("the gateway's answer is no JSON")
    }
}

impl Http {
    pub(super) fn new(address: SocketAddr) -> Self {
        let host = HeaderValue::from_str(&address.to_string()).expect("an address is text");
        Self { address, host, idle: RefCell::default(), places: Semaphore::new(CONNECTIONS) }
    }

    pub(super) async fn get(&self, uri: &Uri, token: &HeaderValue) -> anyhow::Result<Answer> {
        self.send(self.request(Method::GET, uri, token, Bytes::new())).await
    }

    /// Posts JSON, under a key where there is one.
    pub(super) async fn post(
        &self,
        uri: &Uri,
        token: &HeaderValue,
        key: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut request = self.request(Method::POST, uri, token, body);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = key {
            request.headers_mut().insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key)?);
        }
        self.send(request).await
    }

    fn request(&self, method: Method, uri: &Uri, token: &HeaderValue, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        request.uri_mut().clone_from(uri);
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().insert(AUTHORIZATION, token.clone());
        request
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let _place = self.places.acquire().await?;
        let mut sender = self.sender().await?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        // The connection is free again a moment after the answer's end.
        if sender.ready().await.is_ok() {
            self.idle.borrow_mut().push(sender);
        }
        Ok(Answer { status, body })
    }

    async fn sender(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        loop {
            let kept = self.idle.borrow_mut().pop();
            match kept {
                // The gateway closes what nobody has used for a while.
                Some(kept) if kept.is_closed() => {}
                Some(kept) => return Ok(kept),
                None => break,
            }
        }
        let socket = TcpStream::connect(self.address).await.context("the gateway does not listen")?;
        socket.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }
}
