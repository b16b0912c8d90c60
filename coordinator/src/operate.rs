//! What an operator orders, what it changes, and how that is told: to the operator as a difference, to the audit log as
//! what was and what is.
//!
//! An order and its dry run are the same steps of the machine; a dry run makes them on a copy.

use serde_json::{Map, Value, json};
use tercet_core::{
    Act, Call, Effects, Event, Operation, Progress, Reply, RetryPolicy, RowStatus, Status, Timestamp, Tx, step,
};
use tercet_proto::admin::v1 as pb;
use tercet_proto::coordinator::v1 as coordinator;
use tercet_proto::store::v1::Plan;

use crate::audit::AuditWrite;
use crate::live::Live;
use crate::names;
use crate::plan::{Invalid, changed_policy};
use crate::request::Error;
use crate::store::CompensationStatus;

/// What an operator wants of a transaction. Without a branch: of every branch that it applies to.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// Call it at once.
    Retry(Option<u8>),
    /// Let it wait for a person.
    Park(Option<u8>),
    /// Hand what is parked to the scanner.
    Resume(Option<u8>),
    /// This operation of this branch was done by hand.
    Resolve(u8, Operation),
    /// Another retry policy; fields that are 0 stay.
    SetRetry(Option<u8>, coordinator::RetryPolicy),
    /// Decide to confirm.
    ForceConfirm,
    /// Decide to cancel.
    ForceCancel,
}

/// An order: what, by whom, why, and whether only to say what would be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// What.
    pub wanted: Wanted,
    /// By whom.
    pub who: String,
    /// Why.
    pub why: String,
    /// Change nothing.
    pub dry_run: bool,
}

impl Wanted {
    /// As the audit log names it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Retry(_) => "retry",
            Self::Park(_) => "park",
            Self::Resume(_) => "resume",
            Self::Resolve(..) => "resolve",
            Self::SetRetry(..) => "set-retry",
            Self::ForceConfirm => "force-confirm",
            Self::ForceCancel => "force-cancel",
        }
    }

    const fn branch(&self) -> Option<u8> {
        match self {
            Self::Retry(branch) | Self::Park(branch) | Self::Resume(branch) | Self::SetRetry(branch, _) => *branch,
            Self::Resolve(branch, _) => Some(*branch),
            Self::ForceConfirm | Self::ForceCancel => None,
        }
    }

    /// The machine's acts, in order.
    fn acts(&self, tx: &Tx) -> Result<Vec<Act>, Error> {
        let count = tx.branches.len();
        let branches = match self.branch() {
            Some(branch) if usize::from(branch) >= count => {
                let limit = format!("below {count}, the number of its branches");
                return Err(Invalid { field: "branch".into(), limit }.into());
            }
            Some(branch) => usize::from(branch)..usize::from(branch) + 1,
            None => 0..count,
        };
        let branches = branches.map(|branch| branch as u8);
        let acts: Result<Vec<Act>, Invalid> = match self {
            Self::ForceConfirm => Ok(vec![Act::ForceConfirm]),
            Self::ForceCancel => Ok(vec![Act::ForceCancel]),
            Self::Resolve(branch, operation) if tx.operation(*branch) != Some(*operation) => Ok(Vec::new()),
            Self::Resolve(branch, _) => Ok(vec![Act::Resolve { branch: *branch }]),
            Self::Retry(_) => Ok(branches.map(|branch| Act::Retry { branch }).collect()),
            Self::Park(_) => Ok(branches.map(|branch| Act::Park { branch }).collect()),
            Self::Resume(_) => Ok(branches.map(|branch| Act::Resume { branch }).collect()),
            Self::SetRetry(_, given) => {
                let policy = |branch: u8| changed_policy(*given, &tx.branches[usize::from(branch)].retry);
                branches.map(|branch| Ok(Act::SetRetry { branch, policy: policy(branch)? })).collect()
            }
        };
        Ok(acts?)
    }

    /// Why there is nothing to do for it.
    fn nothing(&self, tx: &Tx) -> Error {
        if tx.status.decided() && matches!(self, Self::ForceConfirm | Self::ForceCancel) || tx.status.ended() {
            return Error::AlreadyDecided { status: tx.status };
        }
        let state = |branch: u8| {
            let progress = tx.branches.get(usize::from(branch)).map_or(Progress::Skipped, |branch| branch.progress);
            names::progress_name(progress)
        };
        let why = match self {
            Self::ForceConfirm => {
                "a try has not succeeded, and what was not tried can not be confirmed: wait for its deadline, or \
                 force-cancel"
                    .to_owned()
            }
            Self::ForceCancel => "it is decided already".to_owned(),
            Self::Retry(None) => "no branch waits; what is called already is not called twice".to_owned(),
            Self::Park(None) if tx.status == Status::Trying => {
                "tries can not be parked, their deadline bounds them: force-cancel ends them".to_owned()
            }
            Self::Park(None) => "no branch has anything left to do".to_owned(),
            Self::Resume(None) => "no branch is parked".to_owned(),
            Self::SetRetry(None, _) => "every branch that is not finished has this policy".to_owned(),
            Self::Park(Some(branch)) if tx.operation(*branch) == Some(Operation::Try) => {
                "a try can not be parked, its deadline bounds it: force-cancel ends it".to_owned()
            }
            Self::Resolve(branch, _) => {
                format!("branch {branch} is {}; only a parked confirm or cancel is resolved by hand", state(*branch))
            }
            Self::Retry(Some(branch))
            | Self::Park(Some(branch))
            | Self::Resume(Some(branch))
            | Self::SetRetry(Some(branch), _) => format!("branch {branch} is {}", state(*branch)),
        };
        Error::NothingToDo { why }
    }
}

