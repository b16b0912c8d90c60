//! Why a service does not run.

use std::net::SocketAddr;

use crate::beside::Failure;

/// Why a service does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service is not put together as it must be: change the code.
    #[error("{0}")]
    Mistake(String),
    /// A business table is not where the fence is: point both to one database, or make the table first.
    #[error("table {table} is not visible to the fence in database {place}, so the two could not share a transaction")]
    TableElsewhere {
        /// The table.
        table: String,
        /// Which of the service's databases, from 0.
        place: usize,
        /// The database's word.
        #[source]
        source: sqlx::Error,
    },
    /// The own port can not be opened: free it, or choose another.
    #[error("port {address} can not be opened")]
    Port {
        /// The address.
        address: SocketAddr,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// The own port broke while it was served.
    #[error("the own port broke")]
    Server(#[source] tonic::transport::Error),
    /// Its certificates, keys or secret can not be used, or a port would be open to everyone: mend the setting that
    /// the error names.
    #[error(transparent)]
    Security(#[from] tercet_secure::Error),
    /// A database can not be used: reach it, or give it the rights to make tables.
    #[error("database {place} can not be used")]
    Database {
        /// Which of the service's databases, from 0.
        place: usize,
        /// The database's word.
        #[source]
        source: sqlx::Error,
    },
    /// A piece of work beside it can not go on: its own words say what to mend.
    #[error("{name}")]
    Beside {
        /// The work.
        name: &'static str,
        /// Its word.
        #[source]
        source: Failure,
    },
}
