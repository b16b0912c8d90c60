//! The coupon service's SQL, both dialects side by side. Rows travel as one JSON parameter: a statement per slice.
//!
//! Time is the database's: all instances of the service share it.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use tercet::participant::DbTx;

/// Where a coupon stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its claim is under way.
    Pending = 0,
    /// Its user may redeem it.
    Issued = 1,
    /// An order that is under way holds it.
    Locked = 2,
    /// An order used it.
    Used = 3,
}

impl Status {
    fn from_number(number: i64) -> sqlx::Result<Self> {
        Ok(match number {
            0 => Self::Pending,
            1 => Self::Issued,
            2 => Self::Locked,
            3 => Self::Used,
            _ => return Err(sqlx::Error::Decode(format!("a coupon has the status {number}").into())),
        })
    }
}

/// What every coupon of a kind has in common.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Template {
    /// Its id.
    pub template_id: i64,
    /// How many of them one user may claim.
    pub per_user_limit: i64,
    /// How long one can be redeemed after it was claimed.
    pub valid_ms: i64,
    /// An order has to cost so much before the coupon.
    pub minimum_spend_cents: i64,
    /// What it takes off.
    pub discount_cents: i64,
}

/// Who claims what.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Claim {
    /// The new coupon's id.
    pub coupon_id: i64,
    /// Its template.
    pub template_id: i64,
    /// Its user.
    pub user_id: i64,
}

/// What stands in the way of a claim.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// The template's limit for each user; `None` when there is no such template.
    pub per_user_limit: Option<i64>,
    /// How many the user has claimed.
    pub claimed: i64,
    /// The coupon's id is taken.
    pub exists: bool,
}

/// A coupon, locked until the local transaction ends.
#[derive(Clone, Copy, Debug)]
pub struct Coupon {
    /// Its id.
    pub coupon_id: i64,
    /// Its user.
    pub user_id: i64,
    /// Where it stands.
    pub status: Status,
    /// The order that holds or used it.
    pub order_id: Option<i64>,
    /// Its time is over.
    pub expired: bool,
    /// An order has to cost so much.
    pub minimum_spend_cents: i64,
    /// What it takes off.
    pub discount_cents: i64,
}

/// One coupon's step from a status to the next.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// The coupon.
    pub coupon_id: i64,
    /// Where it has to stand.
    pub from: Status,
    /// Where it will stand.
    pub to: Status,
    /// The order that holds or used it from then on: of a locked or used one only.
    pub order_id: Option<i64>,
}

/// The coupons by status, and what must not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Claims that are under way.
    pub pending: i64,
    /// Coupons that may be redeemed.
    pub issued: i64,
    /// Coupons that orders under way hold.
    pub locked: i64,
    /// Coupons that orders used.
    pub used: i64,
    /// Users and templates whose count is not the number of their coupons.
    pub miscounted: i64,
    /// Users who hold more of a template than its limit.
    pub over_limit: i64,
}

/// A database that this service can live in.
pub trait Store: sqlx::Database {
    /// Creates the tables, or brings them up to date.
    fn migrate(pool: &sqlx::Pool<Self>) -> impl Future<Output = Result<(), MigrateError>> + Send;

