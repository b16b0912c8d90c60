//! Commands that change something: what they ask for, how they make sure, and how they tell what was done.

use std::io::{BufRead as _, IsTerminal as _};

use clap::Args;
use serde::Serialize;
use tercet_core::{Timestamp, Xid};
use tercet_proto::admin::v1 as pb;
use tercet_proto::coordinator::v1 as coordinator;

use super::Error;
use super::show::{Screen, both, iso_or_none, short};
use super::transaction::Transaction;
use crate::names;
use crate::store::CompensationStatus;

/// What every command that changes something can be told.
#[derive(Args, Clone, Debug)]
pub(super) struct Why {
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Why {
    /// As the coordinator is told it.
    pub(super) fn change(&self) -> Option<pb::Change> {
        Some(pb::Change { reason: self.reason.clone(), dry_run: self.dry_run })
    }

    /// Whether nothing is changed.
    pub(super) const fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// How what was done, or would be, is introduced.
    pub(super) const fn title(&self) -> &'static str {
        if self.dry_run { "Would be done; nothing has been changed:" } else { "Done:" }
    }
}

/// The same for what can not be taken back: a reason is required, and a person is asked.
#[derive(Args, Clone, Debug)]
pub(super) struct Sure {
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask whether you are sure
    #[arg(long)]
    yes: bool,
}

impl Sure {
    /// As the coordinator is told it.
    pub(super) fn change(&self) -> Option<pb::Change> {
        self.why().change()
    }

    /// The same without what makes it dangerous.
    pub(super) fn why(&self) -> Why {
        Why { reason: self.reason.clone(), dry_run: self.dry_run }
    }

    /// Asks a person on a terminal. A program has to say `--yes`.
    pub(super) fn ask(&self, what: &str) -> Result<(), Error> {
        if self.yes || self.dry_run {
            return Ok(());
        }
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Err(Error::Unsure(format!(
                "{what}. It can not be taken back: add --yes, or look first with --dry-run"
            )));
        }
        eprint!("{what}. It can not be taken back. Do it? [y/N] ");
        let mut answer = String::new();
        stdin.lock().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Error::Unsure("nothing was done".into())) }
    }
}

/// A transaction, a branch of it, and why.
#[derive(Args, Clone, Debug)]
pub(super) struct Target {
    /// Its xid
    pub xid: Xid,
    /// This branch only; without it every branch that it applies to
    #[arg(long, value_name = "N")]
    pub branch: Option<u32>,
    #[command(flatten)]
    pub why: Why,
}

/// A transaction to decide in its initiator's place.
#[derive(Args, Clone, Debug)]
pub(super) struct Forced {
    /// Its xid
    pub xid: Xid,
    #[command(flatten)]
    pub sure: Sure,
}

/// A change, for programs.
#[derive(Serialize)]
struct Shown {
    dry_run: bool,
    difference: Difference,
    transaction: Option<Transaction>,
}

/// What was changed, for programs.
#[derive(Serialize)]
pub(super) struct Difference {
    status_before: Option<&'static str>,
    status_after: Option<&'static str>,
    branches: Vec<Branch>,
    calls: Vec<Call>,
    compensations: Vec<Row>,
    settings: Vec<Setting>,
}

#[derive(Serialize)]
struct Branch {
    branch: u32,
    service: String,
    action: String,
    before: String,
    after: String,
    attempts_before: u32,
    attempts_after: u32,
    retry_before: Option<Policy>,
    retry_after: Option<Policy>,
}

/// How a branch is retried.
#[derive(Serialize)]
struct Policy {
    attempts: u32,
    quick_attempts: u32,
    first_delay_ms: u32,
    factor_percent: u32,
    delay_max_ms: u32,
    jitter_percent: u32,
}

impl From<coordinator::RetryPolicy> for Policy {
    fn from(policy: coordinator::RetryPolicy) -> Self {
        let coordinator::RetryPolicy { attempts, quick_attempts, first_delay_ms, .. } = policy;
        let coordinator::RetryPolicy { factor_percent, delay_max_ms, jitter_percent, .. } = policy;
        Self { attempts, quick_attempts, first_delay_ms, factor_percent, delay_max_ms, jitter_percent }
    }
}

