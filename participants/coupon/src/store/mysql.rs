//! How statements are run on MariaDB and MySQL: all of them as one text in one message.

use futures_util::TryStreamExt as _;
use sqlx::migrate::MigrateError;
use sqlx::{AssertSqlSafe, Either, Executor as _, MySql, MySqlConnection, Pool, Row as _};

use super::{Ran, Statement, Store, statements};
use crate::schema;

impl Store for MySql {
    const LOCKS_BY_ROW: bool = true;

    async fn making_tables(pool: &Pool<Self>) -> sqlx::Result<Option<MySqlConnection>> {
        // The migrator's own lock has no time limit, which on MariaDB is no lock: GET_LOCK(…, -1) is NULL. Two that run
        // side by side can end in a deadlock that leaves a migration half applied for ever.
        const SQL: &str = "-- coupon_making_tables
            SELECT GET_LOCK(CONCAT('tercet tables ', LEFT(DATABASE(), 40)), 60)";
        let mut connection = pool.acquire().await?.detach();
        sqlx::query(SQL).execute(&mut connection).await?;
        Ok(Some(connection))
    }

    async fn migrate(pool: &Pool<Self>, tables: usize) -> Result<(), MigrateError> {
        let first = include_str!("../../../../sql/coupon/mysql/0001_coupon.sql");
        let second = include_str!("../../../../sql/coupon/mysql/0002_shards.sql");
        let third = include_str!("../../../../sql/coupon/mysql/0003_issue.sql");
        let fourth = include_str!("../../../../sql/coupon/mysql/0004_jobs.sql");
        let fifth = include_str!("../../../../sql/coupon/mysql/0005_redemption.sql");
        let shard = include_str!("../../../../sql/coupon/mysql/shard.sql");
        let once = [first, second, third, fourth, fifth];
        schema::migrator(&once, |n| statements::schema(shard, n, tables), tables).run(pool).await
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

    async fn note_paid(db_tx: &mut MySqlConnection, notices: &[(i64, i64, i64)]) -> sqlx::Result<()> {
        const SQL: &str = "-- coupon_note_paid
            INSERT INTO paid_notice(order_id, user_id, paid_cents)
            SELECT * FROM JSON_TABLE(?, '$[*]' COLUMNS (order_id BIGINT PATH '$[0]', user_id BIGINT PATH '$[1]',
                paid_cents BIGINT PATH '$[2]')) AS j
            ON DUPLICATE KEY UPDATE user_id = paid_notice.user_id";
        let rows = serde_json::to_string(notices).expect("numbers have a form in JSON");
        sqlx::query(SQL).bind(rows).execute(db_tx).await.map(drop)
    }
}
