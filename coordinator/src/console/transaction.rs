//! A transaction as programs and as people read it.

use std::collections::BTreeMap;

use serde::Serialize;
use tercet_core::Timestamp;
use tercet_proto::coordinator::v1 as pb;

use super::show::{both, hex, iso, iso_or_none, one_line, paint, relative, short, span, table, time_of_day, wrap, xid};
use crate::names;

/// A transaction, for programs.
#[derive(Serialize)]
pub(super) struct Transaction {
    xid: String,
    mode: &'static str,
    status: &'static str,
    version: u64,
    reason: Option<String>,
    idempotency_key: Option<String>,
    created_at: String,
    deadline_at: Option<String>,
    ended_at: Option<String>,
    labels: BTreeMap<String, String>,
    branches: Vec<Branch>,
    timeline: Vec<Entry>,
}

#[derive(Serialize)]
struct Branch {
    branch: usize,
    service: String,
    action: String,
    status: &'static str,
    attempts: u32,
    business_key: Option<String>,
    reason: Option<String>,
    result_hex: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    at: String,
    text: String,
}

fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl From<&pb::TransactionView> for Transaction {
    fn from(view: &pb::TransactionView) -> Self {
        let branches = view.branches.iter().enumerate().map(|(branch, view)| Branch {
            branch,
            service: view.service.clone(),
            action: view.action.clone(),
            status: branch_status(view),
            attempts: view.attempts,
            business_key: given(&view.business_key),
            reason: given(&view.reason),
            result_hex: given(&hex(&view.result)),
        });
        let timeline = view.timeline.iter().map(|entry| Entry { at: iso(entry.at_ms), text: entry.text.clone() });
        Self {
            xid: xid(&view.xid),
            mode: names::mode_name(view.mode as u32),
            status: status(view),
            version: view.version,
            reason: given(&view.reason),
            idempotency_key: given(&view.idempotency_key),
            created_at: iso(view.created_at_ms),
            deadline_at: iso_or_none(view.deadline_at_ms),
            ended_at: iso_or_none(view.ended_at_ms),
            labels: view.labels.clone(),
            branches: branches.collect(),
            timeline: timeline.collect(),
        }
    }
}

/// The status as people read it.
pub(super) fn status(view: &pb::TransactionView) -> &'static str {
    names::status_from(view.status as u32).map_or("unknown", names::status_name)
}

fn branch_status(view: &pb::BranchView) -> &'static str {
    match view.status() {
        pb::BranchStatus::Unspecified => "unknown",
        pb::BranchStatus::Pending => "pending",
        pb::BranchStatus::Done => "done",
        pb::BranchStatus::Logged => "logged",
        pb::BranchStatus::Parked => "parked",
        pb::BranchStatus::Skipped => "skipped",
    }
}

fn with_status(view: &pb::TransactionView, status: pb::BranchStatus) -> usize {
    view.branches.iter().filter(|branch| branch.status() == status).count()
}

/// How many branches have nothing left to do in the present phase, of how many, and how many are parked.
pub(super) fn progress(view: &pb::TransactionView) -> String {
    let finished = with_status(view, pb::BranchStatus::Done) + with_status(view, pb::BranchStatus::Skipped);
    let parked = match with_status(view, pb::BranchStatus::Parked) {
        0 => String::new(),
        parked => format!(", {parked} parked"),
    };
    format!("{finished}/{}{parked}", view.branches.len())
}