/// A number of a policy: its name, its unit, and where it is.
type Number = (&'static str, &'static str, fn(&coordinator::RetryPolicy) -> u32);

/// What differs between two policies, for people.
fn policies(before: coordinator::RetryPolicy, after: coordinator::RetryPolicy) -> Vec<String> {
    let fields: [Number; 6] = [
        ("attempts at most", "", |policy| policy.attempts),
        ("quick attempts", "", |policy| policy.quick_attempts),
        ("first delay", "ms", |policy| policy.first_delay_ms),
        ("each delay", "% of the one before", |policy| policy.factor_percent),
        ("delay at most", "ms", |policy| policy.delay_max_ms),
        ("jitter at most", "%", |policy| policy.jitter_percent),
    ];
    let moved = fields.into_iter().filter(|(_, _, of)| of(&before) != of(&after));
    moved.map(|(name, unit, of)| format!("{name} {} -> {}{unit}", of(&before), of(&after))).collect()
}

#[derive(Serialize)]
struct Call {
    branch: u32,
    service: String,
    action: String,
    operation: String,
}

#[derive(Serialize)]
struct Row {
    branch: u32,
    operation: String,
    status: &'static str,
    retry_count: u32,
    /// Of a pending one: when the scanner takes it.
    next_retry_time: Option<String>,
}

#[derive(Serialize)]
struct Setting {
    name: String,
    before: String,
    after: String,
}

fn status(number: i32) -> Option<&'static str> {
    names::status_from(number as u32).map(names::status_name)
}

fn row_status(row: &pb::RowDifference) -> &'static str {
    CompensationStatus::from_number(row.status).map_or("unknown", |status| match status {
        CompensationStatus::Pending => "pending",
        CompensationStatus::Done => "done",
        CompensationStatus::Failed => "failed",
    })
}

impl From<&pb::Difference> for Difference {
    fn from(difference: &pb::Difference) -> Self {
        let branches = difference.branches.iter().map(|one| Branch {
            branch: one.branch,
            service: one.service.clone(),
            action: one.action.clone(),
            before: one.before.clone(),
            after: one.after.clone(),
            attempts_before: one.attempts_before,
            attempts_after: one.attempts_after,
            retry_before: one.retry_before.map(Policy::from),
            retry_after: one.retry_after.map(Policy::from),
        });
        let calls = difference.calls.iter().map(|call| Call {
            branch: call.branch,
            service: call.service.clone(),
            action: call.action.clone(),
            operation: call.operation.clone(),
        });
        let rows = difference.rows.iter().map(|row| Row {
            branch: row.branch,
            operation: row.operation.clone(),
            status: row_status(row),
            retry_count: row.retry_count,
            next_retry_time: iso_or_none(row.next_retry_time_ms),
        });
        let settings = difference.settings.iter().map(|setting| Setting {
            name: setting.name.clone(),
            before: setting.before.clone(),
            after: setting.after.clone(),
        });
        Self {
            status_before: status(difference.status_before),
            status_after: status(difference.status_after),
            branches: branches.collect(),
            calls: calls.collect(),
            compensations: rows.collect(),
            settings: settings.collect(),
        }
    }
}

/// Tells what a change of a transaction did, or would do.
pub(super) fn tell(changed: Option<pb::Changed>, why: &Why, screen: &mut Screen<'_>) -> Result<(), Error> {
    let changed = changed.unwrap_or_default();
    let difference = changed.difference.unwrap_or_default();
    if screen.json {
        let transaction = changed.transaction.as_ref().map(Transaction::from);
        return screen.document(&Shown { dry_run: why.dry_run, difference: (&difference).into(), transaction });
    }
    screen.text(&format!("{}\n{}", why.title(), lines(&difference, screen.now())))
}