    /// Creates templates. One that exists takes the new terms; coupons keep theirs.
    fn put_templates(db_tx: &mut DbTx<Self>, templates: &[Template]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Locks the counts of these users and templates, and says what stands in the way of each claim, in their order.
    fn standings(db_tx: &mut DbTx<Self>, claims: &[Claim]) -> impl Future<Output = sqlx::Result<Vec<Standing>>> + Send;

    /// Writes coupons with this status on the terms of their templates, and counts them.
    fn insert(
        db_tx: &mut DbTx<Self>,
        claims: &[Claim],
        status: Status,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Deletes pending coupons and takes them off the counts.
    fn delete(db_tx: &mut DbTx<Self>, claims: &[Claim]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Locks these coupons, in their order, and reads them; those that do not exist are left out.
    fn coupons(db_tx: &mut DbTx<Self>, coupon_ids: &[i64]) -> impl Future<Output = sqlx::Result<Vec<Coupon>>> + Send;

    /// Moves each coupon once.
    ///
    /// # Errors
    /// Besides the database's own: `RowNotFound` when one of them does not stand where it has to.
    fn advance(db_tx: &mut DbTx<Self>, moves: &[Move]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Notes orders that are paid: rows of order, user and cents. A second notice of an order changes nothing.
    fn note_paid(db_tx: &mut DbTx<Self>, notices: &[(i64, i64, i64)]) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Sums everything up.
    fn totals(db_tx: &mut DbTx<Self>) -> impl Future<Output = sqlx::Result<Totals>> + Send;

    /// Every used coupon with its order, by coupon.
    fn used(db_tx: &mut DbTx<Self>) -> impl Future<Output = sqlx::Result<Vec<(i64, i64)>>> + Send;
}

/// The text of each statement for one database. Rows come sorted by key, so that two transactions lock in one order.
struct Statements {
    put_templates: &'static str,
    /// Where a row that does not exist can not be locked: makes it.
    lock_counts: Option<&'static str>,
    standings: &'static str,
    insert: &'static str,
    count: &'static str,
    delete: &'static str,
    uncount: &'static str,
    coupons: &'static str,
    advance: &'static str,
    note_paid: &'static str,
}

#[cfg(feature = "sqlite")]
const SQLITE: Statements = Statements {
    put_templates: "-- coupon_put_templates
        INSERT INTO template(template_id, per_user_limit, valid_ms, minimum_spend_cents, discount_cents)
        SELECT value->>'template_id', value->>'per_user_limit', value->>'valid_ms', value->>'minimum_spend_cents',
            value->>'discount_cents' FROM json_each($1) WHERE true
        ON CONFLICT(template_id) DO UPDATE SET per_user_limit = excluded.per_user_limit,
            valid_ms = excluded.valid_ms, minimum_spend_cents = excluded.minimum_spend_cents,
            discount_cents = excluded.discount_cents",
    lock_counts: None,
    standings: "-- coupon_standings
        SELECT t.per_user_limit, COALESCE(u.claimed, 0), c.coupon_id IS NOT NULL FROM json_each($1) AS j
        LEFT JOIN template t ON t.template_id = j.value->>'template_id'
        LEFT JOIN user_template u ON u.user_id = j.value->>'user_id' AND u.template_id = j.value->>'template_id'
        LEFT JOIN coupon c ON c.coupon_id = j.value->>'coupon_id' ORDER BY j.key",
    insert: "-- coupon_insert
        INSERT INTO coupon(coupon_id, template_id, user_id, status, valid_until_ms, minimum_spend_cents,
            discount_cents)
        SELECT j.value->>'coupon_id', t.template_id, j.value->>'user_id', $2,
            CAST(unixepoch('subsec') * 1000 AS INTEGER) + t.valid_ms, t.minimum_spend_cents, t.discount_cents
        FROM json_each($1) AS j JOIN template t ON t.template_id = j.value->>'template_id'",
    count: "-- coupon_count
        INSERT INTO user_template(user_id, template_id, claimed)
        SELECT value->>'user_id', value->>'template_id', COUNT(*) FROM json_each($1) WHERE true GROUP BY 1, 2
        ON CONFLICT(user_id, template_id) DO UPDATE SET claimed = claimed + excluded.claimed",
    delete: "-- coupon_delete
        DELETE FROM coupon WHERE status = 0 AND coupon_id IN (SELECT value->>'coupon_id' FROM json_each($1))",
    uncount: "-- coupon_uncount
        UPDATE user_template SET claimed = claimed - j.n
        FROM (SELECT value->>'user_id' AS user_id, value->>'template_id' AS template_id, COUNT(*) AS n
              FROM json_each($1) GROUP BY 1, 2) AS j
        WHERE user_template.user_id = j.user_id AND user_template.template_id = j.template_id",
    coupons: "-- coupon_coupons
        SELECT coupon_id, user_id, status, order_id, valid_until_ms <= CAST(unixepoch('subsec') * 1000 AS INTEGER),
            minimum_spend_cents, discount_cents
        FROM coupon WHERE coupon_id IN (SELECT value FROM json_each($1))",
    advance: "-- coupon_advance
        UPDATE coupon SET status = j.next, order_id = j.order_id
        FROM (SELECT value->>0 AS coupon_id, value->>1 AS before, value->>2 AS next, value->>3 AS order_id
              FROM json_each($1)) AS j
        WHERE coupon.coupon_id = j.coupon_id AND coupon.status = j.before",
    note_paid: "-- coupon_note_paid
        INSERT INTO paid_notice(order_id, user_id, paid_cents)
        SELECT value->>0, value->>1, value->>2 FROM json_each($1) WHERE true ON CONFLICT(order_id) DO NOTHING",
};

// Without FORCE INDEX a small table is scanned, and every row in it locked.
#[cfg(feature = "mysql")]
const MYSQL: Statements = Statements {
    put_templates: "-- coupon_put_templates
        INSERT INTO template(template_id, per_user_limit, valid_ms, minimum_spend_cents, discount_cents)
        SELECT * FROM JSON_TABLE(?, '$[*]' COLUMNS (template_id BIGINT PATH '$.template_id',
            per_user_limit BIGINT PATH '$.per_user_limit', valid_ms BIGINT PATH '$.valid_ms',
            minimum_spend_cents BIGINT PATH '$.minimum_spend_cents',
            discount_cents BIGINT PATH '$.discount_cents')) AS j
        ON DUPLICATE KEY UPDATE per_user_limit = VALUES(per_user_limit), valid_ms = VALUES(valid_ms),
            minimum_spend_cents = VALUES(minimum_spend_cents), discount_cents = VALUES(discount_cents)",
    lock_counts: Some(
        "-- coupon_lock_counts
        INSERT INTO user_template(user_id, template_id, claimed)
        SELECT DISTINCT j.user_id, t.template_id, 0 FROM JSON_TABLE(?, '$[*]' COLUMNS (
            user_id BIGINT PATH '$.user_id', template_id BIGINT PATH '$.template_id')) AS j
        JOIN template t ON t.template_id = j.template_id ORDER BY 1, 2
        ON DUPLICATE KEY UPDATE claimed = user_template.claimed",
    ),
    standings: "-- coupon_standings
        SELECT t.per_user_limit, COALESCE(u.claimed, 0), c.coupon_id IS NOT NULL
        FROM JSON_TABLE(?, '$[*]' COLUMNS (at FOR ORDINALITY, coupon_id BIGINT PATH '$.coupon_id',
            template_id BIGINT PATH '$.template_id', user_id BIGINT PATH '$.user_id')) AS j
        LEFT JOIN template t ON t.template_id = j.template_id
        LEFT JOIN user_template u ON u.user_id = j.user_id AND u.template_id = j.template_id
        LEFT JOIN coupon c ON c.coupon_id = j.coupon_id ORDER BY j.at",
    insert: "-- coupon_insert
        INSERT INTO coupon(coupon_id, template_id, user_id, status, valid_until_ms, minimum_spend_cents,
            discount_cents)
        SELECT j.coupon_id, t.template_id, j.user_id, s.status,
            CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + t.valid_ms, t.minimum_spend_cents, t.discount_cents
        FROM JSON_TABLE(?, '$[*]' COLUMNS (coupon_id BIGINT PATH '$.coupon_id',
            template_id BIGINT PATH '$.template_id', user_id BIGINT PATH '$.user_id')) AS j
        JOIN template t ON t.template_id = j.template_id JOIN (SELECT ? AS status) AS s",
    count: "-- coupon_count
        INSERT INTO user_template(user_id, template_id, claimed)
        SELECT j.user_id, j.template_id, COUNT(*) FROM JSON_TABLE(?, '$[*]' COLUMNS (
            user_id BIGINT PATH '$.user_id', template_id BIGINT PATH '$.template_id')) AS j GROUP BY 1, 2
        ON DUPLICATE KEY UPDATE claimed = user_template.claimed + VALUES(claimed)",
    delete: "-- coupon_delete
        DELETE coupon FROM JSON_TABLE(?, '$[*]' COLUMNS (coupon_id BIGINT PATH '$.coupon_id')) AS j
        STRAIGHT_JOIN coupon FORCE INDEX (PRIMARY) ON coupon.coupon_id = j.coupon_id WHERE coupon.status = 0",
    uncount: "-- coupon_uncount
        UPDATE (SELECT j.user_id, j.template_id, COUNT(*) AS n FROM JSON_TABLE(?, '$[*]' COLUMNS (
            user_id BIGINT PATH '$.user_id', template_id BIGINT PATH '$.template_id')) AS j GROUP BY 1, 2) AS j
        STRAIGHT_JOIN user_template u FORCE INDEX (PRIMARY)
            ON u.user_id = j.user_id AND u.template_id = j.template_id
        SET u.claimed = u.claimed - j.n",
    coupons: "-- coupon_coupons
        SELECT c.coupon_id, c.user_id, CAST(c.status AS SIGNED), c.order_id,
            c.valid_until_ms <= CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), c.minimum_spend_cents, c.discount_cents
        FROM JSON_TABLE(?, '$[*]' COLUMNS (coupon_id BIGINT PATH '$')) AS j
        STRAIGHT_JOIN coupon c FORCE INDEX (PRIMARY) ON c.coupon_id = j.coupon_id FOR UPDATE",
    advance: "-- coupon_advance
        UPDATE JSON_TABLE(?, '$[*]' COLUMNS (coupon_id BIGINT PATH '$[0]', before_ TINYINT PATH '$[1]',
            next_ TINYINT PATH '$[2]', order_id BIGINT PATH '$[3]')) AS j
        STRAIGHT_JOIN coupon c FORCE INDEX (PRIMARY) ON c.coupon_id = j.coupon_id
        SET c.status = j.next_, c.order_id = j.order_id WHERE c.status = j.before_",
    note_paid: "-- coupon_note_paid
        INSERT INTO paid_notice(order_id, user_id, paid_cents)
        SELECT * FROM JSON_TABLE(?, '$[*]' COLUMNS (order_id BIGINT PATH '$[0]', user_id BIGINT PATH '$[1]',
            paid_cents BIGINT PATH '$[2]')) AS j
        ON DUPLICATE KEY UPDATE user_id = paid_notice.user_id",
};

const TOTALS: &str = "-- coupon_totals
    SELECT
        (SELECT COUNT(*) FROM coupon WHERE status = 0), (SELECT COUNT(*) FROM coupon WHERE status = 1),
        (SELECT COUNT(*) FROM coupon WHERE status = 2), (SELECT COUNT(*) FROM coupon WHERE status = 3),
        (SELECT COUNT(*) FROM (
            SELECT 1 FROM (SELECT user_id, template_id, claimed AS n FROM user_template
                           UNION ALL SELECT user_id, template_id, -1 FROM coupon) AS a
            GROUP BY user_id, template_id HAVING SUM(n) <> 0) AS b),
        (SELECT COUNT(*) FROM user_template u JOIN template t ON t.template_id = u.template_id
         WHERE u.claimed > t.per_user_limit)";

const USED: &str = "-- coupon_used
    SELECT coupon_id, order_id FROM coupon WHERE status = 3 ORDER BY coupon_id";

macro_rules! store {
    ($database:ty, $sql:ident, $migration:literal) => {
        impl Store for $database {
            async fn migrate(pool: &sqlx::Pool<Self>) -> Result<(), MigrateError> {
                let first = include_str!($migration).into_sql_str();
                let first = Migration::new(1, "coupon".into(), MigrationType::Simple, first, false);
                let mut migrator = Migrator::with_migrations(vec![first]);
                // The fence lives in this database too, and keeps its own count.
                migrator.dangerous_set_table_name("coupon_migrations");
                migrator.run(pool).await
            }

            async fn put_templates(db_tx: &mut DbTx<Self>, templates: &[Template]) -> sqlx::Result<()> {
                sqlx::query($sql.put_templates).bind(json(templates)).execute(db_tx).await.map(drop)
            }

            async fn standings(db_tx: &mut DbTx<Self>, claims: &[Claim]) -> sqlx::Result<Vec<Standing>> {
                let rows = json(claims);
                if let Some(lock) = $sql.lock_counts {
                    sqlx::query(lock).bind(&rows).execute(&mut *db_tx).await?;
                }
                let standing = |(per_user_limit, claimed, exists): (Option<i64>, i64, i64)| Standing {
                    per_user_limit,
                    claimed,
                    exists: exists != 0,
                };
                let found = sqlx::query_as($sql.standings).bind(rows).fetch_all(db_tx).await?;
                Ok(found.into_iter().map(standing).collect())
            }

            async fn insert(db_tx: &mut DbTx<Self>, claims: &[Claim], status: Status) -> sqlx::Result<()> {
                if claims.is_empty() {
                    return Ok(());
                }
                let rows = json(claims);
                let insert = sqlx::query($sql.insert).bind(&rows).bind(status as i64);
                all(insert.execute(&mut *db_tx).await?.rows_affected(), claims.len())?;
                sqlx::query($sql.count).bind(rows).execute(db_tx).await.map(drop)
            }

            async fn delete(db_tx: &mut DbTx<Self>, claims: &[Claim]) -> sqlx::Result<()> {
                let rows = json(claims);
                let delete = sqlx::query($sql.delete).bind(&rows);
                all(delete.execute(&mut *db_tx).await?.rows_affected(), claims.len())?;
                sqlx::query($sql.uncount).bind(rows).execute(db_tx).await.map(drop)
            }

            async fn coupons(db_tx: &mut DbTx<Self>, coupon_ids: &[i64]) -> sqlx::Result<Vec<Coupon>> {
                let rows: Vec<CouponRow> = sqlx::query_as($sql.coupons).bind(json(coupon_ids)).fetch_all(db_tx).await?;
                rows.into_iter().map(Coupon::from_row).collect()
            }

            async fn advance(db_tx: &mut DbTx<Self>, moves: &[Move]) -> sqlx::Result<()> {
                if moves.is_empty() {
                    return Ok(());
                }
                let row = |step: &Move| (step.coupon_id, step.from as i64, step.to as i64, step.order_id);
                let mut rows: Vec<_> = moves.iter().map(row).collect();
                rows.sort_unstable();
                let done = sqlx::query($sql.advance).bind(json(&rows)).execute(db_tx).await?;
                all(done.rows_affected(), rows.len())
            }

            async fn note_paid(db_tx: &mut DbTx<Self>, notices: &[(i64, i64, i64)]) -> sqlx::Result<()> {
                sqlx::query($sql.note_paid).bind(json(notices)).execute(db_tx).await.map(drop)
            }

            async fn totals(db_tx: &mut DbTx<Self>) -> sqlx::Result<Totals> {
                let (pending, issued, locked, used, miscounted, over_limit) =
                    sqlx::query_as(TOTALS).fetch_one(db_tx).await?;
                Ok(Totals { pending, issued, locked, used, miscounted, over_limit })
            }

            async fn used(db_tx: &mut DbTx<Self>) -> sqlx::Result<Vec<(i64, i64)>> {
                sqlx::query_as(USED).fetch_all(db_tx).await
            }
        }
    };
}

#[cfg(feature = "sqlite")]
store!(sqlx::Sqlite, SQLITE, "../../../sql/coupon/sqlite/0001_coupon.sql");
#[cfg(feature = "mysql")]
store!(sqlx::MySql, MYSQL, "../../../sql/coupon/mysql/0001_coupon.sql");

type CouponRow = (i64, i64, i64, Option<i64>, i64, i64, i64);

impl Coupon {
    fn from_row(row: CouponRow) -> sqlx::Result<Self> {
        let (coupon_id, user_id, status, order_id, expired, minimum_spend_cents, discount_cents) = row;
        let (status, expired) = (Status::from_number(status)?, expired != 0);
        Ok(Self { coupon_id, user_id, status, order_id, expired, minimum_spend_cents, discount_cents })
    }
}

/// A statement that missed some of its rows found the database in a state that the rule excludes.
fn all(affected: u64, rows: usize) -> sqlx::Result<()> {
    if affected == rows as u64 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
}

fn json<T: serde::Serialize + ?Sized>(rows: &T) -> String {
    serde_json::to_string(rows).expect("numbers have a form in JSON")
}
