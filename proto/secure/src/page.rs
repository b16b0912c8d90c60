//! A port that shows one text to whoever asks, as Prometheus does.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::server::{Connection, Tls, incoming};

/// Connections at a time; further ones wait.
const CONNECTIONS_MAX: usize = 64;

/// A connection may last so long.
const CONNECTION_MAX: Duration = Duration::from_secs(300);

/// How often `render` is called at least, asked or not: a recorder of metrics tidies up while it is read.
const RENDER_EVERY: Duration = Duration::from_secs(10);

type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves what `render` says under this path, until it is dropped.
pub fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    path: &'static str,
    render: impl Fn() -> String + Send + Sync + 'static,
) -> BoxFuture<'static, ()> {
    serve_boxed(listener, tls, path, Arc::new(render))
}

/// Without types, so that a server of HTTP is compiled here and not once more by each caller.
fn serve_boxed(listener: TcpListener, tls: Option<Tls>, path: &'static str, render: Render) -> BoxFuture<'static, ()> {
    accept(listener, tls, path, render).boxed()
}

async fn accept(listener: TcpListener, tls: Option<Tls>, path: &'static str, render: Render) {
    let mut connections = JoinSet::new();
    let mut upkeep = tokio::time::interval(RENDER_EVERY);
    let mut accepted = std::pin::pin!(incoming(listener, tls));
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = upkeep.tick() => drop(render()),
            connection = accepted.next(), if connections.len() < CONNECTIONS_MAX => match connection {
                Some(Ok(connection)) => {
                    let answered = answer(connection, path, Arc::clone(&render));
                    connections.spawn(tokio::time::timeout(CONNECTION_MAX, answered));
                }
                // No descriptor is free, for instance; the next may be.
                Some(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                None => return,
            },
        }
    }
}

async fn answer(connection: Connection, path: &'static str, render: Render) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (status, text) = match (request.method(), request.uri().path() == path) {
            (&Method::GET, true) => (StatusCode::OK, render()),
            (_, true) => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
            (_, false) => (StatusCode::NOT_FOUND, format!("there is only {path}\n")),
        };
        let mut response = Response::new(text);
        *response.status_mut() = status;
        let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    // Whoever asked has gone, or does not speak HTTP.
    drop(http1::Builder::new().serve_connection(TokioIo::new(connection), service).await);
}