/// What was changed, for people.
pub(super) fn lines(difference: &pb::Difference, now: Timestamp) -> String {
    let mut lines = Vec::new();
    if difference.status_before != difference.status_after {
        let name = |number| status(number).unwrap_or("unknown");
        let (before, after) = (name(difference.status_before), name(difference.status_after));
        lines.push(format!("  status     {before} -> {after}"));
    }
    for one in &difference.branches {
        let name = short(&format!("{}/{}", one.service, one.action), 34);
        let moved =
            if one.before == one.after { one.after.clone() } else { format!("{} -> {}", one.before, one.after) };
        lines.push(format!("  branch {}   {name}: {moved}", one.branch));
        if one.attempts_before != one.attempts_after {
            lines.push(format!("             failed attempts {} -> {}", one.attempts_before, one.attempts_after));
        }
        if let (Some(before), Some(after)) = (one.retry_before, one.retry_after) {
            lines.extend(policies(before, after).into_iter().map(|moved| format!("             {moved}")));
        }
    }
    for call in &difference.calls {
        let name = short(&format!("{}/{}", call.service, call.action), 34);
        lines.push(format!("  call       {} of branch {} ({name})", call.operation, call.branch));
    }
    for row in &difference.rows {
        let due = if row.next_retry_time_ms > 0 {
            format!(", due {}", both(row.next_retry_time_ms, now))
        } else {
            String::new()
        };
        lines.push(format!("  log        {} of branch {}: {}{due}", row.operation, row.branch, row_status(row)));
    }
    for setting in &difference.settings {
        lines.push(format!("  setting    {}: {} -> {}", setting.name, setting.before, setting.after));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_each_thing_that_changes_on_a_line() {
        let difference = pb::Difference {
            status_before: 2,
            status_after: 4,
            branches: vec![pb::BranchDifference {
                branch: 1,
                service: "coupon".into(),
                action: "redeem".into(),
                before: "parked: refused".into(),
                after: "called".into(),
                attempts_before: 4,
                ..pb::BranchDifference::default()
            }],
            calls: vec![pb::PlannedCall {
                branch: 1,
                service: "coupon".into(),
                action: "redeem".into(),
                operation: "confirm".into(),
            }],
            rows: vec![pb::RowDifference {
                branch: 1,
                operation: "confirm".into(),
                next_retry_time_ms: 1_000,
                ..pb::RowDifference::default()
            }],
            settings: vec![],
        };
        let expected = "  status     confirming -> confirmed
  branch 1   coupon/redeem: parked: refused -> called
             failed attempts 4 -> 0
  call       confirm of branch 1 (coupon/redeem)
  log        confirm of branch 1: pending, due 1970-01-01T00:00:01.000Z (1s ago)";
        assert_eq!(lines(&difference, Timestamp(2_000)), expected);
        let row = &Difference::from(&difference).compensations[0];
        assert_eq!(row.next_retry_time.as_deref(), Some("1970-01-01T00:00:01.000Z"));
    }

    #[test]
    fn each_field_of_a_policy_that_changes_is_shown() {
        let before = coordinator::RetryPolicy {
            attempts: 1_500,
            first_delay_ms: 100,
            delay_max_ms: 60_000,
            ..coordinator::RetryPolicy::default()
        };
        let after = coordinator::RetryPolicy { first_delay_ms: 5, delay_max_ms: 9, ..before };
        assert_eq!(policies(before, after), ["first delay 100 -> 5ms", "delay at most 60000 -> 9ms"]);
        let changed = pb::BranchDifference {
            retry_before: Some(before),
            retry_after: Some(after),
            ..pb::BranchDifference::default()
        };
        let difference = pb::Difference { branches: vec![changed], ..pb::Difference::default() };
        let told = serde_json::to_value(Difference::from(&difference)).expect("it is JSON");
        let branch = &told["branches"][0];
        assert_eq!(
            (&branch["retry_before"]["first_delay_ms"], &branch["retry_after"]["delay_max_ms"]),
            (&100.into(), &9.into())
        );
    }
}
