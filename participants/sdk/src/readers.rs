//! Connections for reads, outside the pool.
//!
//! A pool asks a connection whether it is sound before each hand-over and after it: two messages more around a read
//! that is one itself. Here one is asked only when it has lain still for a while, and is kept only after it was read
//! well: whatever else happened to it, it is closed. So is one that lies still for as long as the pool lets it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::{Connection as _, Database, Pool};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::fence::Dialect;

/// After it a connection that was not used is asked whether it is sound. A server that was started again meanwhile took
/// longer than that.
const STILL: Duration = Duration::from_secs(1);

/// Connections to one database, as many as its pool may have.
pub struct Readers<Db: Database> {
    pool: Pool<Db>,
    /// The last one first: under little load one is used, and the others lie still.
    idle: Mutex<Vec<(Db::Connection, Instant)>>,
    places: Semaphore,
}

impl<Db: Database> Readers<Db> {
    /// With the options of this pool. Nothing is opened before it is needed.
    pub fn new(pool: Pool<Db>) -> Self {
        let places = pool.options().get_max_connections() as usize;
        Self { pool, idle: Mutex::default(), places: Semaphore::new(places) }
    }
}

impl<Db: Dialect> Readers<Db> {
    /// A connection without a transaction, for reads alone. Waits for as long as all of them are in use.
    ///
    /// # Errors
    /// When the database can not be reached, or the pool is closed.
    pub async fn get(&self) -> Result<Reader<'_, Db>, sqlx::Error> {
        let place = self.places.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        if self.pool.is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                None => Db::connect(&self.pool).await?,
                Some((connection, since)) if since.elapsed() < STILL => connection,
                Some((mut connection, _)) => match connection.ping().await {
                    Ok(()) => connection,
                    Err(_) => continue,
                },
            };
            return Ok(Reader { connection, readers: self, _place: place });
        }
    }
}

impl<Db: Database> fmt::Debug for Readers<Db> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

/// One of them, until it is dropped.
pub struct Reader<'a, Db: Database> {
    connection: Db::Connection,
    readers: &'a Readers<Db>,
    _place: SemaphorePermit<'a>,
}

impl<Db: Database> Reader<'_, Db> {
    /// Keeps it for the next who reads, when this was read well.
    ///
    /// # Errors
    /// What was read.
    pub fn done<T>(self, read: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        let Self { connection, readers, .. } = self;
        if read.is_ok() {
            let mut idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let too_long = readers.pool.options().get_idle_timeout().unwrap_or(Duration::MAX);
            // One at a time is enough: there are never many.
            if idle.first().is_some_and(|(_, since)| since.elapsed() >= too_long) {
                idle.remove(0);
            }
            idle.push((connection, Instant::now()));
        }
        read
    }
}

impl<Db: Database> Deref for Reader<'_, Db> {
    type Target = Db::Connection;

    fn deref(&self) -> &Db::Connection {
        &self.connection
    }
}

impl<Db: Database> DerefMut for Reader<'_, Db> {
    fn deref_mut(&mut self) -> &mut Db::Connection {
        &mut self.connection
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use futures_util::FutureExt as _;
    use sqlx::SqliteConnection;
    use sqlx::sqlite::SqliteConnectOptions;

    use super::*;
    use crate::fixture::shop_database;

    /// What only this connection sees.
    async fn mark(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query("CREATE TEMP TABLE mark(x)").execute(connection).await.map(drop)
    }

    async fn is_marked(connection: &mut SqliteConnection) -> bool {
        sqlx::query("SELECT * FROM mark").fetch_all(connection).await.is_ok()
    }

    #[tokio::test]
    async fn only_a_connection_that_was_read_well_is_kept() {
        let (_folder, pool) = shop_database().await;
        let readers = Readers::new(pool);
        let mut reader = readers.get().await.expect("the file is there");
        let marked = mark(&mut reader).await;
        reader.done(marked).expect("it is new");
        let mut reader = readers.get().await.expect("the file is there");
        assert!(is_marked(&mut reader).await, "it is the same");
        reader.done(Err::<(), _>(sqlx::Error::RowNotFound)).expect_err("it is what was read");
        let mut reader = readers.get().await.expect("the file is there");
        assert!(!is_marked(&mut reader).await, "one after which something was wrong is closed");
        mark(&mut reader).await.expect("it is new");
        drop(reader);
        let mut reader = readers.get().await.expect("the file is there");
        assert!(!is_marked(&mut reader).await, "one whose read was given up is closed");
    }

    #[tokio::test]
    async fn one_that_is_not_needed_any_more_is_closed() {
        let (_folder, pool) = shop_database().await;
        let options = pool.options().clone().idle_timeout(Duration::ZERO);
        let readers = Readers::new(options.connect_lazy_with(SqliteConnectOptions::clone(&pool.connect_options())));
        let both = [readers.get().await.expect("the file is there"), readers.get().await.expect("the file is there")];
        for reader in both {
            reader.done(Ok(())).expect("nothing was read");
        }
        assert_eq!(readers.idle.lock().expect("nobody panics").len(), 1);
    }

    #[tokio::test]
    async fn there_are_as_many_as_the_pool_may_have() {
        let (_folder, pool) = shop_database().await;
        let most = pool.options().get_max_connections();
        let readers = Readers::new(pool.clone());
        let mut all = Vec::new();
        for _ in 0..most {
            all.push(readers.get().await.expect("the file is there"));
        }
        assert!(readers.get().now_or_never().is_none(), "the next one waits");
        all.pop();
        readers.get().await.expect("there is room again");
        pool.close().await;
        all.pop();
        assert!(matches!(readers.get().await, Err(sqlx::Error::PoolClosed)), "its end is theirs");
    }
}
