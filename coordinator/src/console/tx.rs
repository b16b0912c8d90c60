//! `tercet tx`.

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tercet_core::Xid;
use tercet_proto::admin::v1 as pb;
use tercet_proto::admin::v1::get_transaction_request::Key;
use tercet_proto::coordinator::v1 as coordinator;

use super::Error;
use super::change::{Forced, Target, tell};
use super::client::{Client, request};
use super::show::{Screen, iso_or_none, one_line, table, wrap, xid};
use super::transaction::{Transaction, change, details, row};
use crate::{limits, names};

/// What to do with transactions.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Command {
    /// Show one: its branches, what became of it and why
    Get(Name),
    /// List them, newest first
    List(Filter),
    /// Follow one until it has ended, a line for each durable change; with --json a document on each line
    Watch {
        /// Its xid
        xid: Xid,
    },
    /// Say what happened to one, why it waits, what you can do, and what happens next
    Explain {
        /// Its xid
        xid: Xid,
    },
    /// Call what waits at once, with all its attempts before it
    Retry(Target),
    /// Let branches wait for a person
    Park(Target),
    /// Hand what is parked back to the scanner
    Resume(Target),
    /// Give branches another retry policy, from their next failed attempt on
    SetRetry {
        #[command(flatten)]
        target: Target,
        /// Attempts in all, after which a branch is parked
        #[arg(long, value_name = "N")]
        attempts: Option<u32>,
        /// The delay before the second attempt, in milliseconds
        #[arg(long, value_name = "MS")]
        first_delay_ms: Option<u32>,
        /// The longest delay, in milliseconds
        #[arg(long, value_name = "MS")]
        delay_max_ms: Option<u32>,
    },
    /// Decide to confirm in the initiator's place; only what is undecided can be forced
    ForceConfirm(Forced),
    /// Decide to cancel in the initiator's place
    ForceCancel(Forced),
}

/// Which transaction.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct Name {
    /// Its xid
    xid: Option<Xid>,
    /// Its idempotency key instead
    #[arg(long)]
    key: Option<String>,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Status {
    Trying,
    Confirming,
    Cancelling,
    Confirmed,
    Cancelled,
}

/// Which transactions.
#[derive(Args, Clone, Debug)]
pub(super) struct Filter {
    /// Those in this status
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// Those that have not ended
    #[arg(long)]
    unfinished: bool,
    /// Those with this label
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Option<String>,
    /// Those with a branch that has this business key
    #[arg(long, value_name = "KEY")]
    business_key: Option<String>,
    /// Those with a branch of this service
    #[arg(long)]
    service: Option<String>,
    /// Those with work that waits for a person
    #[arg(long)]
    parked: bool,
    /// Those older than this, such as 90s, 10m, 6h or 2d
    #[arg(long, value_name = "AGE", value_parser = age)]
    older: Option<u64>,
    /// Those younger than this
    #[arg(long, value_name = "AGE", value_parser = age)]
    younger: Option<u64>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = limits::PAGE_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::PAGE_MAX)))]
    limit: u32,
    /// Those older than this one: the last of the page before
    #[arg(long, value_name = "XID")]
    before: Option<Xid>,
}

fn label(text: &str) -> Result<String, &'static str> {
    if text.contains('=') { Ok(text.to_owned()) } else { Err("a label is NAME=VALUE") }
}

/// Milliseconds of an age.
fn age(text: &str) -> Result<u64, &'static str> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let read = units.into_iter().find_map(|(unit, ms)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(ms));
    read.ok_or("an age is a number with ms, s, m, h or d")
}

