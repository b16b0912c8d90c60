//! The stock service's SQL, both dialects side by side. Rows travel as one JSON parameter: a statement per slice.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use tercet::participant::DbTx;
use tercet::tables;
use tercet_events::store::Store as EventStore;

/// What an operation may count on: the item is locked until the local transaction ends.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// The item.
    pub item: i64,
    /// Units that anyone may reserve.
    pub free: i64,
    /// Units that transactions under way hold.
    pub reserved: i64,
    /// Units that are gone.
    pub issued: i64,
    /// The latest supply.
    pub sequence: i64,
    /// So many more than the latest supply wanted: they go as they become free.
    pub excess: i64,
}

impl Level {
    /// All units.
    pub const fn total(&self) -> i64 {
        self.free + self.reserved + self.issued
    }
}

/// Units that come to each state of an item, or leave it. They add up to 0, with those that go for good.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// To free.
    pub free: i64,
    /// To reserved.
    pub reserved: i64,
    /// To issued.
    pub issued: i64,
    /// Of the excess.
    pub gone: i64,
}

impl Change {
    /// Both changes in one.
    pub fn add(&mut self, other: Self) {
        self.free += other.free;
        self.reserved += other.reserved;
        self.issued += other.issued;
        self.gone += other.gone;
    }
}

/// What all items hold together, read in one statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// How many items there are.
    pub items: i64,
    /// Units in all.
    pub total: i64,
    /// Of these, free.
    pub free: i64,
    /// Of these, held by transactions that are under way.
    pub reserved: i64,
    /// Of these, gone.
    pub issued: i64,
    /// Items whose units do not add up, or fall below 0.
    pub broken: i64,
}

/// What runs out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Low {
    /// Templates whose coupons can be claimed.
    pub templates: i64,
    /// Everything else.
    pub products: i64,
}

/// A database that this service can live in.
pub trait Store: EventStore {
    /// Creates the tables, or brings them up to date.
    fn migrate(pool: &sqlx::Pool<Self>) -> impl Future<Output = Result<(), tables::Error>> + Send;

    /// Locks these items, in their order, and reads them; items that do not exist are left out.
    fn levels(db_tx: &mut DbTx<Self>, items: &[i64]) -> impl Future<Output = sqlx::Result<Vec<Level>>> + Send;

