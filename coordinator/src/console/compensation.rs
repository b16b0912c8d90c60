//! `tercet compensation`.

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tercet_core::Timestamp;
use tercet_proto::admin::v1 as pb;

use super::Error;
use super::change::{Difference, Sure, Why, lines, tell};
use super::client::{Client, request};
use super::show::{Screen, iso, relative, short, span, table, wrap, xid};
use crate::limits;
use crate::store::CompensationStatus;

/// What to do with compensations.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Command {
    /// List the rows of compensation_log, oldest first
    List(Filter),
    /// Call rows at once, with all their attempts before them
    Retry(Retry),
    /// Mark a parked row as done, because its work was done by hand
    Resolve {
        /// Its id
        id: u64,
        #[command(flatten)]
        sure: Sure,
    },
}

/// Which rows to retry.
#[derive(Args, Clone, Debug)]
pub(super) struct Retry {
    /// Their ids
    #[arg(required_unless_present_any = ["service", "status"])]
    ids: Vec<u64>,
    /// All of this service instead
    #[arg(long, conflicts_with = "ids")]
    service: Option<String>,
    /// All in this status instead: pending or failed
    #[arg(long, value_enum, conflicts_with = "ids")]
    status: Option<Status>,
    #[command(flatten)]
    why: Why,
}

/// What has become of a compensation.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Status {
    /// Retried by the scanner
    Pending,
    /// Done
    Done,
    /// Parked: waits for a person
    Failed,
}

/// Which compensations.
#[derive(Args, Clone, Debug)]
pub(super) struct Filter {
    /// Those in this status
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// Those of this service
    #[arg(long)]
    service: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = limits::PAGE_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::PAGE_MAX)))]
    limit: u32,
    /// Those with a higher id: that of the last of the page before
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: u64,
}

/// A compensation, for programs.
#[derive(Serialize)]
struct Compensation {
    id: u64,
    xid: String,
    branch: u32,
    service: String,
    operation: String,
    coupon_id: Option<i64>,
    status: &'static str,
    retry_count: u32,
    create_time: String,
    next_retry_time: String,
    last_error: String,
}

/// A page, for programs.
#[derive(Serialize)]
struct Page {
    compensations: Vec<Compensation>,
    /// For `--after`, to get the next page.
    next: Option<u64>,
}

fn status(row: &pb::Compensation) -> &'static str {
    match CompensationStatus::from_number(row.status) {
        Some(CompensationStatus::Pending) => "pending",
        Some(CompensationStatus::Done) => "done",
        Some(CompensationStatus::Failed) => "failed",
        None => "unknown",
    }
}

impl From<&pb::Compensation> for Compensation {
    fn from(row: &pb::Compensation) -> Self {
        Self {
            id: row.id,
            xid: xid(&row.xid),
            branch: row.branch,
            service: row.service.clone(),
            operation: row.operation.clone(),
            coupon_id: row.coupon_id,
            status: status(row),
            retry_count: row.retry_count,
            create_time: iso(row.create_time_ms),
            next_retry_time: iso(row.next_retry_time_ms),
            last_error: row.last_error.clone(),
        }
    }
}

/// Does it.
pub(super) async fn run(command: Command, mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let filter = match command {
        Command::List(filter) => filter,
        Command::Retry(options) => return retry(options, client, screen).await,
        Command::Resolve { id, sure } => {
            sure.ask(&format!("Nobody calls compensation {id} any more"))?;
            let asked = client.named(pb::ResolveCompensationRequest { id, change: sure.change() })?;
            let told = client.admin.resolve_compensation(asked).await.map_err(|status| no_row(id, &client, &status));
            return tell(told?.into_inner().changed, &sure.why(), screen);
        }
    };
    let status = filter.status.map(|status| match status {
        Status::Pending => CompensationStatus::Pending,
        Status::Done => CompensationStatus::Done,
        Status::Failed => CompensationStatus::Failed,
    });
    let asked = pb::ListCompensationsRequest {
        status: status.map(|status| status as u32),
        service: filter.service.unwrap_or_default(),
        limit: filter.limit,
        after_id: filter.after,
    };
    let rows = client.admin.list_compensations(request(asked)).await;
    let rows = rows.map_err(|status| client.blame("like that", &status))?.into_inner().compensations;
    let next = rows.last().filter(|_| rows.len() == filter.limit as usize).map(|row| row.id);
    if screen.json {
        let compensations = rows.iter().map(Compensation::from).collect();
        return screen.document(&Page { compensations, next });
    }
    if rows.is_empty() {
        return screen.text("No such compensations");
    }
    screen.text(&listing(&rows, screen.now(), screen.color))?;
    next.map_or(Ok(()), |next| screen.text(&format!("\nNewer ones: --after {next}")))
}

/// What a status means for whoever asked about a row.
fn no_row(id: u64, client: &Client, status: &tonic::Status) -> Error {
    if status.code() == tonic::Code::NotFound { Error::NoRow(id) } else { client.blame("like that", status) }
}

/// What became of all of them, for programs.
#[derive(Serialize)]
struct AllRetried {
    dry_run: bool,
    compensations: Vec<Retried>,
}

/// What became of one row, for programs.
#[derive(Serialize)]
struct Retried {
    id: u64,
    xid: String,
    branch: u32,
    difference: Option<Difference>,
    error: Option<String>,
}