/// Does it.
pub(super) async fn run(command: Command, client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let mut admin = client.admin.clone();
    let (xid, why, told) = match command {
        Command::Get(name) => return get(name, client, screen).await,
        Command::List(filter) => return list(filter, client, screen).await,
        Command::Watch { xid } => return watch(xid, client, screen).await,
        Command::Explain { xid } => return explain(xid, client, screen).await,
        Command::Retry(Target { xid, branch, why }) => {
            let asked = client.named(pb::RetryRequest { xid: bytes(xid), branch, change: why.change() })?;
            (xid, why, admin.retry(asked).await.map(|told| told.into_inner().changed))
        }
        Command::Park(Target { xid, branch, why }) => {
            let asked = client.named(pb::ParkRequest { xid: bytes(xid), branch, change: why.change() })?;
            (xid, why, admin.park(asked).await.map(|told| told.into_inner().changed))
        }
        Command::Resume(Target { xid, branch, why }) => {
            let asked = client.named(pb::ResumeRequest { xid: bytes(xid), branch, change: why.change() })?;
            (xid, why, admin.resume(asked).await.map(|told| told.into_inner().changed))
        }
        Command::SetRetry { target: Target { xid, branch, why }, attempts, first_delay_ms, delay_max_ms } => {
            let retry = coordinator::RetryPolicy {
                attempts: attempts.unwrap_or_default(),
                first_delay_ms: first_delay_ms.unwrap_or_default(),
                delay_max_ms: delay_max_ms.unwrap_or_default(),
                ..coordinator::RetryPolicy::default()
            };
            let (retry, change) = (Some(retry), why.change());
            let asked = client.named(pb::SetRetryPolicyRequest { xid: bytes(xid), branch, retry, change })?;
            (xid, why, admin.set_retry_policy(asked).await.map(|told| told.into_inner().changed))
        }
        Command::ForceConfirm(Forced { xid, sure }) => {
            sure.ask(&format!("This confirms {xid}"))?;
            let asked = client.named(pb::ForceConfirmRequest { xid: bytes(xid), change: sure.change() })?;
            (xid, sure.why(), admin.force_confirm(asked).await.map(|told| told.into_inner().changed))
        }
        Command::ForceCancel(Forced { xid, sure }) => {
            sure.ask(&format!("This cancels {xid}"))?;
            let asked = client.named(pb::ForceCancelRequest { xid: bytes(xid), change: sure.change() })?;
            (xid, sure.why(), admin.force_cancel(asked).await.map(|told| told.into_inner().changed))
        }
    };
    tell(told.map_err(|status| client.blame(&xid.to_string(), &status))?, &why, screen)
}

fn bytes(xid: Xid) -> bytes::Bytes {
    xid.0.to_vec().into()
}

/// An explanation, for programs.
#[derive(Serialize)]
struct Explanation {
    transaction: Option<Transaction>,
    lines: Vec<String>,
    waits: Vec<Waits>,
    next_at: Option<String>,
    /// What it is, in a word: nothing, person, service, call, ask-again, log, park, confirm or cancel.
    next_kind: String,
    next: String,
    remedies: Vec<Remedy>,
}

/// Why it has not ended, for each branch that something is still to be done for; without a branch: its initiator has
/// the word.
#[derive(Serialize)]
struct Waits {
    branch: Option<u32>,
    service: String,
    operation: String,
    state: String,
    connected: bool,
    /// When the next thing happens to it by itself.
    until: Option<String>,
    said: String,
    text: String,
}

impl From<pb::WaitsFor> for Waits {
    fn from(one: pb::WaitsFor) -> Self {
        let pb::WaitsFor { branch, service, operation, state, connected, until_ms, said, text } = one;
        Self { branch, service, operation, state, connected, until: iso_or_none(until_ms), said, text }
    }
}

#[derive(Serialize)]
struct Remedy {
    command: String,
    text: String,
    safe: bool,
}

async fn explain(xid: Xid, mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let told = client.admin.explain(request(pb::ExplainRequest { xid: bytes(xid) })).await;
    let told = told.map_err(|status| client.blame(&xid.to_string(), &status))?.into_inner();
    if !screen.json {
        return told.lines.iter().try_for_each(|line| {
            // What is to be typed stays on one line; the rest is wrapped under its heading.
            let (heading, rest) = line.split_once(": ").unwrap_or(("", line));
            if heading.is_empty() || heading.starts_with("Can be done") {
                return screen.text(&one_line(line));
            }
            screen.text(&format!("{heading:<9} {}", wrap(rest, 10)))
        });
    }
    let next = told.next.unwrap_or_default();
    let remedies = told.remedies.into_iter();
    screen.document(&Explanation {
        transaction: told.transaction.as_ref().map(Transaction::from),
        lines: told.lines,
        waits: told.waits.into_iter().map(Waits::from).collect(),
        next_kind: next.kind().as_str_name().trim_start_matches("KIND_").to_lowercase().replace('_', "-"),
        next_at: iso_or_none(next.at_ms),
        next: next.text,
        remedies: remedies.map(|pb::Remedy { command, text, safe }| Remedy { command, text, safe }).collect(),
    })
}