    /// Changes each item once.
    ///
    /// # Errors
    /// Besides the database's own: `RowNotFound` when one of the items does not exist.
    fn change(db_tx: &mut DbTx<Self>, changes: &BTreeMap<i64, Change>)
    -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Creates items with so many units, all free. An item that exists gets as many more.
    fn add(db_tx: &mut DbTx<Self>, items: &[(i64, i64)]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Brings free units to items that exist, or takes them: rows of item, units, the supply's sequence, and the
    /// excess.
    fn supply(
        db_tx: &mut DbTx<Self>,
        supplies: &[(i64, i64, i64, i64)],
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Sums everything up.
    fn totals(db_tx: &mut DbTx<Self>) -> impl Future<Output = sqlx::Result<Totals>> + Send;

    /// What runs out: less than a tenth of all units are free. Templates are the items from this one on, and count
    /// until what nobody claimed of them was taken back.
    fn low(db: &mut DbTx<Self>, templates: i64) -> impl Future<Output = sqlx::Result<Low>> + Send;

    /// Which of these items they are: those with the fewest free units, so many at most.
    fn lowest(
        db: &mut DbTx<Self>,
        items: RangeInclusive<i64>,
        templates: i64,
        most: usize,
    ) -> impl Future<Output = sqlx::Result<Vec<i64>>> + Send;
}

/// The text of each statement for one database. Its parameter is a JSON array of rows, sorted by item so that two
/// transactions lock in the same order.
struct Statements {
    levels: &'static str,
    change: &'static str,
    add: &'static str,
    supply: &'static str,
    totals: &'static str,
    low: &'static str,
    lowest: &'static str,
}

#[cfg(feature = "sqlite")]
const SQLITE: Statements = Statements {
    levels: "-- stock_levels
        SELECT item, free, reserved, issued, sequence, excess FROM stock
        WHERE item IN (SELECT value FROM json_each($1))",
    change: "-- stock_change
        UPDATE stock SET free = free + j.f, reserved = reserved + j.r, issued = issued + j.i, total = total - j.g,
            excess = excess - j.g
        FROM (SELECT value->>0 AS item, value->>1 AS f, value->>2 AS r, value->>3 AS i, value->>4 AS g
              FROM json_each($1)) AS j
        WHERE stock.item = j.item",
    add: "-- stock_add
        INSERT INTO stock(item, total, free, reserved, issued)
        SELECT value->>0, value->>1, value->>1, 0, 0 FROM json_each($1) WHERE true
        ON CONFLICT(item) DO UPDATE SET total = total + excluded.total, free = free + excluded.free",
    supply: "-- stock_supply
        UPDATE stock SET total = total + j.n, free = free + j.n, sequence = j.s, excess = j.e
        FROM (SELECT value->>0 AS item, value->>1 AS n, value->>2 AS s, value->>3 AS e FROM json_each($1)) AS j
        WHERE stock.item = j.item",
    totals: "-- stock_totals
        SELECT COUNT(*) AS items, COALESCE(SUM(total), 0) AS total, COALESCE(SUM(free), 0) AS free,
            COALESCE(SUM(reserved), 0) AS reserved, COALESCE(SUM(issued), 0) AS issued,
            COUNT(*) FILTER (WHERE free + reserved + issued <> total OR MIN(free, reserved, issued) < 0) AS broken
        FROM stock",
    low: "-- stock_low
        SELECT COUNT(*) FILTER (WHERE item >= $1 AND sequence % 2 = 0), COUNT(*) FILTER (WHERE item < $2)
        FROM stock WHERE free * 10 < total",
    lowest: "-- stock_lowest
        SELECT item FROM stock WHERE item BETWEEN $1 AND $2 AND free * 10 < total AND (item < $3 OR sequence % 2 = 0)
        ORDER BY free, item LIMIT $4",
};

// Without FORCE INDEX a small table is scanned, and every item in it locked.
#[cfg(feature = "mysql")]
const MYSQL: Statements = Statements {
    levels: "-- stock_levels
        SELECT stock.item, stock.free, stock.reserved, stock.issued, stock.sequence, stock.excess
        FROM JSON_TABLE(?, '$[*]' COLUMNS (item BIGINT PATH '$')) AS j
        STRAIGHT_JOIN stock FORCE INDEX (PRIMARY) ON stock.item = j.item FOR UPDATE",
    change: "-- stock_change
        UPDATE JSON_TABLE(?, '$[*]' COLUMNS (
            item BIGINT PATH '$[0]', f BIGINT PATH '$[1]', r BIGINT PATH '$[2]', i BIGINT PATH '$[3]',
            g BIGINT PATH '$[4]')) AS j
        STRAIGHT_JOIN stock FORCE INDEX (PRIMARY) ON stock.item = j.item
        SET stock.free = stock.free + j.f, stock.reserved = stock.reserved + j.r, stock.issued = stock.issued + j.i,
            stock.total = stock.total - j.g, stock.excess = stock.excess - j.g",
    add: "-- stock_add
        INSERT INTO stock(item, total, free, reserved, issued)
        SELECT item, units, units, 0, 0
        FROM JSON_TABLE(?, '$[*]' COLUMNS (item BIGINT PATH '$[0]', units BIGINT PATH '$[1]')) AS j
        ON DUPLICATE KEY UPDATE total = total + VALUES(total), free = free + VALUES(free)",
    supply: "-- stock_supply
        UPDATE JSON_TABLE(?, '$[*]' COLUMNS (
            item BIGINT PATH '$[0]', n BIGINT PATH '$[1]', s BIGINT PATH '$[2]', e BIGINT PATH '$[3]')) AS j
        STRAIGHT_JOIN stock FORCE INDEX (PRIMARY) ON stock.item = j.item
        SET stock.total = stock.total + j.n, stock.free = stock.free + j.n, stock.sequence = j.s, stock.excess = j.e",
    // A sum is a DECIMAL here.
    totals: "-- stock_totals
        SELECT COUNT(*) AS items, CAST(COALESCE(SUM(total), 0) AS SIGNED) AS total,
            CAST(COALESCE(SUM(free), 0) AS SIGNED) AS free, CAST(COALESCE(SUM(reserved), 0) AS SIGNED) AS reserved,
            CAST(COALESCE(SUM(issued), 0) AS SIGNED) AS issued,
            COUNT(IF(free + reserved + issued <> total OR LEAST(free, reserved, issued) < 0, 1, NULL)) AS broken
        FROM stock",
    low: "-- stock_low
        SELECT COUNT(IF(item >= ? AND sequence % 2 = 0, 1, NULL)), COUNT(IF(item < ?, 1, NULL))
        FROM stock WHERE free * 10 < total",
    lowest: "-- stock_lowest
        SELECT item FROM stock FORCE INDEX (PRIMARY)
        WHERE item BETWEEN ? AND ? AND free * 10 < total AND (item < ? OR sequence % 2 = 0)
        ORDER BY free, item LIMIT ?",
};

macro_rules! store {
    ($database:ty, $sql:ident, $migration:literal) => {
        impl Store for $database {
            async fn migrate(pool: &sqlx::Pool<Self>) -> Result<(), tables::Error> {
                tables::make(pool, "stock", tables::versions([include_str!($migration)])).await
            }

            async fn levels(db_tx: &mut DbTx<Self>, items: &[i64]) -> sqlx::Result<Vec<Level>> {
                let level = |row: (i64, i64, i64, i64, i64, i64)| {
                    let (item, free, reserved, issued, sequence, excess) = row;
                    Level { item, free, reserved, issued, sequence, excess }
                };
                let rows = sqlx::query_as($sql.levels).bind(json(items)).fetch_all(db_tx).await?;
                Ok(rows.into_iter().map(level).collect())
            }

            async fn change(db_tx: &mut DbTx<Self>, changes: &BTreeMap<i64, Change>) -> sqlx::Result<()> {
                if changes.is_empty() {
                    return Ok(());
                }
                let row =
                    |(item, change): (&i64, &Change)| (*item, change.free, change.reserved, change.issued, change.gone);
                let rows: Vec<_> = changes.iter().map(row).collect();
                let done = sqlx::query($sql.change).bind(json(&rows)).execute(db_tx).await?;
                if done.rows_affected() == rows.len() as u64 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
            }

            async fn add(db_tx: &mut DbTx<Self>, items: &[(i64, i64)]) -> sqlx::Result<()> {
                sqlx::query($sql.add).bind(json(items)).execute(db_tx).await.map(drop)
            }

            async fn supply(db_tx: &mut DbTx<Self>, supplies: &[(i64, i64, i64, i64)]) -> sqlx::Result<()> {
                let done = sqlx::query($sql.supply).bind(json(supplies)).execute(db_tx).await?;
                if done.rows_affected() == supplies.len() as u64 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
            }

            async fn totals(db_tx: &mut DbTx<Self>) -> sqlx::Result<Totals> {
                let (items, total, free, reserved, issued, broken) =
                    sqlx::query_as($sql.totals).fetch_one(db_tx).await?;
                Ok(Totals { items, total, free, reserved, issued, broken })
            }

            async fn low(db: &mut DbTx<Self>, templates: i64) -> sqlx::Result<Low> {
                let found = sqlx::query_as($sql.low).bind(templates).bind(templates).fetch_one(db).await?;
                let (templates, products) = found;
                Ok(Low { templates, products })
            }

            async fn lowest(
                db: &mut DbTx<Self>,
                items: RangeInclusive<i64>,
                templates: i64,
                most: usize,
            ) -> sqlx::Result<Vec<i64>> {
                let query = sqlx::query_scalar($sql.lowest).bind(*items.start()).bind(*items.end());
                query.bind(templates).bind(most as i64).fetch_all(db).await
            }
        }
    };
}

#[cfg(feature = "sqlite")]
store!(sqlx::Sqlite, SQLITE, "../../../sql/stock/sqlite/0001_stock.sql");
#[cfg(feature = "mysql")]
store!(sqlx::MySql, MYSQL, "../../../sql/stock/mysql/0001_stock.sql");

fn json<T: serde::Serialize + ?Sized>(rows: &T) -> String {
    serde_json::to_string(rows).expect("numbers have a form in JSON")
}
