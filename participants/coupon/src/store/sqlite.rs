//! How statements are run on SQLite: each is prepared once, and gets what it is about as a parameter.

use sqlx::migrate::MigrateError;
use sqlx::{AssertSqlSafe, Pool, Row as _, Sqlite, SqliteConnection};

use super::{Ran, Statement, Store, statements};
use crate::schema;

impl Store for Sqlite {
    const LOCKS_BY_ROW: bool = false;

    async fn making_tables(_: &Pool<Self>) -> sqlx::Result<Option<SqliteConnection>> {
        Ok(None)
    }

    async fn migrate(pool: &Pool<Self>, tables: usize) -> Result<(), MigrateError> {
        let first = include_str!("../../../../sql/coupon/sqlite/0001_coupon.sql");
        let second = include_str!("../../../../sql/coupon/sqlite/0002_shards.sql");
        let third = include_str!("../../../../sql/coupon/sqlite/0003_issue.sql");
        let fourth = include_str!("../../../../sql/coupon/sqlite/0004_jobs.sql");
        let fifth = include_str!("../../../../sql/coupon/sqlite/0005_redemption.sql");
        let shard = include_str!("../../../../sql/coupon/sqlite/shard.sql");
        let once = [first, second, third, fourth, fifth];
        schema::migrator(&once, |n| statements::schema(shard, n, tables), tables).run(pool).await
    }

    async fn run(db_tx: &mut SqliteConnection, all: &[Statement]) -> sqlx::Result<Vec<Ran>> {
        let mut ran = Vec::with_capacity(all.len());
        for Statement { kind, table, about } in all {
            let query = sqlx::query(AssertSqlSafe(statements::sqlite(*kind, *table))).bind(about);
            ran.push(if kind.reads() {
                let rows = query.fetch_all(&mut *db_tx).await?;
                let numbers = rows.iter().map(|row| (0..row.len()).map(|at| row.try_get(at)).collect());
                Ran { affected: 0, rows: numbers.collect::<sqlx::Result<_>>()? }
            } else {
                Ran { affected: query.execute(&mut *db_tx).await?.rows_affected(), rows: Vec::new() }
            });
        }
        Ok(ran)
    }

    async fn note_paid(db_tx: &mut SqliteConnection, notices: &[(i64, i64, i64)]) -> sqlx::Result<()> {
        const SQL: &str = "-- coupon_note_paid
            INSERT INTO paid_notice(order_id, user_id, paid_cents)
            SELECT value->>0, value->>1, value->>2 FROM json_each($1) WHERE true ON CONFLICT(order_id) DO NOTHING";
        let rows = serde_json::to_string(notices).expect("numbers have a form in JSON");
        sqlx::query(SQL).bind(rows).execute(db_tx).await.map(drop)
    }
}
