//! What a service keeps in MariaDB, copied to the SQLite file in which the rules look for it.

use std::path::Path;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, MySqlConnection, SqliteConnection};

use super::history::CHUNK;
use crate::shop;

/// A table, and those of its columns that a rule reads.
struct Table {
    name: &'static str,
    columns: &'static [&'static str],
}

const FENCE: Table = Table { name: "tercet_fence", columns: &["xid", "branch", "state"] };

/// Those of each of [`shop::SERVICES`], besides the fence.
const TABLES: [&[Table]; shop::SERVICES.len()] = [
    &[Table { name: "stock", columns: &["item", "total", "free", "reserved", "issued"] }],
    &[
        Table { name: "claimed_000", columns: &["user_id", "template_id", "claimed", "per_user"] },
        Table {
            name: "coupon_000",
            columns: &[
                "coupon_id",
                "template_id",
                "user_id",
                "status",
                "shop_id",
                "order_id",
                "discount_cents",
                "batch",
            ],
        },
    ],
    &[Table {
        name: "orders",
        columns: &[
            "shop_id",
            "order_id",
            "user_id",
            "item",
            "count",
            "coupon_id",
            "amount_cents",
            "discount_cents",
            "status",
        ],
    }],
];

/// The one column that is bytes.
const BYTES: &str = "xid";

/// Copies what one of the real services has in MariaDB to `folder/SERVICE.db`, in place of what is there. The tables
/// have no constraints: what the server let in, the checker shall see.
///
/// # Errors
/// When either can not be reached, or the service is none of [`shop::SERVICES`].
pub async fn copy(from: &mut MySqlConnection, folder: &Path, service: &str) -> anyhow::Result<()> {
    let at = shop::SERVICES.iter().position(|name| *name == service).context("it is none of the services")?;
    let path = folder.join(format!("{service}.db"));
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true).disable_statement_logging();
    let mut to = options.connect().await?;
    for table in TABLES[at].iter().chain([&FENCE]) {
        copy_table(from, &mut to, table).await.with_context(|| format!("{service}'s table {}", table.name))?;
    }
    Ok(to.close().await?)
}

async fn copy_table(from: &mut MySqlConnection, to: &mut SqliteConnection, table: &Table) -> anyhow::Result<()> {
    let Table { name, columns } = table;
    let create = format!("CREATE TABLE \"{name}\" ({})", columns.join(", "));
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *to).await?;
    // Rows travel as JSON arrays, bytes in hexadecimal digits.
    let read =
        columns.iter().map(|column| if *column == BYTES { format!("HEX({column})") } else { format!("`{column}`") });
    let read = format!("SELECT JSON_ARRAY({}) FROM `{name}`", read.collect::<Vec<_>>().join(", "));
    let write = columns
        .iter()
        .enumerate()
        .map(|(at, column)| if *column == BYTES { format!("unhex(value->>{at})") } else { format!("value->>{at}") });
    let write = write.collect::<Vec<_>>().join(", ");
    let write = format!("INSERT INTO \"{name}\" SELECT {write} FROM json_each($1)");
    let mut rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(read)).fetch(from).try_chunks(CHUNK);
    while let Some(rows) = rows.try_next().await? {
        let rows = format!("[{}]", rows.join(","));
        sqlx::query(AssertSqlSafe(write.as_str())).bind(rows).execute(&mut *to).await?;
    }
    Ok(())
}