/// Retries page after page. That some could not be is told at the end.
async fn retry(options: Retry, mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let status = options.status.map(|status| match status {
        Status::Pending => 0,
        Status::Done => 1,
        Status::Failed => 2,
    });
    let mut asked = pb::RetryCompensationsRequest {
        ids: options.ids,
        status,
        service: options.service.unwrap_or_default(),
        limit: limits::PAGE_DEFAULT,
        after_id: 0,
        change: options.why.change(),
    };
    let (dry_run, wanted) = (options.why.is_dry_run(), asked.service.clone());
    let (mut all, mut failed, mut unknown) = (Vec::new(), 0, Vec::new());
    loop {
        let told = client.admin.retry_compensations(client.named(asked.clone())?).await;
        let told = told.map_err(|status| client.blame("like that", &status))?.into_inner();
        for one in told.changed {
            let (difference, error) = match one.result {
                Some(pb::compensation_changed::Result::Difference(difference)) => (Some(difference), None),
                Some(pb::compensation_changed::Result::Error(_)) if one.xid.is_empty() => {
                    unknown.push(one.id);
                    (None, Some("there is no such row".to_owned()))
                }
                Some(pb::compensation_changed::Result::Error(error)) => (None, Some(error.message)),
                None => (None, None),
            };
            failed += usize::from(error.is_some());
            if !screen.json {
                let about = match &*one.xid {
                    [] => one.id.to_string(),
                    bytes => format!("{}  {} branch {}", one.id, xid(bytes), one.branch),
                };
                let told = difference.as_ref().map(|difference| lines(difference, screen.now()));
                let told = told.or_else(|| error.as_ref().map(|error| format!("  left as it is: {error}")));
                screen.text(&format!("{about}\n{}", told.unwrap_or_default()))?;
            }
            let difference = difference.as_ref().map(Difference::from);
            all.push(Retried { id: one.id, xid: xid(&one.xid), branch: one.branch, difference, error });
        }
        asked.after_id = told.next_id;
        if told.next_id == 0 {
            break;
        }
    }
    let count = all.len();
    if screen.json {
        screen.document(&AllRetried { dry_run, compensations: all })?;
    } else {
        let done = if dry_run { "would be called" } else { "called" };
        screen.text(&format!("{} {done}", count - failed))?;
    }
    if count == 0 {
        let of = if wanted.is_empty() { String::new() } else { format!(" of {}", short(&wanted, 64)) };
        return Err(Error::Unfit(format!("no row{of} waits like that; see `tercet compensation list`")));
    }
    if let [id, ..] = *unknown
        && unknown.len() == count
    {
        return Err(Error::NoRow(id));
    }
    if failed > 0 { Err(Error::Some { failed, all: count }) } else { Ok(()) }
}

/// Up to three lines each: with its xid and its error a row does not fit on one.
fn listing(rows: &[pb::Compensation], now: Timestamp, color: bool) -> String {
    let cells = rows.iter().map(|row| {
        let next = match CompensationStatus::from_number(row.status) {
            Some(CompensationStatus::Pending) if row.next_retry_time_ms <= now.0 => "due".to_owned(),
            Some(CompensationStatus::Pending) => relative(row.next_retry_time_ms, now),
            Some(CompensationStatus::Done | CompensationStatus::Failed) | None => "-".to_owned(),
        };
        vec![
            row.id.to_string(),
            status(row).to_owned(),
            short(&format!("{} {}", row.service, row.operation), 30),
            row.retry_count.to_string(),
            span(now.0.saturating_sub(row.create_time_ms)),
            next,
            row.coupon_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        ]
    });
    let header = ["ID", "STATUS", "OPERATION", "RETRIES", "AGE", "NEXT", "COUPON"];
    let table = table(&header, cells.collect(), Some(1), color);
    let mut lines: Vec<String> = table.lines().take(1).map(str::to_owned).collect();
    for (line, row) in table.lines().skip(1).zip(rows) {
        lines.push(line.to_owned());
        lines.push(format!("    {} branch {}", xid(&row.xid), row.branch));
        if !row.last_error.is_empty() {
            lines.push(format!("    {}", wrap(&row.last_error, 4)));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_what_waits_for_whom_since_when_and_why() {
        let pending = pb::Compensation {
            id: 7,
            xid: vec![0xab; 16].into(),
            branch: 2,
            service: "coupon".into(),
            operation: "cancel".into(),
            coupon_id: Some(42),
            status: 0,
            retry_count: 3,
            create_time_ms: 1_000,
            next_retry_time_ms: 64_000,
            last_error: "no\tanswer".into(),
        };
        let failed =
            pb::Compensation { id: 12, status: 2, coupon_id: None, last_error: String::new(), ..pending.clone() };
        let expected = "\
ID  STATUS   OPERATION      RETRIES  AGE  NEXT   COUPON
7   pending  coupon cancel  3        60s  in 3s  42
    abababab-abab-abab-abab-abababababab branch 2
    no answer
12  failed   coupon cancel  3        60s  -      -
    abababab-abab-abab-abab-abababababab branch 2";
        assert_eq!(listing(&[pending, failed], Timestamp(61_000), false), expected);
    }
}
