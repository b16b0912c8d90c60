//! How statements are run on SQLite: each is prepared once, and gets what it is about as a parameter.

use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Pool, Row as _, Sqlite, SqliteConnection};
use tercet::tables;

use super::{Notice, Ran, Statement, Store, statements};
use crate::schema;

impl Store for Sqlite {
    const LOCKS_BY_ROW: bool = false;

    async fn migrate(pool: &Pool<Self>, count: usize) -> Result<(), tables::Error> {
        let once = [
            include_str!("../../../../sql/coupon/sqlite/0001_coupon.sql"),
            include_str!("../../../../sql/coupon/sqlite/0002_issue.sql"),
            include_str!("../../../../sql/coupon/sqlite/0003_jobs.sql"),
            include_str!("../../../../sql/coupon/sqlite/0004_redemption.sql"),
            include_str!("../../../../sql/coupon/sqlite/0005_slots.sql"),
        ];
        let shard = include_str!("../../../../sql/coupon/sqlite/shard.sql");
        let schema = schema::versions(once, |n| statements::schema(shard, n, count), count);
        tables::make(pool, schema::OWNER, schema).await
    }

    async fn run(db_tx: &mut SqliteConnection, all: &[Statement]) -> sqlx::Result<Vec<Ran>> {
        let mut ran = Vec::with_capacity(all.len());
        for Statement { kind, table, about } in all {
            let query = sqlx::query(AssertSqlSafe(statements::sqlite(*kind, *table)));
            let query = if kind.is_about_numbers() {
                let numbers = about.trim_matches(['[', ']']).split(',').filter_map(|text| text.parse::<i64>().ok());
                numbers.fold(query, Query::bind)
            } else {
                query.bind(about)
            };
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

    async fn note_paid(db_tx: &mut SqliteConnection, notices: &[Notice]) -> sqlx::Result<()> {
        const SQL: &str = "-- coupon_note_paid
            INSERT INTO paid_notice(order_id, shop_id, user_id, paid_cents, slot)
            SELECT value->>'order_id', value->>'shop_id', value->>'user_id', value->>'paid_cents', value->>'slot'
            FROM json_each($1) WHERE true
            ON CONFLICT(order_id, shop_id) DO NOTHING";
        let rows = serde_json::to_string(notices).expect("numbers have a form in JSON");
        sqlx::query(SQL).bind(rows).execute(db_tx).await.map(drop)
    }
}
