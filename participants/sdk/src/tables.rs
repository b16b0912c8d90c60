//! Makes the tables of one owner in a database, or brings them up to date: one process at a time.
//!
//! Services that share a database start together, and several instances of one do. Whoever comes first makes the
//! tables under the database's own lock; the others wait, and find them whole.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Connection as _, Pool, SqlSafeStr as _, SqlStr};

use crate::fence::Dialect;

/// How long another process may be at it.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// Why there are no tables.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds the lock: look at what it does, or start again later.
    #[error("another process has been making tables in this database for {} s", WAIT.as_secs())]
    Held,
    /// The database does not answer, or does not give the lock: start again.
    #[error("the lock on making tables")]
    Lock(#[source] sqlx::Error),
    /// The tables can not be made, or are not those of this version.
    #[error("the tables can not be made")]
    Migrate(#[from] MigrateError),
}

impl From<Error> for sqlx::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Held => Self::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, error)),
            Error::Lock(error) => error,
            Error::Migrate(error) => error.into(),
        }
    }
}

/// These versions of a schema, numbered from 1.
pub fn versions<const N: usize>(schema: [&'static str; N]) -> impl Iterator<Item = (i64, SqlStr)> {
    (1..).zip(schema.map(|sql| sql.into_sql_str()))
}

/// Applies what is missing of an owner's schema, by rising numbers, on a connection of its own. What was applied is
/// kept in the table `{owner}_migrations`, so that several owners can share a database, and must not change later.
///
/// MariaDB undoes no statement that makes a table: a version whose maker died within it is applied again, so each
/// statement of a version there has to be one that can be repeated (`IF NOT EXISTS`, `INSERT IGNORE`).
///
/// # Errors
/// Those of [`Error`].
pub async fn make<Db: Dialect>(
    pool: &Pool<Db>,
    owner: &'static str,
    schema: impl IntoIterator<Item = (i64, SqlStr)>,
) -> Result<(), Error> {
    let migration = |(version, sql)| Migration::new(version, owner.into(), MigrationType::Simple, sql, false);
    let mut migrator = Migrator::with_migrations(schema.into_iter().map(migration).collect());
    migrator.dangerous_set_table_name(format!("{owner}_migrations"));
    // Its own lock is none on MariaDB, where a wait without end is refused, and none on SQLite.
    migrator.set_locking(false);
    let mut connection = Db::connect(pool).await.map_err(Error::Lock)?;
    Db::make_tables(&mut connection, &migrator).await?;
    // What was made stays whatever becomes of the connection.
    let _ = connection.close().await;
    Ok(())
}