async fn get(name: Name, mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let (what, key) = match (name.xid, name.key) {
        (Some(xid), _) => (xid.to_string(), Key::Xid(xid.0.to_vec().into())),
        (None, key) => {
            let key = key.unwrap_or_default();
            (format!("with the key {key:?}"), Key::IdempotencyKey(key))
        }
    };
    let response = client.admin.get_transaction(request(pb::GetTransactionRequest { key: Some(key) })).await;
    let response = response.map_err(|status| client.blame(&what, &status))?.into_inner();
    let view = response.transaction.ok_or(Error::NotFound(what))?;
    if screen.json {
        return screen.document(&Transaction::from(&view));
    }
    screen.text(&details(&view, screen.now(), screen.color))
}

/// A page, for programs.
#[derive(Serialize)]
struct Page {
    transactions: Vec<Transaction>,
    /// For `--before`, to get the next page.
    next: Option<String>,
}

async fn list(filter: Filter, mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let status = filter.status.map_or(coordinator::Status::Unspecified, |status| match status {
        Status::Trying => coordinator::Status::Trying,
        Status::Confirming => coordinator::Status::Confirming,
        Status::Cancelling => coordinator::Status::Cancelling,
        Status::Confirmed => coordinator::Status::Confirmed,
        Status::Cancelled => coordinator::Status::Cancelled,
    });
    let asked = pb::ListTransactionsRequest {
        status: status as i32,
        unfinished: filter.unfinished,
        label: filter.label.unwrap_or_default(),
        business_key: filter.business_key.unwrap_or_default(),
        limit: filter.limit,
        before: filter.before.map_or_else(Vec::new, |xid| xid.0.to_vec()).into(),
        service: filter.service.unwrap_or_default(),
        parked: filter.parked,
        created_before_ms: filter.older.map_or(0, |age_ms| screen.now().0.saturating_sub(age_ms)),
        created_from_ms: filter.younger.map_or(0, |age_ms| screen.now().0.saturating_sub(age_ms)),
    };
    let page = client.admin.list_transactions(request(asked)).await;
    let page = page.map_err(|status| client.blame("like that", &status))?.into_inner();
    let next = (!page.next.is_empty()).then(|| xid(&page.next));
    if screen.json {
        let transactions = page.transactions.iter().map(Transaction::from).collect();
        return screen.document(&Page { transactions, next });
    }
    if page.transactions.is_empty() {
        return screen.text("No such transactions");
    }
    let now = screen.now();
    let rows = page.transactions.iter().map(|view| row(view, now)).collect();
    screen.text(&table(&["XID", "MODE", "STATUS", "AGE", "BRANCHES"], rows, Some(2), screen.color))?;
    next.map_or(Ok(()), |next| screen.text(&format!("Older ones: --before {next}")))
}

async fn watch(xid: Xid, mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let what = xid.to_string();
    let changes = client.admin.watch_transaction(pb::WatchTransactionRequest { xid: xid.0.to_vec().into() }).await;
    let mut changes = changes.map_err(|status| client.blame(&what, &status))?.into_inner();
    let mut ended = false;
    while let Some(response) = changes.message().await.map_err(|status| client.blame(&what, &status))? {
        let Some(view) = response.transaction else { continue };
        ended = names::status_from(view.status as u32).is_some_and(tercet_core::Status::ended);
        if screen.json {
            screen.line(&Transaction::from(&view))?;
        } else {
            screen.text(&change(&view, screen.now(), screen.color))?;
        }
    }
    if ended { Ok(()) } else { Err(Error::Unwatched(what)) }
}
