//! Node ids, each held by one process at a time on a lease in the database.
//!
//! A lease allows its holder to write times into ids from the end of all leases before it to its own end. It is renewed
//! at a third of its length; a holder that can not renew makes no ids once it has ended, and one that finds that
//! another took its node takes a new one. Correctness hangs on no clock: the database's, which may be set back, only
//! decides when a node is free.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Pool;
use tercet::fence::Dialect;
use tercet::tables;
use tracing::{info, warn};

use crate::id::{Ids, NODES, Window};

/// How long a lease is, unless a test wants another.
pub const LEASE: Duration = Duration::from_secs(10);

/// Between two tries for a lease while there is none.
const RETRY: Duration = Duration::from_millis(500);

/// A node's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub node: u8,
    /// Counts its holders.
    pub epoch: i64,
    /// The first millisecond that its holder may not write.
    pub until_ms: i64,
}

/// All nodes, locked until the local transaction ends, and the database's clock.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// The clock, in milliseconds since 1970.
    pub now_ms: i64,
    /// One for each node.
    pub rows: Vec<Row>,
}

/// A database that leases nodes.
pub trait Store: Dialect {
    /// Begins a transaction that is going to write.
    const BEGIN_LEASE: &'static str;

    /// Creates the table, or brings it up to date.
    fn migrate(pool: &Pool<Self>) -> impl Future<Output = Result<(), tables::Error>> + Send;

    /// Locks and reads all nodes.
    fn nodes(db_tx: &mut Self::Connection) -> impl Future<Output = sqlx::Result<Nodes>> + Send;

    /// Writes a node's row.
    fn put(db_tx: &mut Self::Connection, row: Row, owner: &str) -> impl Future<Output = sqlx::Result<()>> + Send;
}

struct Statements {
    begin: &'static str,
    nodes: &'static str,
    put: &'static str,
}

#[cfg(feature = "sqlite")]
const SQLITE: Statements = Statements {
    begin: "BEGIN IMMEDIATE",
    nodes: "-- shards_nodes
        SELECT node, epoch, until_ms, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM id_node ORDER BY node",
    put: "-- shards_put_node
        UPDATE id_node SET epoch = $2, until_ms = $3, owner = $4 WHERE node = $1",
};

#[cfg(feature = "mysql")]
const MYSQL: Statements = Statements {
    begin: "START TRANSACTION",
    nodes: "-- shards_nodes
        SELECT CAST(node AS SIGNED), epoch, until_ms, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        FROM id_node FORCE INDEX (PRIMARY) ORDER BY node FOR UPDATE",
    put: "-- shards_put_node
        UPDATE id_node SET node = ?, epoch = ?, until_ms = ?, owner = ? WHERE node = ?",
};

macro_rules! store {
    ($database:ty, $sql:ident, $migration:literal, |$query:ident, $row:ident| $last:expr) => {
        impl Store for $database {
            const BEGIN_LEASE: &'static str = $sql.begin;

            async fn migrate(pool: &Pool<Self>) -> Result<(), tables::Error> {
                tables::make(pool, "shards", tables::versions([include_str!($migration)])).await
            }

            async fn nodes(db_tx: &mut Self::Connection) -> sqlx::Result<Nodes> {
                let found: Vec<(i64, i64, i64, i64)> = sqlx::query_as($sql.nodes).fetch_all(db_tx).await?;
                let now_ms = found.first().map_or(0, |(.., now_ms)| *now_ms);
                let row = |(node, epoch, until_ms, _): (i64, i64, i64, i64)| {
                    let node = u8::try_from(node).ok().filter(|node| *node < NODES);
                    let node = node.ok_or_else(|| sqlx::Error::Decode("a node is 0 to 127".into()))?;
                    Ok(Row { node, epoch, until_ms })
                };
                Ok(Nodes { now_ms, rows: found.into_iter().map(row).collect::<sqlx::Result<_>>()? })
            }

            async fn put(db_tx: &mut Self::Connection, $row: Row, owner: &str) -> sqlx::Result<()> {
                let query = sqlx::query($sql.put).bind(i64::from($row.node)).bind($row.epoch);
                let $query = query.bind($row.until_ms).bind(owner);
                $last.execute(db_tx).await.map(drop)
            }
        }
    };
}

#[cfg(feature = "sqlite")]
store!(sqlx::Sqlite, SQLITE, "../../../sql/shards/sqlite/0001_node.sql", |query, row| query);
// Its parameters have no numbers.
#[cfg(feature = "mysql")]
store!(sqlx::MySql, MYSQL, "../../../sql/shards/mysql/0001_node.sql", |query, row| query.bind(i64::from(row.node)));

/// What a holder has.
#[derive(Clone, Copy, Debug)]
struct Held {
    row: Row,
    window: Window,
}

/// Takes the node that has been free for the longest. Its times begin after those of all leases that there were, so
/// that ids rise over a restart too. `None` when every node is held.
fn take(nodes: &Nodes, length: Duration, at: Instant) -> Option<Held> {
    let free = nodes.rows.iter().filter(|row| row.until_ms <= nodes.now_ms);
    let row = *free.min_by_key(|row| (row.until_ms, row.node))?;
    let last_ms = nodes.rows.iter().map(|row| row.until_ms).max().unwrap_or(0);
    let floor_ms = last_ms.max(nodes.now_ms);
    let until_ms = floor_ms + millis(length);
    let window = Window { node: row.node, floor_ms, since: at, until_ms, clock: (nodes.now_ms, at) };
    Some(Held { row: Row { epoch: row.epoch + 1, until_ms, ..row }, window })
}

