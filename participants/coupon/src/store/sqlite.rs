//! How statements are run on SQLite: each is prepared once, and gets what it is about as a parameter.
//!
//! Reads of one kind that follow one another are run as one statement of several parts: the way to the connection's
//! thread and the look at what has been written since cost as much as the rows.

use std::sync::{Arc, OnceLock};

use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Pool, Row as _, Sqlite, SqliteConnection};
use tercet::tables;

use super::statements::{self, KINDS, Kind};
use super::{Notice, Ran, Statement, Store, broken};
use crate::schema;

/// Parts of the statements that are made of one that reads: few texts are to be prepared for it.
const PARTS: [usize; 2] = [4, PARTS_MAX];
/// Most of them.
const PARTS_MAX: usize = 16;
/// So many tables have such statements. Of many tables each is seldom read twice at once, and its texts would be kept,
/// and take the places of others among those that a connection has prepared.
const PARTS_TABLES: usize = 16;

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
    let (text, parts) = parts_text(*kind, *table, numbers(about).count(), alike.len());
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

/// The text of a statement that reads one of the first [`PARTS_TABLES`] tables at least so many times, each time by
/// parameters of its own, and how often that is. Before each row stands the number of its part.
fn parts_text(kind: Kind, n: usize, parameters: usize, least: usize) -> (Arc<str>, usize) {
    const TEXTS_MAX: usize = KINDS * PARTS_TABLES * PARTS.len();
    static TEXTS: [OnceLock<Arc<str>>; TEXTS_MAX] = [const { OnceLock::new() }; TEXTS_MAX];
    let size = PARTS.iter().position(|parts| *parts >= least).unwrap_or(PARTS.len() - 1);
    let whole = || {
        let one = statements::sqlite(kind, n);
        let part = |part: usize| {
            let mut pieces = one.split('$');
            let mut text = format!("SELECT {part}, * FROM ({}", pieces.next().unwrap_or_default());
            for piece in pieces {
                let (digit, rest) = piece.split_at(1);
                let number = digit.parse::<usize>().unwrap_or_default() + part * parameters;
                text.extend(["$", &number.to_string(), rest]);
            }
            text + ")"
        };
        (0..PARTS[size]).map(part).collect::<Vec<_>>().join(" UNION ALL ").into()
    };
    let text = TEXTS[(kind as usize * PARTS_TABLES + n) * PARTS.len() + size].get_or_init(whole);
    (Arc::clone(text), PARTS[size])
}

fn numbers(about: &str) -> impl Iterator<Item = i64> {
    about.trim_matches(['[', ']']).split(',').filter_map(|text| text.parse().ok())
}
