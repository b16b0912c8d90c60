//! Local transactions that are dropped where a test wants it.

use std::future::Future;

use crate::database::Database;

#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) mod wire;

pub(crate) mod thread;

/// What a watched piece of work came to.
pub(crate) struct Watched<T> {
    /// `None`: it was dropped.
    pub(crate) result: Option<T>,
    /// The statements that have run, in their order.
    pub(crate) statements: Vec<String>,
}

/// Where the statements of a service are watched.
pub(crate) enum Watcher {
    /// On the threads that own its connections.
    Threads { url: String },
    /// Between it and its server.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    Wire(wire::Wire),
}

impl Watcher {
    /// Watches what connects to [`Watcher::url`] instead of this URL.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "mysql")),
        allow(clippy::extra_unused_type_parameters, reason = "it names the server's database")
    )]
    pub(crate) async fn new<Db: Database>(url: String) -> Result<Self, String> {
        #[cfg(any(feature = "postgres", feature = "mysql"))]
        if let Some(protocol) = Db::words().protocol {
            return wire::Wire::open(&url, protocol).await.map(Self::Wire);
        }
        Ok(Self::Threads { url })
    }

    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Threads { url } => url,
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            Self::Wire(wire) => wire.url(),
        }
    }

    /// Runs the work; drops it when this many statements have run, with the answer to the last one lost.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>, after: Option<usize>) -> Watched<T> {
        match self {
            Self::Threads { .. } => thread::run(work, after).await,
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            Self::Wire(wire) => wire.run(work, after).await,
        }
    }
}