/// All about one transaction, for people.
pub(super) fn details(view: &pb::TransactionView, now: Timestamp, color: bool) -> String {
    let mut text = format!("Transaction {}\n", xid(&view.xid));
    let mut field = |name: &str, value: &str| {
        text.push_str(&format!("  {name:<8}  {value}\n"));
    };
    field("mode", names::mode_name(view.mode as u32));
    field("status", &paint(status(view), color));
    if !view.reason.is_empty() {
        field("why", &wrap(&view.reason, 12));
    }
    field("created", &both(view.created_at_ms, now));
    if view.ended_at_ms > 0 {
        let took = span(view.ended_at_ms.saturating_sub(view.created_at_ms));
        field("ended", &format!("{} ({}, took {took})", iso(view.ended_at_ms), relative(view.ended_at_ms, now)));
    }
    if view.deadline_at_ms > 0 {
        // Once it is decided the deadline means nothing.
        let open = view.status() == pb::Status::Trying;
        field("deadline", &if open { both(view.deadline_at_ms, now) } else { iso(view.deadline_at_ms) });
    }
    if !view.idempotency_key.is_empty() {
        field("key", &one_line(&view.idempotency_key));
    }
    if !view.labels.is_empty() {
        let labels: Vec<_> = view.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        field("labels", &one_line(&labels.join(" ")));
    }
    text.push_str(&branches(view, color));
    text.push_str(&timeline(view));
    text.push_str(&advice(view));
    text
}

fn branches(view: &pb::TransactionView, color: bool) -> String {
    if view.branches.is_empty() {
        return "\nNo branch yet\n".into();
    }
    let rows = view.branches.iter().enumerate().map(|(index, branch)| {
        vec![
            index.to_string(),
            short(&format!("{}/{}", branch.service, branch.action), 34),
            branch_status(branch).to_owned(),
            branch.attempts.to_string(),
            short(&branch.business_key, 22),
        ]
    });
    let rows = table(&["#", "BRANCH", "STATUS", "ATTEMPTS", "BUSINESS KEY"], rows.collect(), Some(2), color);
    let mut text = format!("\n{rows}\n");
    let mut reasons = view.branches.iter().enumerate().filter(|(_, branch)| !branch.reason.is_empty()).peekable();
    if reasons.peek().is_some() {
        text.push_str("\nWhat participants said\n");
    }
    for (index, branch) in reasons {
        text.push_str(&format!("  {index}  {}\n", wrap(&format!("{}: {}", branch.service, branch.reason), 5)));
    }
    text
}

fn timeline(view: &pb::TransactionView) -> String {
    if view.timeline.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nTimeline\n");
    for entry in &view.timeline {
        let since = format!("+{}", span(entry.at_ms.saturating_sub(view.created_at_ms)));
        text.push_str(&format!("  {}  {since:>6}  {}\n", time_of_day(entry.at_ms), wrap(&entry.text, 25)));
    }
    text
}

/// What a person can do where something does not go on by itself.
fn advice(view: &pb::TransactionView) -> String {
    let mut text = String::new();
    if with_status(view, pb::BranchStatus::Logged) > 0 {
        text.push_str("\nLogged: the scanner retries it, see tercet compensation list --status pending\n");
    }
    if with_status(view, pb::BranchStatus::Parked) > 0 {
        text.push_str("\nParked: it waits for a person, see tercet compensation list --status failed\n");
    }
    text
}

/// One line of a listing.
pub(super) fn row(view: &pb::TransactionView, now: Timestamp) -> Vec<String> {
    vec![
        xid(&view.xid),
        names::mode_name(view.mode as u32).to_owned(),
        status(view).to_owned(),
        span(now.0.saturating_sub(view.created_at_ms)),
        progress(view),
    ]
}

