//! One connection that can only read, to either kind of database.

use anyhow::bail;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, MySqlConnection, Row as _, SqliteConnection};
use tercet_order::store::Key;

/// The connection.
pub(super) enum Reader {
    Sqlite(SqliteConnection),
    MySql(MySqlConnection),
}

impl Reader {
    pub(super) async fn open(url: &str) -> anyhow::Result<Self> {
        if url.starts_with("sqlite:") {
            let options: SqliteConnectOptions = url.parse()?;
            return Ok(Self::Sqlite(options.read_only(true).disable_statement_logging().connect().await?));
        }
        if !url.starts_with("mysql:") && !url.starts_with("mariadb:") {
            bail!("a URL begins with sqlite: or mysql:");
        }
        let options: MySqlConnectOptions = url.parse()?;
        let mut connection = options.disable_statement_logging().connect().await?;
        // Every statement sees what is committed then, and none can write.
        let settings = "SET SESSION TRANSACTION READ ONLY, ISOLATION LEVEL READ COMMITTED";
        sqlx::raw_sql(settings).execute(&mut connection).await?;
        Ok(Self::MySql(connection))
    }

    /// Rows of numbers. The text is the same for both kinds, and made of this program's own words and of numbers.
    pub(super) async fn numbers<const N: usize>(&mut self, sql: String) -> anyhow::Result<Vec<[Option<i64>; N]>> {
        macro_rules! rows {
            ($connection:ident) => {{
                let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all($connection).await?;
                let mut numbers = Vec::with_capacity(rows.len());
                for row in &rows {
                    let mut one = [None; N];
                    for (at, number) in one.iter_mut().enumerate() {
                        *number = row.try_get(at)?;
                    }
                    numbers.push(one);
                }
                Ok(numbers)
            }};
        }
        match self {
            Self::Sqlite(connection) => rows!(connection),
            Self::MySql(connection) => rows!(connection),
        }
    }

    /// Rows of a number and a text.
    pub(super) async fn texts(&mut self, sql: &str) -> anyhow::Result<Vec<(i64, String)>> {
        match self {
            Self::Sqlite(connection) => Ok(sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_all(connection).await?),
            Self::MySql(connection) => Ok(sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_all(connection).await?),
        }
    }
}

/// For `IN (…)`, which is never empty.
pub(super) fn list(ids: impl IntoIterator<Item = i64>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    if ids.is_empty() { "NULL".to_owned() } else { ids.join(",") }
}

/// For `WITH`: the table `wanted` of these orders, by shop and number. A statement that begins with it finds each by
/// its whole key on both kinds.
pub(super) fn orders<'a>(keys: impl IntoIterator<Item = &'a Key>) -> String {
    let keys: Vec<String> = keys.into_iter().map(|key| format!("({},{})", key.shop_id, key.order_id)).collect();
    let keys = if keys.is_empty() { "(NULL,NULL)".to_owned() } else { keys.join(",") };
    format!("WITH wanted(shop_id, order_id) AS (VALUES {keys})")
}
