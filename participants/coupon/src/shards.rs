//! The databases that coupons are in.

use std::sync::Arc;

use sqlx::Pool;
use tercet::fence::Dialect;
use tercet::tables;
use tercet_events::bus::Bus;
use tercet_events::outbox::Outbox;
use tercet_shards::ShardMap;

use crate::store::{Store, tables};

/// A pool for each database of a map, in its order.
#[derive(Debug)]
pub struct Shards<Db: sqlx::Database> {
    map: Arc<ShardMap>,
    pools: Vec<Pool<Db>>,
}

impl<Db: sqlx::Database> Clone for Shards<Db> {
    fn clone(&self) -> Self {
        Self { map: Arc::clone(&self.map), pools: self.pools.clone() }
    }
}

/// Why shards can not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Name as many databases as the map has.
    #[error("the shard map has {map} databases and {urls} are named")]
    Count {
        /// Of the map.
        map: usize,
        /// Named.
        urls: usize,
    },
    /// A database can not be opened.
    #[error("the database {0} of the shard map")]
    Open(usize, #[source] sqlx::Error),
    /// The tables can not be made, or are not those of this version.
    #[error("the tables in the database {0} of the shard map")]
    Tables(usize, #[source] tables::Error),
    /// The outbox of events can not be made in one of the databases.
    #[error("the outbox in a database of the shard map")]
    Outbox(#[source] tables::Error),
}

impl<Db: sqlx::Database> Shards<Db> {
    /// Which slot is where.
    pub const fn map(&self) -> &Arc<ShardMap> {
        &self.map
    }

    /// The databases, in the map's order.
    pub fn pools(&self) -> &[Pool<Db>] {
        &self.pools
    }

    /// The database that keeps what there is once: batches, jobs and node ids.
    pub fn home(&self) -> &Pool<Db> {
        &self.pools[0]
    }
}

impl<Db: Store + Dialect> Shards<Db> {
    /// One database with one table.
    pub fn one(pool: Pool<Db>) -> Self {
        Self { map: Arc::new(ShardMap::one()), pools: vec![pool] }
    }

    /// These databases, in the map's order.
    ///
    /// # Errors
    /// [`Error::Count`].
    pub fn new(map: ShardMap, pools: Vec<Pool<Db>>) -> Result<Self, Error> {
        if pools.len() != map.databases() {
            return Err(Error::Count { map: map.databases(), urls: pools.len() });
        }
        Ok(Self { map: Arc::new(map), pools })
    }

    /// Opens the databases with these URLs.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn open<U: AsRef<str>>(map: ShardMap, urls: &[U]) -> Result<Self, Error> {
        let mut pools = Vec::with_capacity(urls.len());
        for (at, url) in urls.iter().enumerate() {
            pools.push(Db::open(url.as_ref()).await.map_err(|error| Error::Open(at, error))?);
        }
        Self::new(map, pools)
    }

    /// Makes the tables that are missing, in all databases.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub async fn migrate(&self) -> Result<(), Error> {
        for (at, pool) in self.pools.iter().enumerate() {
            Db::migrate(pool, self.map.tables()).await.map_err(|error| Error::Tables(at, error))?;
        }
        Ok(())
    }

    /// Where those write events who keep coupons here; nothing is written where nobody is told. Whoever runs the coupon
    /// service publishes them.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub async fn outbox(&self, bus: Option<&Bus>) -> Result<Outbox, Error> {
        if bus.is_none() {
            return Ok(Outbox::off());
        }
        Outbox::open(&self.pools).await.map_err(Error::Outbox)
    }

    /// The names of all tables that a database has.
    pub fn tables(&self) -> Vec<String> {
        tables(self.map.tables())
    }
}
