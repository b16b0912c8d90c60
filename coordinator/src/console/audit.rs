//! `tercet audit`: who changed what, and whether the log is as it was written.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use sqlx::sqlite::SqlitePoolOptions;
use tercet_core::{Timestamp, Xid};
use tercet_proto::admin::v1 as pb;

use super::Error;
use super::client::{Client, request};
use super::offline::reading;
use super::show::{Screen, hex, iso, one_line, wrap, xid};
use crate::audit::{AuditRow, AuditWrite, Broken, Head, Verifier};
use crate::limits;
use crate::store::AuditQuery;
use crate::store::sqlite::audit;

/// What to do with the audit log.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Command {
    /// List the newest rows, oldest of them first, and the head of the log
    List(Filter),
    /// Check every row against the chain of hashes, and name the first that is broken
    Verify(Verify),
}

/// Which rows.
#[derive(Args, Clone, Debug)]
pub(super) struct Filter {
    /// Those about this transaction
    #[arg(long)]
    xid: Option<Xid>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = limits::PAGE_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::PAGE_MAX)))]
    limit: u32,
    /// Those with a lower id: that of the first of the page before
    #[arg(long, value_name = "ID")]
    before: Option<u64>,
}

/// Against what.
#[derive(Args, Clone, Debug)]
pub(super) struct Verify {
    /// The head that `audit list` told earlier: rows cut off at the end are found only with it
    #[arg(long, value_name = "HASH:COUNT", value_parser = head)]
    head: Option<Head>,
    /// Read the folder of a store on this machine instead of asking a coordinator
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Verify {
    /// Whether no coordinator is asked.
    pub(super) fn offline(&self) -> bool {
        self.data.is_some()
    }
}

fn head(text: &str) -> Result<Head, &'static str> {
    let read = || {
        let (hash, count) = text.split_once(':')?;
        let mut bytes = [0; 32];
        if hash.len() != 64 || !hash.is_ascii() {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hash[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Head { count: count.parse().ok()?, hash: bytes })
    };
    read().ok_or("a head is HASH:COUNT, as `tercet audit list` tells it")
}

/// A row, for programs.
#[derive(Serialize)]
struct Row {
    id: u64,
    at: String,
    who: String,
    act: String,
    xid: Option<String>,
    why: String,
    before: serde_json::Value,
    after: serde_json::Value,
    hash: String,
}

#[derive(Serialize)]
struct Page {
    rows: Vec<Row>,
    /// For `audit verify --head`.
    head: String,
}

#[derive(Serialize)]
struct Verdict {
    ok: bool,
    rows: u64,
    head: Option<String>,
    broken: Option<String>,
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

impl From<&pb::AuditRow> for Row {
    fn from(row: &pb::AuditRow) -> Self {
        Self {
            id: row.id,
            at: iso(row.at_ms),
            who: row.who.clone(),
            act: row.act.clone(),
            xid: (!row.xid.is_empty()).then(|| xid(&row.xid)),
            why: row.why.clone(),
            before: json(&row.before),
            after: json(&row.after),
            hash: hex(&row.hash),
        }
    }
}

pub(super) async fn list(filter: Filter, mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let asked = pb::ListAuditRequest {
        xid: filter.xid.map_or_else(Vec::new, |xid| xid.0.to_vec()).into(),
        limit: filter.limit,
        after_id: 0,
        before_id: filter.before.unwrap_or(u64::MAX),
    };
    let page = client.admin.list_audit(request(asked)).await;
    let page = page.map_err(|status| client.blame("like that", &status))?.into_inner();
    let head = format!("{}:{}", hex(&page.head), page.count);
    if screen.json {
        return screen.document(&Page { rows: page.rows.iter().map(Row::from).collect(), head });
    }
    if page.rows.is_empty() {
        return screen.text("Nobody has changed anything like that");
    }
    for row in &page.rows {
        let about = if row.xid.is_empty() { String::new() } else { format!("  {}", xid(&row.xid)) };
        screen.text(&format!("{:>4}  {}  {}  {}{about}", row.id, iso(row.at_ms), one_line(&row.who), row.act))?;
        if !row.why.is_empty() {
            screen.text(&format!("      because {}", wrap(&row.why, 14)))?;
        }
        screen.text(&format!("      from    {}\n      to      {}", one_line(&row.before), one_line(&row.after)))?;
    }
    screen.text(&format!("\nHead, to be kept elsewhere: {head}"))
}

/// Checks the log. A broken one is an error.
pub(super) async fn verify(options: Verify, client: Option<Client>, screen: &mut Screen<'_>) -> Result<(), Error> {
    let mut verifier = Verifier::against(options.head);
    let checked = match (&options.data, client) {
        (Some(folder), _) => offline(folder, &mut verifier).await?,
        (None, Some(client)) => online(client, &mut verifier).await?,
        (None, None) => Ok(()),
    };
    let verdict = checked.and_then(|()| verifier.end());
    if screen.json {
        let told = |head: &Head| format!("{}:{}", hex(&head.hash), head.count);
        screen.document(&Verdict {
            ok: verdict.is_ok(),
            rows: verdict.as_ref().map_or(0, |head| head.count),
            head: verdict.as_ref().ok().map(told),
            broken: verdict.as_ref().err().map(ToString::to_string),
        })?;
    }
    let head = verdict.map_err(|broken| Error::Broken(broken.to_string()))?;
    if screen.json {
        return Ok(());
    }
    screen.text(&format!("The log is sound: {} rows, head {}:{}", head.count, hex(&head.hash), head.count))
}

async fn online(mut client: Client, verifier: &mut Verifier) -> Result<Result<(), Broken>, Error> {
    let mut after_id = 0;
    loop {
        let asked = pb::ListAuditRequest { limit: limits::PAGE_MAX, after_id, ..pb::ListAuditRequest::default() };
        let page = client.admin.list_audit(request(asked)).await;
        let rows = page.map_err(|status| client.blame("like that", &status))?.into_inner().rows;
        let Some(last) = rows.last().map(|row| row.id) else { return Ok(Ok(())) };
        for row in rows {
            let write = AuditWrite {
                who: row.who,
                act: row.act,
                xid: Xid::from_slice(&row.xid),
                why: row.why,
                before: row.before,
                after: row.after,
            };
            let (previous, hash) = (row.previous.to_vec(), row.hash.to_vec());
            let row = AuditRow { id: row.id, at: Timestamp(row.at_ms), write, previous, hash };
            if let Err(broken) = verifier.check(&row) {
                return Ok(Err(broken));
            }
        }
        after_id = last;
    }
}

async fn offline(folder: &std::path::Path, verifier: &mut Verifier) -> Result<Result<(), Broken>, Error> {
    let file = folder.join("tercet.db");
    let unread = |error: &dyn std::error::Error| Error::Unread { file: file.clone(), cause: error.to_string() };
    if !file.exists() {
        return Err(Error::Unread { file, cause: "there is no such file".into() });
    }
    // One that reads only what stands there: nothing is made, changed or brought up to date.
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(reading(&file)).await;
    let pool = pool.map_err(|error| unread(&error))?;
    let mut after_id = 0;
    loop {
        let query = AuditQuery { after_id, limit: limits::PAGE_MAX, ..AuditQuery::default() };
        let rows = audit::list(&pool, query).await.map_err(|error| unread(&error))?;
        let Some(last) = rows.last().map(|row| row.id) else { return Ok(Ok(())) };
        for row in &rows {
            if let Err(broken) = verifier.check(row) {
                return Ok(Err(broken));
            }
        }
        after_id = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::store::SqliteStore;

    #[tokio::test]
    async fn a_log_at_rest_is_read_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tercet.db");
        let store = SqliteStore::open(&file, SystemClock::start()).await.expect("it opens");
        store.close().await.expect("it closes");
        let before = std::fs::read(&file).expect("it is there");
        let mut verifier = Verifier::against(None);
        assert!(matches!(offline(folder.path(), &mut verifier).await, Ok(Ok(()))));
        assert!(before == std::fs::read(&file).expect("it is there"), "it was changed");
        let names: Vec<_> =
            std::fs::read_dir(&folder).expect("it is there").map(|entry| entry.expect("so").file_name()).collect();
        assert_eq!(names, ["tercet.db"]);
    }

    #[test]
    fn a_head_is_read_as_it_is_told() {
        let told = Head { count: 7, hash: [0xab; 32] };
        assert_eq!(head(&format!("{}:7", hex(&told.hash))), Ok(told));
        for bad in ["", ":", "ab:1", &format!("{}:x", "ab".repeat(32)), &format!("{}:1", "zz".repeat(32))] {
            assert!(head(bad).is_err(), "{bad}");
        }
    }
}
