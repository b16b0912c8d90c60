//! The log's SQL, both dialects side by side. Rows travel as one JSON parameter.

use sqlx::Row as _;
use tercet::participant::DbTx;
use tercet::tables;
use tercet_events::store::Store as EventStore;
use tercet_proto::log::v1 as pb;

use crate::entry::Entry;

/// What is searched. Numbers are 0, and texts empty, where anything will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Whose it is.
    pub user_id: i64,
    /// The coupon that it is about.
    pub coupon_id: i64,
    /// The order that it is about, by its shop and its number there.
    pub order: Option<(i64, i64)>,
    /// Who did it.
    pub operator: String,
    /// From this time on.
    pub from_ms: i64,
    /// Older than this time and number.
    pub before: (i64, i64),
    /// At most so many.
    pub limit: u32,
}

/// A database that the log can live in.
pub trait Store: EventStore {
    /// The statement of [`Store::search`] for this, for looking at its plan: the key if there is one, of an order its
    /// number and its shop; user and coupon twice each; the order's number twice and its shop; operator twice; from;
    /// until three times; number and limit.
    fn statement(search: &Search) -> &'static str;

    /// Creates the table, or brings it up to date.
    fn migrate(pool: &sqlx::Pool<Self>) -> impl Future<Output = Result<(), tables::Error>> + Send;

    /// Writes entries.
    fn write(db_tx: &mut DbTx<Self>, entries: &[Entry]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Entries, newest first.
    fn search(db: &mut DbTx<Self>, search: &Search) -> impl Future<Output = sqlx::Result<Vec<pb::Entry>>> + Send;

    /// Deletes at most so many of those that are older, and says how many.
    fn purge(db: &mut DbTx<Self>, age_ms: i64, limit: i64) -> impl Future<Output = sqlx::Result<i64>> + Send;
}

/// One statement for each index. Both databases are told which: on a small table they would not ask for it.
macro_rules! search {
    ($name:literal, $hint:literal, $key:literal) => {
        concat!(
            "-- log_search_",
            $name,
            "
            SELECT log_id, at_ms, action, user_id, coupon_id, shop_id, order_id, template_id, about_id, operator,
                reason, state_before, state_after, xid, source, sequence
            FROM business_log ",
            $hint,
            " WHERE ",
            $key,
            "(? = 0 OR user_id = ?) AND (? = 0 OR coupon_id = ?)
                AND (? = 0 OR (order_id = ? AND shop_id = ?)) AND (? = '' OR operator = ?) AND at_ms >= ? AND at_ms <= ?
                AND (at_ms < ? OR (at_ms = ? AND log_id < ?))
            ORDER BY at_ms DESC, log_id DESC LIMIT ?"
        )
    };
}

struct Statements {
    write: &'static str,
    by_user: &'static str,
    by_coupon: &'static str,
    by_order: &'static str,
    by_operator: &'static str,
    all: &'static str,
    purge: &'static str,
}

#[cfg(feature = "sqlite")]
const SQLITE: Statements = Statements {
    write: "-- log_write
        INSERT INTO business_log(at_ms, action, user_id, coupon_id, coupon_step, shop_id, order_id, template_id,
            about_id, operator, reason, state_before, state_after, xid, source, sequence)
        SELECT value->>'at_ms', value->>'action', value->>'user_id', value->>'coupon_id', value->>'coupon_step',
            value->>'shop_id', value->>'order_id', value->>'template_id', value->>'about_id', value->>'operator',
            value->>'reason', value->>'before', value->>'after', value->>'xid', value->>'source', value->>'sequence'
        FROM json_each($1) ORDER BY key",
    by_user: search!("by_user", "INDEXED BY business_log_user", "user_id = ? AND "),
    by_coupon: search!("by_coupon", "INDEXED BY business_log_coupon", "coupon_id = ? AND "),
    by_order: search!("by_order", "INDEXED BY business_log_order", "order_id = ? AND shop_id = ? AND "),
    by_operator: search!("by_operator", "INDEXED BY business_log_operator", "operator = ? AND "),
    all: search!("all", "INDEXED BY business_log_time", ""),
    purge: "-- log_purge
        DELETE FROM business_log WHERE log_id IN (
            SELECT log_id FROM business_log INDEXED BY business_log_time
            WHERE at_ms < CAST(unixepoch('subsec') * 1000 AS INTEGER) - ? ORDER BY at_ms, log_id LIMIT ?)",
};

// Texts would be in the character set of the database without being told.
#[cfg(feature = "mysql")]
const MYSQL: Statements = Statements {
    write: "-- log_write
        INSERT INTO business_log(at_ms, action, user_id, coupon_id, coupon_step, shop_id, order_id, template_id,
            about_id, operator, reason, state_before, state_after, xid, source, sequence)
        SELECT * FROM JSON_TABLE(?, '$[*]' COLUMNS (at_ms BIGINT PATH '$.at_ms',
            action VARCHAR(64) CHARACTER SET utf8mb4 PATH '$.action', user_id BIGINT PATH '$.user_id',
            coupon_id BIGINT PATH '$.coupon_id', coupon_step BIGINT PATH '$.coupon_step',
            shop_id BIGINT PATH '$.shop_id', order_id BIGINT PATH '$.order_id',
            template_id BIGINT PATH '$.template_id', about_id BIGINT PATH '$.about_id',
            operator VARCHAR(64) CHARACTER SET utf8mb4 PATH '$.operator',
            reason VARCHAR(512) CHARACTER SET utf8mb4 PATH '$.reason',
            before_ MEDIUMTEXT CHARACTER SET utf8mb4 PATH '$.before',
            after_ MEDIUMTEXT CHARACTER SET utf8mb4 PATH '$.after', xid VARCHAR(36) PATH '$.xid',
            source VARCHAR(64) PATH '$.source', sequence BIGINT PATH '$.sequence')) AS j",
    by_user: search!("by_user", "FORCE INDEX (business_log_user)", "user_id = ? AND "),
    by_coupon: search!("by_coupon", "FORCE INDEX (business_log_coupon)", "coupon_id = ? AND "),
    by_order: search!("by_order", "FORCE INDEX (business_log_order)", "order_id = ? AND shop_id = ? AND "),
    by_operator: search!("by_operator", "FORCE INDEX (business_log_operator)", "operator = ? AND "),
    all: search!("all", "FORCE INDEX (business_log_time)", ""),
    purge: "-- log_purge
        DELETE FROM business_log WHERE at_ms < CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) - ?
        ORDER BY at_ms, log_id LIMIT ?",
};

