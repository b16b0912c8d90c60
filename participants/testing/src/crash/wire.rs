//! PostgreSQL and MariaDB: a proxy between a service and its server, which drops connections after a statement.
//!
//! It reads what goes up, message by message, and counts the statements of all its connections. Where it is told to,
//! it lets a statement through, waits until the server answers, keeps the answer to itself, and closes the connection
//! on both sides: the statement has run, and nobody knows.

mod protocol;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub(crate) use self::protocol::Protocol;
use self::protocol::Reader;
use super::Watched;

/// The proxy of one server.
pub(crate) struct Wire {
    url: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    reached: Notify,
    /// Counts up; every connection that was open before ends.
    cut: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    after: Option<usize>,
    statements: Vec<String>,
}

impl Wire {
    /// A proxy in front of the server in this URL, `scheme://user@host:port/database`.
    pub(crate) async fn open(url: &str, protocol: Protocol) -> Result<Self, String> {
        let invalid = || format!("the database URL {url:?} has no host and port of its server");
        let start = url.find("://").map(|at| at + 3).ok_or_else(invalid)?;
        let end = url[start..].find('/').map_or(url.len(), |at| start + at);
        let host_start = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
        let server = url[host_start..end].to_owned();
        if !server.contains(':') {
            return Err(invalid());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let address: SocketAddr = listener.local_addr().map_err(|error| error.to_string())?;
        let shared = Arc::new(Shared::default());
        let accepting = tokio::spawn(accept(listener, server, protocol, Arc::clone(&shared)));
        Ok(Self { url: format!("{}{address}{}", &url[..host_start], &url[end..]), shared, accepting })
    }

    /// The URL to connect to instead.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Runs the work; drops it when this many statements have run, with the answer to the last one lost, and closes
    /// every connection then.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>, after: Option<usize>) -> Watched<T> {
        *self.shared.state() = State { after, statements: Vec::new() };
        let result = tokio::select! {
            biased;
            () = self.shared.reached.notified() => None,
            result = work => Some(result),
        };
        if result.is_none() {
            self.shared.cut.send_modify(|cuts| *cuts += 1);
        }
        let mut state = self.shared.state();
        state.after = None;
        Watched { result, statements: std::mem::take(&mut state.statements) }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.cut.send_modify(|cuts| *cuts += 1);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a statement; true when its answer is to be lost.
    fn count(&self, statement: String) -> bool {
        let mut state = self.state();
        // Those behind it belong to work that is about to be dropped.
        if state.after.is_some_and(|after| state.statements.len() >= after) {
            return false;
        }
        state.statements.push(statement);
        state.after == Some(state.statements.len())
    }
}

async fn accept(listener: TcpListener, server: String, protocol: Protocol, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let (server, shared) = (server.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let mut cut = shared.cut.subscribe();
            // A connection that breaks is seen by both its ends, which say so.
            tokio::select! {
                _ = forward(client, server, protocol, &shared) => {}
                _ = cut.changed() => {}
            }
        });
    }
}

/// Carries one connection until it ends or an answer is to be lost.
async fn forward(mut client: TcpStream, server: String, protocol: Protocol, shared: &Shared) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut reader = Reader::new(protocol);
    let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
    let mut losing = false;
    loop {
        tokio::select! {
            read = client.read_buf(&mut up) => {
                if read? == 0 {
                    return Ok(());
                }
                while let Some((message, statement)) = reader.next(&mut up) {
                    server.write_all(&message).await?;
                    losing |= statement.is_some_and(|statement| shared.count(statement));
                }
            }
            read = server.read_buf(&mut down) => {
                if read? == 0 {
                    return Ok(());
                }
                if losing {
                    shared.reached.notify_one();
                    return Ok(());
                }
                reader.answered(&down);
                client.write_all(&down).await?;
                down.clear();
            }
        }
    }
}
