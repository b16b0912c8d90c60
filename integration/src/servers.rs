//! The real database servers of the test run.
//!
//! `integration/test.sh` starts them and says where they are. Each caller gets a database of its own, so tests run
//! side by side and leave nothing to one another. The databases go with the servers' folders.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::Connection;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The URL of a fresh, empty PostgreSQL database; `None` where no server was started.
///
/// # Errors
/// When the server does not answer.
pub async fn postgres() -> sqlx::Result<Option<String>> {
    let Some(server) = url("TERCET_TEST_POSTGRES_URL") else { return Ok(None) };
    let name = fresh_name();
    let mut connection = sqlx::PgConnection::connect(&server).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await?;
    connection.close().await?;
    Ok(Some(with_database(&server, &name)))
}

/// The URL of a fresh, empty MariaDB database; `None` where no server was started.
///
/// # Errors
/// When the server does not answer.
pub async fn mariadb() -> sqlx::Result<Option<String>> {
    let Some(server) = url("TERCET_TEST_MARIADB_URL") else { return Ok(None) };
    let name = fresh_name();
    let mut connection = sqlx::MySqlConnection::connect(&server).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await?;
    connection.close().await?;
    Ok(Some(with_database(&server, &name)))
}

/// The address of the Kafka broker of the test run, and a prefix of the caller's own for its topics; `None` where no
/// broker was started.
pub fn kafka() -> Option<(String, String)> {
    Some((url("TERCET_TEST_KAFKA")?, format!("{}.", fresh_name())))
}

#[allow(clippy::disallowed_methods, reason = "the test run's own settings, which no product code reads")]
fn url(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn fresh_name() -> String {
    format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A server's URL ends with the database to log in to.
fn with_database(server: &str, name: &str) -> String {
    let end = server.rfind('/').map_or(server.len(), |slash| slash + 1);
    format!("{}{name}", &server[..end])
}
