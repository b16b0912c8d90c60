//! What can go wrong with a store as a whole; what becomes of a single write is [`Written`](super::Written).

use std::path::PathBuf;

/// Why the store did not do what it was asked, for a call as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It may or may not have been done. Read again before going on.
    #[error("store unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// There is no room for it. As with [`Error::Unavailable`] it may have been done all the same: read again, and
    /// write less.
    #[error("no room left for the store")]
    Full(#[source] sqlx::Error),
    /// A newer start of this node has beaten: this one must stop.
    #[error("node {node} has been started again since epoch {epoch}")]
    Superseded {
        /// Which node.
        node: u16,
        /// The start that is over.
        epoch: u64,
    },
    /// The database file can not be read as one. Restore it or move it away.
    #[error("database file {} is damaged", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: sqlx::Error,
    },
    /// The database file or its folder can not be written. Mend its permissions or space, or name another.
    #[error("can not write {}", .path.display())]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A newer version of this program made the database file. Use that one.
    #[error("database file {} was made by a newer version of this program", .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
    },
}