/// Prolongs a lease. `None` when somebody else has taken the node since it ended.
fn prolong(nodes: &Nodes, held: &Held, unused_ms: i64, length: Duration, at: Instant) -> Option<Held> {
    let row = *nodes.rows.iter().find(|row| row.node == held.row.node)?;
    if row.epoch != held.row.epoch {
        return None;
    }
    let known_ms = held.window.clock.0 + millis(at.saturating_duration_since(held.window.clock.1));
    let clock = (nodes.now_ms.max(known_ms), at);
    let now_ms = held.window.now_ms(at).max(clock.0).max(unused_ms);
    let until_ms = row.until_ms.max(now_ms + millis(length));
    Some(Held { row: Row { until_ms, ..row }, window: Window { until_ms, clock, ..held.window } })
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table can not be made, or is not that of this version.
    #[error("the table of node ids")]
    Tables(#[from] tables::Error),
    /// The database does not answer: try again.
    #[error("the database of node ids")]
    Database(#[from] sqlx::Error),
    /// All 128 are held: stop a process, or wait for the lease of one that died.
    #[error("every node id is held")]
    AllHeld,
}

/// Keeps a lease for as long as it runs.
#[derive(Debug)]
pub struct Keeper<Db: Store> {
    pool: Pool<Db>,
    owner: String,
    length: Duration,
    ids: Arc<Ids>,
    held: Option<Held>,
}

/// Leases a node from this database, where the table is made when it is missing. `owner` is for people.
///
/// # Errors
/// Those of [`Error`].
pub async fn lease<Db: Store>(
    pool: Pool<Db>,
    owner: impl Into<String>,
    length: Duration,
) -> Result<(Arc<Ids>, Keeper<Db>), Error> {
    Db::migrate(&pool).await?;
    let ids = Arc::new(Ids::new());
    let mut keeper = Keeper { pool, owner: owner.into(), length, ids: Arc::clone(&ids), held: None };
    keeper.take().await?;
    Ok((ids, keeper))
}

impl<Db: Store> Keeper<Db> {
    /// Renews the lease until `shutdown` ends, and gives it up then.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let pause = if self.held.is_some() { self.length / 3 } else { RETRY };
            tokio::select! {
                () = &mut shutdown => break,
                () = tokio::time::sleep(pause) => {}
            }
            if let Err(error) = self.beat().await {
                // Ids are made until the lease ends.
                warn!(%error, owner = self.owner, "the lease on a node id is not renewed");
            }
        }
        if let Err(error) = self.give_up().await {
            warn!(%error, owner = self.owner, "the lease on a node id ends by itself");
        }
    }

    /// Renews the lease once; takes another node where this one was taken.
    ///
    /// # Errors
    /// Those of [`Error`]. The lease stays as long as it is.
    pub async fn beat(&mut self) -> Result<(), Error> {
        let Some(held) = self.held else { return self.take().await };
        let mut db_tx = self.pool.begin_with(Db::BEGIN_LEASE).await?;
        let nodes = Db::nodes(&mut db_tx).await?;
        let Some(held) = prolong(&nodes, &held, self.ids.unused_ms(), self.length, Instant::now()) else {
            warn!(node = held.row.node, owner = self.owner, "the node was taken: this process was away for too long");
            db_tx.rollback().await?;
            self.hold(None);
            return self.take().await;
        };
        Db::put(&mut db_tx, held.row, &self.owner).await?;
        // If it commits without saying so, the row allows more than is used of it.
        db_tx.commit().await?;
        self.hold(Some(held));
        Ok(())
    }

    async fn take(&mut self) -> Result<(), Error> {
        let mut db_tx = self.pool.begin_with(Db::BEGIN_LEASE).await?;
        let nodes = Db::nodes(&mut db_tx).await?;
        let held = take(&nodes, self.length, Instant::now()).ok_or(Error::AllHeld)?;
        Db::put(&mut db_tx, held.row, &self.owner).await?;
        db_tx.commit().await?;
        info!(node = held.row.node, epoch = held.row.epoch, owner = self.owner, "node id leased");
        self.hold(Some(held));
        Ok(())
    }

    /// Ends the lease, so that the node is free at once.
    async fn give_up(&mut self) -> Result<(), Error> {
        let Some(held) = self.held else { return Ok(()) };
        self.hold(None);
        let mut db_tx = self.pool.begin_with(Db::BEGIN_LEASE).await?;
        let nodes = Db::nodes(&mut db_tx).await?;
        if let Some(row) = nodes.rows.into_iter().find(|row| (row.node, row.epoch) == (held.row.node, held.row.epoch)) {
            let until_ms = self.ids.unused_ms().max(held.window.floor_ms).min(row.until_ms);
            Db::put(&mut db_tx, Row { until_ms, ..row }, "").await?;
        }
        Ok(db_tx.commit().await?)
    }

    fn hold(&mut self, held: Option<Held>) {
        self.held = held;
        self.ids.set(held.map(|held| held.window));
    }
}

#[cfg(test)]
mod tests;
