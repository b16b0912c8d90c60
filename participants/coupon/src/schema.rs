//! How the tables are made: those that there are once, and those of each number.

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};
use tercet::tables;

/// The owner of the tables.
pub(crate) const OWNER: &str = "coupon";

/// The versions of the schema of numbered tables begin here: one for each number.
const NUMBERED: i64 = 1_000_000;

/// What there is once, oldest first, and then the tables of each number.
pub(crate) fn versions<const N: usize>(
    once: [&'static str; N],
    numbered: impl Fn(usize) -> String,
    tables: usize,
) -> impl Iterator<Item = (i64, SqlStr)> {
    let numbered = (0..tables).map(move |table| AssertSqlSafe(numbered(table)).into_sql_str());
    tables::versions(once).chain((NUMBERED..).zip(numbered))
}
