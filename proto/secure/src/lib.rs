//! What both ends of a connection need to trust each other: TLS files that are read again when they change, secrets
//! that are sent as bearer tokens, and signed messages.
//!
//! There is one provider of cryptography, `ring`, named at each use, so no process has to install it. Nothing here
//! knows what is served: a port gives [`server::incoming`] its listener, a client takes its channel from
//! [`client::Credentials`].

pub mod client;
pub mod fetch;
pub mod files;
pub mod page;
pub mod server;
pub mod sign;
pub mod token;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// Why files with certificates, keys or tokens can not be used. The setting that names the file comes first.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there, or may not be read.
    #[error("{setting}: can not read {}", path.display())]
    Unreadable {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{setting}: {}: {fault}", path.display())]
    Invalid {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// One setting is of no use without another.
    #[error("{setting}: needs {needs} too")]
    Incomplete {
        /// The one that is given.
        setting: &'static str,
        /// The one that is not.
        needs: &'static str,
    },
    /// An address that is not this machine's own would be served to everyone.
    #[error("{setting}: {address} is not loopback: give {needs}, or allow it with {flag}")]
    Exposed {
        /// Which setting names the address.
        setting: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// What is missing.
        needs: &'static str,
        /// What allows it all the same.
        flag: &'static str,
    },
    /// It can not be an address.
    #[error("{address:?} is not an address: {fault}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        fault: &'static str,
    },
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
