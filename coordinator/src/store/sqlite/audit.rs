//! The audit log in its table.

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, QueryBuilder, Row as _, Sqlite};
use tercet_core::{Timestamp, Xid};

use super::number;
use crate::audit::{AuditRow, AuditWrite, Head};
use crate::store::AuditQuery;

/// Texts as bytes: one that somebody has made invalid is a changed row, and not a failure to read.
const COLUMNS: &str = "id, at, CAST(who AS BLOB), CAST(act AS BLOB), xid, CAST(why AS BLOB), CAST(before AS BLOB), \
    CAST(after AS BLOB), previous, hash";

/// Where the next row goes.
pub(super) async fn head(connection: &mut SqliteConnection) -> Result<Head, sqlx::Error> {
    let sql = format!("-- audit_head\nSELECT {COLUMNS} FROM audit ORDER BY id DESC LIMIT 1");
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_optional(connection).await?;
    let last = row.as_ref().map(decode).transpose()?;
    Ok(last.as_ref().and_then(AuditRow::head).unwrap_or_default())
}

/// A row as the inside of a JSON array.
pub(super) fn fields(row: &AuditRow) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let AuditWrite { who, act, xid, why, before, after } = &row.write;
    let text = |text: &str| serde_json::Value::from(text);
    let xid = xid.map_or(serde_json::Value::Null, |xid| xid.to_string().into());
    format!(
        "{},{},{},{},{xid},{},{},{},\"{}\",\"{}\"",
        row.id,
        row.at.0,
        text(who),
        text(act),
        text(why),
        text(before),
        text(after),
        hex(&row.previous),
        hex(&row.hash)
    )
}

/// Its rows, read from a file of this store.
///
/// # Errors
/// When they can not be read.
pub(crate) async fn list(readers: &SqlitePool, query: AuditQuery) -> Result<Vec<AuditRow>, sqlx::Error> {
    let mut sql = QueryBuilder::<Sqlite>::new("-- list_audit\nSELECT ");
    sql.push(COLUMNS).push(" FROM audit WHERE id > ").push_bind(number(query.after_id));
    if let Some(xid) = query.xid {
        sql.push(" AND xid = ").push_bind(xid.0.to_vec());
    }
    if let Some(before) = query.before_id {
        sql.push(" AND id < ").push_bind(number(before));
    }
    sql.push(if query.before_id.is_some() { " ORDER BY id DESC LIMIT " } else { " ORDER BY id LIMIT " });
    sql.push_bind(i64::from(query.limit));
    let rows = sql.build().fetch_all(readers).await?;
    let mut rows = rows.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    if query.before_id.is_some() {
        rows.reverse();
    }
    Ok(rows)
}

fn decode(row: &SqliteRow) -> Result<AuditRow, sqlx::Error> {
    let text = |index| Ok::<_, sqlx::Error>(String::from_utf8_lossy(row.try_get(index)?).into_owned());
    let xid: Option<&[u8]> = row.try_get(4)?;
    Ok(AuditRow {
        id: row.try_get::<i64, _>(0)?.cast_unsigned(),
        at: Timestamp(row.try_get::<i64, _>(1)?.cast_unsigned()),
        write: AuditWrite {
            who: text(2)?,
            act: text(3)?,
            xid: xid.and_then(Xid::from_slice),
            why: text(5)?,
            before: text(6)?,
            after: text(7)?,
        },
        previous: row.try_get(8)?,
        hash: row.try_get(9)?,
    })
}
