//! One database of a service, and the connections that batches hold.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::Pool;
use tokio::sync::Semaphore;

use super::forget::Forgotten;
use super::late::Lateness;
use super::overrun::Overruns;
use crate::fence::Dialect;

/// One database.
pub(super) struct Connections<Db: Dialect> {
    pool: Pool<Db>,
    /// Outside the pool, whose every hand-over costs a statement.
    idle: Mutex<Vec<Db::Connection>>,
    pub(super) writers: Semaphore,
    overruns: Mutex<Overruns>,
    pub(super) forgotten: Forgotten,
    pub(super) lateness: Lateness,
}

impl<Db: Dialect> Connections<Db> {
    pub(super) fn new(pool: Pool<Db>) -> Self {
        Self {
            pool,
            idle: Mutex::default(),
            writers: Semaphore::new(Db::WRITERS),
            overruns: Mutex::default(),
            forgotten: Forgotten::default(),
            lateness: Lateness::default(),
        }
    }

    pub(super) fn overruns(&self) -> MutexGuard<'_, Overruns> {
        self.overruns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection without a transaction.
    pub(super) async fn connection(&self) -> Result<Db::Connection, sqlx::Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(connection) => Ok(connection),
            None => Db::connect(&self.pool).await,
        }
    }

    /// Keeps a sound connection, whose transaction has ended, for the next batch.
    pub(super) fn put(&self, connection: Db::Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}
