//! How the tables are made: those that there are once, and those of each number.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, SqlSafeStr as _};

/// The versions of the schema of numbered tables begin here: one for each number.
const NUMBERED: i64 = 1_000_000;

/// Applies what there is once, oldest first, and then the tables of each number.
pub(crate) fn migrator(once: &[&'static str], numbered: impl Fn(usize) -> String, tables: usize) -> Migrator {
    let simple =
        |version, name: &'static str, sql| Migration::new(version, name.into(), MigrationType::Simple, sql, false);
    let once = (1..).zip(once).map(|(version, sql)| simple(version, "coupon", (*sql).into_sql_str()));
    let numbered = (NUMBERED..)
        .zip(0..tables)
        .map(|(version, table)| simple(version, "shard", AssertSqlSafe(numbered(table)).into_sql_str()));
    let mut migrator = Migrator::with_migrations(once.chain(numbered).collect());
    // The fence lives in this database too, and keeps its own count.
    migrator.dangerous_set_table_name("coupon_migrations");
    migrator
}
