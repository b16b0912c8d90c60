//! The port: connections with or without TLS, HTTP/1.1 on each, and an end that lets what is under way be answered.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures_util::StreamExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tercet_secure::server::{Connection, Tls, incoming};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::server::Connected as _;

use crate::front::Front;
use crate::limits::{CONNECTIONS_MAX, HEAD_BYTES_MAX};
use crate::metrics;

/// How long clients and requests may take.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// For the head of a request, from the opening of its connection or the answer before.
    pub(crate) head: Duration,
    /// For requests under way when the process stops.
    pub(crate) grace: Duration,
}

/// Serves until `shutdown` ends, and then for as long as requests under way need, at most the grace.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    front: Arc<Front>,
    shutdown: impl Future<Output = ()>,
    patience: Patience,
) {
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    {
        let mut accepted = std::pin::pin!(incoming(listener, tls));
        let (mut shutdown, mut upkeep) = (std::pin::pin!(shutdown), std::pin::pin!(front.upkeep()));
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                () = &mut upkeep => {}
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                connection = accepted.next(), if connections.len() < CONNECTIONS_MAX => match connection {
                    Some(Ok(connection)) => {
                        connections.spawn(converse(connection, Arc::clone(&front), patience.head, stopped.clone()));
                    }
                    // No descriptor is free, for instance; the next may be.
                    Some(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                    None => break,
                },
            }
        }
    }
    front.stop();
    stop.send_replace(true);
    let under_way = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(patience.grace, under_way).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests are given up");
    }
}

async fn converse(connection: Connection, front: Arc<Front>, head: Duration, mut stopped: watch::Receiver<bool>) {
    let nobody = SocketAddr::from((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
    let peer = connection.connect_info().remote_addr().unwrap_or(nobody);
    let service = service_fn(move |request: Request<Incoming>| {
        let front = Arc::clone(&front);
        async move { Ok::<_, Infallible>(front.call(request.map(Body::new), peer).await) }
    });
    let open = metrics::connections();
    open.increment(1);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(HEAD_BYTES_MAX);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(connection), service));
    let ended = tokio::select! {
        ended = &mut serving => ended,
        _ = stopped.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    open.decrement(1);
    if let Err(error) = ended {
        // Whoever asked has gone, is too slow, or does not speak HTTP.
        tracing::debug!(%error, "a connection broke");
    }
}