/// An entry of its row.
macro_rules! entry {
    ($row:ident) => {
        Ok::<_, sqlx::Error>(pb::Entry {
            log_id: $row.try_get(0)?,
            at_ms: $row.try_get(1)?,
            action: $row.try_get(2)?,
            user_id: $row.try_get::<Option<i64>, _>(3)?.unwrap_or_default(),
            coupon_id: $row.try_get::<Option<i64>, _>(4)?.unwrap_or_default(),
            shop_id: $row.try_get::<Option<i64>, _>(5)?.unwrap_or_default(),
            order_id: $row.try_get::<Option<i64>, _>(6)?.unwrap_or_default(),
            template_id: $row.try_get::<Option<i64>, _>(7)?.unwrap_or_default(),
            about_id: $row.try_get::<Option<i64>, _>(8)?.unwrap_or_default(),
            operator: $row.try_get::<Option<String>, _>(9)?.unwrap_or_default(),
            reason: $row.try_get(10)?,
            before: $row.try_get(11)?,
            after: $row.try_get(12)?,
            xid: $row.try_get(13)?,
            source: $row.try_get(14)?,
            sequence: $row.try_get::<i64, _>(15)?.unsigned_abs(),
        })
    };
}

macro_rules! store {
    ($database:ty, $sql:ident, $migration:literal) => {
        impl Store for $database {
            fn statement(search: &Search) -> &'static str {
                // A coupon and an order have few entries, a user has some, and an operator many.
                match (search.coupon_id, search.order, search.user_id, search.operator.as_str()) {
                    (0, None, 0, "") => $sql.all,
                    (0, None, 0, _) => $sql.by_operator,
                    (0, None, _, _) => $sql.by_user,
                    (0, Some(_), _, _) => $sql.by_order,
                    (_, _, _, _) => $sql.by_coupon,
                }
            }

            async fn migrate(pool: &sqlx::Pool<Self>) -> Result<(), tables::Error> {
                tables::make(pool, "business_log", tables::versions([include_str!($migration)])).await
            }

            async fn write(db_tx: &mut DbTx<Self>, entries: &[Entry]) -> sqlx::Result<()> {
                if entries.is_empty() {
                    return Ok(());
                }
                let rows = serde_json::to_string(entries).expect("numbers and texts have a form in JSON");
                sqlx::query($sql.write).bind(rows).execute(db_tx).await.map(drop)
            }

            async fn search(db: &mut DbTx<Self>, search: &Search) -> sqlx::Result<Vec<pb::Entry>> {
                let Search { user_id, coupon_id, order, operator, from_ms, before: (until_ms, number), limit } = search;
                let query = sqlx::query(Self::statement(search));
                let query = match (*coupon_id, *order, *user_id, operator.as_str()) {
                    (0, None, 0, "") => query,
                    (0, None, 0, _) => query.bind(operator),
                    (0, None, user_id, _) => query.bind(user_id),
                    (0, Some((shop_id, order_id)), _, _) => query.bind(order_id).bind(shop_id),
                    (coupon_id, _, _, _) => query.bind(coupon_id),
                };
                let (shop_id, order_id) = order.unwrap_or_default();
                let query = query.bind(user_id).bind(user_id).bind(coupon_id).bind(coupon_id);
                let query = query.bind(order_id).bind(order_id).bind(shop_id);
                let query = query.bind(operator).bind(operator).bind(from_ms);
                let query = query.bind(until_ms).bind(until_ms).bind(until_ms).bind(number).bind(i64::from(*limit));
                query.fetch_all(db).await?.iter().map(|row| entry!(row)).collect()
            }

            async fn purge(db: &mut DbTx<Self>, age_ms: i64, limit: i64) -> sqlx::Result<i64> {
                let gone = sqlx::query($sql.purge).bind(age_ms).bind(limit).execute(db).await?.rows_affected();
                Ok(i64::try_from(gone).unwrap_or(i64::MAX))
            }
        }
    };
}

#[cfg(feature = "sqlite")]
store!(sqlx::Sqlite, SQLITE, "../../../sql/business_log/sqlite/0001_business_log.sql");
#[cfg(feature = "mysql")]
store!(sqlx::MySql, MYSQL, "../../../sql/business_log/mysql/0001_business_log.sql");
