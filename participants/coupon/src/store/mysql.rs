//! How statements are run on MariaDB and MySQL: all of them as one text in one message.

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Either, Executor as _, MySql, MySqlConnection, Pool, Row as _};
use tercet::tables;

use super::{Notice, Ran, Statement, Store, statements};
use crate::schema;

impl Store for MySql {
    const LOCKS_BY_ROW: bool = true;

    async fn migrate(pool: &Pool<Self>, count: usize) -> Result<(), tables::Error> {
        let once = [
            include_str!("../../../../sql/coupon/mysql/0001_coupon.sql"),
            include_str!("../../../../sql/coupon/mysql/0002_issue.sql"),
            include_str!("../../../../sql/coupon/mysql/0003_jobs.sql"),
            include_str!("../../../../sql/coupon/mysql/0004_redemption.sql"),
            include_str!("../../../../sql/coupon/mysql/0005_slots.sql"),
        ];
        let shard = include_str!("../../../../sql/coupon/mysql/shard.sql");
        let schema = schema::versions(once, |n| statements::schema(shard, n, count), count);
        tables::make(pool, schema::OWNER, schema).await
    }

    async fn run(db_tx: &mut MySqlConnection, all: &[Statement]) -> sqlx::Result<Vec<Ran>> {
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let mut text = String::new();
        for Statement { kind, table, about } in all {
            statements::mysql(&mut text, *kind, *table, about);
        }
        let (mut ran, mut rows) = (Vec::with_capacity(all.len()), Vec::new());
        let mut results = db_tx.fetch_many(sqlx::raw_sql(AssertSqlSafe(text)));
        while let Some(result) = results.try_next().await? {
            match result {
                // It ends what a statement returns.
                Either::Left(done) => {
                    ran.push(Ran { affected: done.rows_affected(), rows: std::mem::take(&mut rows) });
                }
                Either::Right(row) => {
                    rows.push((0..row.len()).map(|at| row.try_get(at)).collect::<sqlx::Result<_>>()?);
                }
            }
        }
        if ran.len() == all.len() {
            Ok(ran)
        } else {
            Err(sqlx::Error::Protocol(format!("{} of {} statements were answered", ran.len(), all.len())))
        }
    }

    async fn note_paid(db_tx: &mut MySqlConnection, notices: &[Notice]) -> sqlx::Result<()> {
        const SQL: &str = "-- coupon_note_paid
            INSERT INTO paid_notice(order_id, shop_id, user_id, paid_cents, slot)
            SELECT * FROM JSON_TABLE(?, '$[*]' COLUMNS (order_id BIGINT PATH '$.order_id',
                shop_id BIGINT PATH '$.shop_id', user_id BIGINT PATH '$.user_id',
                paid_cents BIGINT PATH '$.paid_cents', slot SMALLINT PATH '$.slot')) AS j
            ON DUPLICATE KEY UPDATE user_id = paid_notice.user_id";
        let rows = serde_json::to_string(notices).expect("numbers have a form in JSON");
        sqlx::query(SQL).bind(rows).execute(db_tx).await.map(drop)
    }
}