impl Order {
    /// Carries the order out on `live` and adds to `effects` what that wants done. Answers what it changes; `reaches`
    /// says whether an instance of a service is connected: a call to one that is not goes nowhere.
    ///
    /// # Errors
    /// When it does not apply. `live` may have moved all the same, because its deadline has passed.
    pub fn carry_out(
        &self,
        live: &mut Live,
        now: Timestamp,
        effects: &mut Effects,
        reaches: impl Fn(&str) -> bool,
    ) -> Result<pb::Difference, Error> {
        let before = live.tx.clone();
        for act in self.wanted.acts(&before)? {
            step(&mut live.tx, Event::Operator(act), now, effects);
        }
        let refused = (effects.acted == 0).then(|| self.wanted.nothing(&live.tx));
        let words = format!("{}, by {}", if self.why.is_empty() { "no reason given" } else { &self.why }, self.who);
        match self.wanted {
            Wanted::ForceConfirm | Wanted::ForceCancel if refused.is_none() => live.forced(words),
            Wanted::Resolve(branch, _) if refused.is_none() => {
                live.resolved(branch, format!("resolved by hand: {words}"));
            }
            Wanted::Retry(_)
            | Wanted::Park(_)
            | Wanted::Resume(_)
            | Wanted::Resolve(..)
            | Wanted::SetRetry(..)
            | Wanted::ForceConfirm
            | Wanted::ForceCancel => {}
        }
        live.note(&effects.notes, now);
        if let Some(refused) = refused {
            return Err(refused);
        }
        let (mut after, mut all) = (live.tx.clone(), effects.clone());
        all.calls.retain(|call| reaches(&live.plan.branches[usize::from(call.branch)].service));
        for Call { branch, operation, attempt, .. } in &effects.calls {
            if all.calls.iter().all(|call| call.branch != *branch) {
                let (branch, operation, attempt) = (*branch, *operation, *attempt);
                let unheard = Event::Replied { branch, operation, attempt, reply: Reply::Unreachable };
                step(&mut after, unheard, now, &mut all);
            }
        }
        Ok(difference((&before, &after), &live.plan, &all))
    }

    /// Its row in the audit log.
    pub fn audit(&self, live: &Live, difference: &pb::Difference) -> AuditWrite {
        let (before, after) = told(difference);
        let (who, act, why) = (self.who.clone(), self.wanted.name().to_owned(), self.why.clone());
        AuditWrite { who, act, xid: Some(live.tx.xid), why, before, after }
    }
}