/// One line of a watch.
pub(super) fn change(view: &pb::TransactionView, now: Timestamp, color: bool) -> String {
    let status = status(view);
    let gap = " ".repeat(10_usize.saturating_sub(status.len()));
    let mut text = format!("{}  {}{gap}  {}", iso(now.0), paint(status, color), progress(view));
    let open = |branch: &&pb::BranchView| match branch.status() {
        pb::BranchStatus::Pending | pb::BranchStatus::Logged | pb::BranchStatus::Parked => true,
        pb::BranchStatus::Unspecified | pb::BranchStatus::Done | pb::BranchStatus::Skipped => false,
    };
    let open = view.branches.iter().filter(open);
    let open: Vec<_> = open.map(|branch| format!("{} {}", branch.service, branch_status(branch))).collect();
    if !open.is_empty() {
        text.push_str(&format!("  {}", open.join(", ")));
    }
    if !view.reason.is_empty() {
        text.push_str(&format!("  ({})", one_line(&view.reason)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(service: &str, status: pb::BranchStatus, attempts: u32, key: &str, reason: &str) -> pb::BranchView {
        pb::BranchView {
            service: service.into(),
            action: "act".into(),
            status: status as i32,
            result: b"\x01\xff".to_vec().into(),
            attempts,
            business_key: key.into(),
            reason: reason.into(),
        }
    }

    fn example() -> pb::TransactionView {
        pb::TransactionView {
            xid: (0..16).collect::<Vec<u8>>().into(),
            mode: pb::Mode::Saga as i32,
            status: pb::Status::Cancelling as i32,
            version: 3,
            reason: "stock refused: sold\nout".into(),
            branches: vec![
                branch("coupon", pb::BranchStatus::Parked, 12, "coupon/42", ""),
                branch("stock", pb::BranchStatus::Done, 0, "", "sold\nout"),
                branch("order", pb::BranchStatus::Skipped, 0, "", ""),
            ],
            created_at_ms: 1_709_251_200_000,
            deadline_at_ms: 1_709_251_230_000,
            labels: [("shop".to_owned(), "7".to_owned())].into(),
            timeline: vec![pb::TimelineEntry { at_ms: 1_709_251_201_500, text: "decided: cancel".into() }],
            idempotency_key: "order-9".into(),
            ..pb::TransactionView::default()
        }
    }

    const DETAILS: &str = "\
Transaction 00010203-0405-0607-0809-0a0b0c0d0e0f
  mode      saga
  status    cancelling
  why       stock refused: sold out
  created   2024-03-01T00:00:00.000Z (20s ago)
  deadline  2024-03-01T00:00:30.000Z
  key       order-9
  labels    shop=7

#  BRANCH      STATUS   ATTEMPTS  BUSINESS KEY
0  coupon/act  parked   12        coupon/42
1  stock/act   done     0
2  order/act   skipped  0

What participants said
  1  stock: sold out

Timeline
  00:00:01.500Z     +1s  decided: cancel

Parked: it waits for a person, see tercet compensation list --status failed
";

    #[test]
    fn a_person_sees_what_it_is_what_became_of_it_and_what_to_do() {
        assert_eq!(details(&example(), Timestamp(1_709_251_220_000), false), DETAILS);
    }

    #[test]
    fn an_ended_one_tells_how_long_it_took() {
        let ended = pb::TransactionView { ended_at_ms: 1_709_251_200_040, ..example() };
        let text = details(&ended, Timestamp(1_709_251_220_000), true);
        assert!(text.contains("  ended     2024-03-01T00:00:00.040Z (19s ago, took 40ms)\n"), "{text}");
        assert!(text.contains("  status    \x1b[33mcancelling\x1b[0m\n"), "{text}");
    }

    #[test]
    fn an_undecided_one_tells_how_long_it_may_take() {
        let trying = pb::TransactionView { status: pb::Status::Trying as i32, ..example() };
        let text = details(&trying, Timestamp(1_709_251_220_000), false);
        assert!(text.contains("  deadline  2024-03-01T00:00:30.000Z (in 10s)\n"), "{text}");
    }

    #[test]
    fn a_watch_has_a_line_for_each_change() {
        let line = change(&example(), Timestamp(1_709_251_220_000), false);
        assert_eq!(
            line,
            "2024-03-01T00:00:20.000Z  cancelling  2/3, 1 parked  coupon parked  (stock refused: sold out)"
        );
    }

    #[test]
    fn programs_get_every_field_as_text_or_number() {
        let json = serde_json::to_value(Transaction::from(&example())).expect("it has text for keys");
        assert_eq!(json["xid"], "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!((&json["mode"], &json["status"]), (&"saga".into(), &"cancelling".into()));
        assert_eq!((&json["ended_at"], &json["version"]), (&serde_json::Value::Null, &3.into()));
        assert_eq!(
            (&json["branches"][0]["result_hex"], &json["branches"][0]["attempts"]),
            (&"01ff".into(), &12.into())
        );
        assert_eq!(json["timeline"][0]["at"], "2024-03-01T00:00:01.500Z");
    }
}
