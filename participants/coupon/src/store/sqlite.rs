//! How statements are run on SQLite: each is prepared once, and gets what it is about as a parameter.
//!
//! Reads of one kind that follow one another are run as one statement of several parts: the way to the connection's
//! thread and the look at what has been written since cost as much as the rows.

use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Pool, Row as _, Sqlite, SqliteConnection};
use tercet::tables;

use super::statements::{self, PARTS_MAX, PARTS_TABLES};
use super::{Notice, Ran, Statement, Store, broken};
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
        let alike = |one: &Statement, next: &Statement| {
            let parts = one.kind.is_about_numbers() && one.table < PARTS_TABLES;
            parts && (one.kind, one.table) == (next.kind, next.table)
        };
        let mut ran = Vec::with_capacity(all.len());
        for some in all.chunk_by(alike).flat_map(|some| some.chunks(PARTS_MAX)) {
            match some {
                [one] => ran.push(run_one(db_tx, one).await?),
                _ => ran.extend(run_parts(db_tx, some).await?),
            }
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

async fn run_one(db_tx: &mut SqliteConnection, one: &Statement) -> sqlx::Result<Ran> {
    let Statement { kind, table, about } = one;
    let query = sqlx::query(AssertSqlSafe(statements::sqlite(*kind, *table)));
    let query = if kind.is_about_numbers() { numbers(about).fold(query, Query::bind) } else { query.bind(about) };
    if kind.reads() {
        let rows = query.fetch_all(db_tx).await?;
        let rows = rows.iter().map(|row| (0..row.len()).map(|at| row.try_get(at)).collect());
        Ok(Ran { affected: 0, rows: rows.collect::<sqlx::Result<_>>()? })
    } else {
        Ok(Ran { affected: query.execute(db_tx).await?.rows_affected(), rows: Vec::new() })
    }
}

/// Two to [`PARTS_MAX`] reads that are alike.
async fn run_parts(db_tx: &mut SqliteConnection, alike: &[Statement]) -> sqlx::Result<Vec<Ran>> {
    let Statement { kind, table, about } = &alike[0];
    let (text, parts) = statements::sqlite_parts(*kind, *table, numbers(about).count(), alike.len());
    // Nothing is found by zeros.
    let none = (alike.len()..parts).flat_map(|_| numbers(about).map(|_| 0));
    let all = alike.iter().flat_map(|one| numbers(&one.about)).chain(none);
    let rows = all.fold(sqlx::query(AssertSqlSafe(text)), Query::bind).fetch_all(db_tx).await?;
    let mut ran = vec![Ran::default(); alike.len()];
    for row in rows {
        let own = ran.get_mut(row.try_get::<u32, _>(0)? as usize).ok_or_else(|| broken("a part's number"))?;
        own.rows.push((1..row.len()).map(|at| row.try_get(at)).collect::<sqlx::Result<_>>()?);
    }
    Ok(ran)
}

fn numbers(about: &str) -> impl Iterator<Item = i64> {
    about.trim_matches(['[', ']']).split(',').filter_map(|text| text.parse().ok())
}