/// What has changed, and what goes out for it.
fn difference((before, after): (&Tx, &Tx), plan: &Plan, effects: &Effects) -> pb::Difference {
    let name = |branch: u8| {
        let plan = &plan.branches[usize::from(branch)];
        (plan.service.clone(), plan.action.clone())
    };
    let pairs = before.branches.iter().zip(&after.branches).enumerate();
    let moved = pairs.filter(|(_, (before, after))| {
        (before.progress, before.attempts, before.retry) != (after.progress, after.attempts, after.retry)
    });
    let branches = moved.map(|(index, (before, after))| {
        let (service, action) = name(index as u8);
        let policy = |policy: &RetryPolicy| (before.retry != after.retry).then(|| shown_policy(policy));
        pb::BranchDifference {
            branch: index as u32,
            service,
            action,
            before: names::progress_name(before.progress).into(),
            after: names::progress_name(after.progress).into(),
            attempts_before: before.attempts,
            attempts_after: after.attempts,
            retry_before: policy(&before.retry),
            retry_after: policy(&after.retry),
        }
    });
    let calls = effects.calls.iter().map(|call| {
        let (service, action) = name(call.branch);
        let operation = names::operation_name(call.operation).into();
        pb::PlannedCall { branch: call.branch.into(), service, action, operation }
    });
    let rows = effects.compensations.iter().map(|row| {
        let (status, next) = match row.status {
            RowStatus::Pending(at) => (CompensationStatus::Pending, at.0),
            RowStatus::Done => (CompensationStatus::Done, 0),
            RowStatus::Failed => (CompensationStatus::Failed, 0),
        };
        pb::RowDifference {
            branch: row.branch.into(),
            operation: names::operation_name(row.operation).into(),
            status: status as u32,
            retry_count: row.retry_count,
            next_retry_time_ms: next,
        }
    });
    pb::Difference {
        status_before: names::status_number(before.status).into(),
        status_after: names::status_number(after.status).into(),
        branches: branches.collect(),
        calls: calls.collect(),
        rows: rows.collect(),
        settings: Vec::new(),
    }
}

/// A policy as it is shown.
fn shown_policy(policy: &RetryPolicy) -> coordinator::RetryPolicy {
    coordinator::RetryPolicy {
        first_delay_ms: policy.first_delay_ms,
        factor_percent: policy.factor_percent,
        delay_max_ms: policy.delay_max_ms,
        jitter_percent: policy.jitter_percent.into(),
        quick_attempts: policy.quick_attempts,
        attempts: policy.attempts,
    }
}

/// What was and what is, as the audit log keeps it: JSON objects with the same fields.
pub fn told(difference: &pb::Difference) -> (String, String) {
    let (mut before, mut after) = (Map::new(), Map::new());
    let status = |number: i32| Value::from(names::status_from(number as u32).map_or("unknown", names::status_name));
    if difference.status_before != difference.status_after {
        before.insert("status".into(), status(difference.status_before));
        after.insert("status".into(), status(difference.status_after));
    }
    for setting in &difference.settings {
        before.insert(setting.name.clone(), setting.before.clone().into());
        after.insert(setting.name.clone(), setting.after.clone().into());
    }
    let side = |state: &str, attempts: u32, retry: Option<coordinator::RetryPolicy>| {
        let mut branch = json!({ "state": state, "attempts": attempts });
        if let Some(retry) = retry {
            branch["retry"] = json!({
                "first_delay_ms": retry.first_delay_ms, "factor_percent": retry.factor_percent,
                "delay_max_ms": retry.delay_max_ms, "jitter_percent": retry.jitter_percent,
                "quick_attempts": retry.quick_attempts, "attempts": retry.attempts,
            });
        }
        branch
    };
    if !difference.branches.is_empty() {
        let of = |side: &dyn Fn(&pb::BranchDifference) -> Value| {
            let all = difference.branches.iter().map(|branch| (branch.branch.to_string(), side(branch)));
            Value::Object(all.collect())
        };
        before.insert("branches".into(), of(&|one| side(&one.before, one.attempts_before, one.retry_before)));
        after.insert("branches".into(), of(&|one| side(&one.after, one.attempts_after, one.retry_after)));
    }
    (Value::Object(before).to_string(), Value::Object(after).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use crate::plan::Plan;

    #[test]
    fn as_many_branches_as_there_may_be_are_all_within_reach() {
        let branch =
            coordinator::Branch { service: "shop".into(), action: "act".into(), ..coordinator::Branch::default() };
        let mode = coordinator::Mode::Tcc.into();
        let branches = vec![branch; limits::BRANCHES_MAX];
        let transaction = coordinator::Transaction { mode, branches, ..coordinator::Transaction::default() };
        let plan = Plan::declared(transaction).expect("within every limit");
        let tx = plan.start(tercet_core::Xid([0; 16]), Timestamp(0));
        let acts = |wanted: Wanted| wanted.acts(&tx).expect("it applies");
        assert_eq!(acts(Wanted::Retry(None)).len(), 256);
        assert_eq!(acts(Wanted::Park(Some(255))), [Act::Park { branch: 255 }]);
    }
}
