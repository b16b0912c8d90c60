//! What an initiator declared, checked: parse, do not validate.
//!
//! A [`Plan`] can be driven. It is written to the store once; what changes lives in [`crate::live`].

use std::collections::BTreeMap;

use prost::Message as _;
use tercet_core::{Branch, Operation, Operations, RetryPolicy, Timestamp, Tx, Xid, acyclic};
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::store::v1 as record;

use crate::limits;

/// A declared transaction that is within every limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// As stored.
    pub record: record::Plan,
    /// From acceptance to the decision; of a prepared message: to the first question.
    pub deadline_ms: u32,
    /// The initiator's own name for it; empty: none.
    pub idempotency_key: String,
}

/// A field that is outside its limit. Nothing has been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {limit}")]
pub struct Invalid {
    /// Which field, as in the `.proto` file.
    pub field: String,
    /// What it has to be.
    pub limit: String,
}

fn invalid(field: impl Into<String>, limit: impl Into<String>) -> Invalid {
    Invalid { field: field.into(), limit: limit.into() }
}

impl Plan {
    /// Checks a declared transaction.
    ///
    /// # Errors
    /// The first field that is outside its limit.
    pub fn declared(transaction: pb::Transaction) -> Result<Self, Invalid> {
        let within = |at: Invalid| Invalid { field: format!("transaction.{}", at.field), ..at };
        let mode = transaction.mode();
        let operations = operations(mode).map_err(within)?;
        let branches = transaction.branches.into_iter().enumerate();
        let branches = branches.map(|(at, branch)| {
            let saga = mode == pb::Mode::Saga;
            checked(branch, at, &format!("transaction.branches[{at}]"), operations, saga)
        });
        let branches = branches.collect::<Result<Vec<_>, _>>()?;
        if branches.is_empty() {
            return Err(invalid("transaction.branches", "at least 1"));
        }
        let plan = Self::new(mode, false, branches, transaction.labels, transaction.idempotency_key);
        let plan = plan.map_err(within)?;
        Ok(Self { deadline_ms: deadline("transaction.deadline_ms", transaction.deadline_ms)?, ..plan })
    }

    /// Checks a transaction whose branches come later.
    ///
    /// # Errors
    /// The first field that is outside its limit.
    pub fn begun(request: pb::BeginRequest) -> Result<Self, Invalid> {
        let mode = request.mode();
        if mode == pb::Mode::Message {
            return Err(invalid("mode", "TCC or saga; a message is prepared"));
        }
        operations(mode)?;
        let deadline_ms = deadline("deadline_ms", request.deadline_ms)?;
        let plan = Self::new(mode, true, Vec::new(), request.labels, request.idempotency_key)?;
        Ok(Self { deadline_ms, ..plan })
    }

    /// Checks a message whose sender commits locally first.
    ///
    /// # Errors
    /// The first field that is outside its limit.
    pub fn prepared(request: pb::PrepareRequest) -> Result<Self, Invalid> {
        let sender = request.sender.ok_or_else(|| invalid("sender", "required"))?;
        if !sender.after.is_empty() {
            return Err(invalid("sender.after", "empty: the sender comes first"));
        }
        let mut branches = vec![checked(sender, 0, "sender", Operations::SENDER, false)?];
        for (at, receiver) in request.receivers.into_iter().enumerate() {
            let mut receiver = checked(receiver, at, &format!("receivers[{at}]"), Operations::RECEIVER, false)?;
            receiver.after.iter_mut().for_each(|index| *index += 1);
            branches.push(receiver);
        }
        let query_after_ms = match request.query_after_ms {
            0 => limits::QUERY_AFTER_MS_DEFAULT,
            given => deadline("query_after_ms", given)?,
        };
        let plan = Self::new(pb::Mode::Message, false, branches, request.labels, request.idempotency_key)?;
        Ok(Self { deadline_ms: query_after_ms, ..plan })
    }

    fn new(
        mode: pb::Mode,
        manual: bool,
        branches: Vec<record::Branch>,
        labels: BTreeMap<String, String>,
        idempotency_key: String,
    ) -> Result<Self, Invalid> {
        if branches.len() > limits::BRANCHES_MAX {
            return Err(invalid("branches", format!("at most {}", limits::BRANCHES_MAX)));
        }
        for (at, branch) in branches.iter().enumerate() {
            if branch.after.iter().any(|index| *index as usize >= branches.len()) {
                return Err(invalid(format!("branches[{at}].after"), "indexes of branches of this transaction"));
            }
        }
        let record = record::Plan { mode: mode as u32, manual, branches, labels, traceparent: String::new() };
        if core_branches(&record.branches).is_none_or(|branches| !acyclic(&branches)) {
            return Err(invalid("branches.after", "no cycle: no branch may come after itself"));
        }
        if record.branches.iter().map(|branch| branch.request.len()).sum::<usize>() > limits::MESSAGE_BYTES_MAX {
            let limit = format!("at most {} bytes in all branches", limits::MESSAGE_BYTES_MAX);
            return Err(invalid("branches.request", limit));
        }
        check_labels(&record.labels)?;
        check_key("idempotency_key", &idempotency_key)?;
        Ok(Self { record, deadline_ms: limits::DEADLINE_MS_DEFAULT, idempotency_key })
    }

    /// One branch for a transaction that was begun, as its branch `at`, which it may have already.
    ///
    /// # Errors
    /// The first field that is outside its limit.
    pub fn added(plan: &record::Plan, at: usize, branch: pb::Branch) -> Result<record::Branch, Invalid> {
        if at >= limits::BRANCHES_MAX {
            return Err(invalid("branch", format!("at most {} in one transaction", limits::BRANCHES_MAX)));
        }
        let mode = pb::Mode::try_from(plan.mode as i32).unwrap_or(pb::Mode::Unspecified);
        let branch = checked(branch, at, "branch", operations(mode)?, mode == pb::Mode::Saga)?;
        if branch.after.iter().any(|index| *index as usize >= at) {
            return Err(invalid("branch.after", "indexes of branches that were added before"));
        }
        let others = plan.branches.iter().enumerate().filter(|(index, _)| *index != at);
        if others.map(|(_, other)| other.request.len()).sum::<usize>() + branch.request.len()
            > limits::MESSAGE_BYTES_MAX
        {
            let limit = format!("at most {} bytes in all branches", limits::MESSAGE_BYTES_MAX);
            return Err(invalid("branch.request", limit));
        }
        Ok(branch)
    }

    /// The machine's side of it, accepted at `now`.
    pub fn start(&self, xid: Xid, now: Timestamp) -> Tx {
        let branches = core_branches(&self.record.branches).expect("a plan is checked before it is one");
        Tx::new(xid, self.record.manual, now.after_ms(self.deadline_ms.into()), branches)
    }

    /// Tells the same content from other content under one idempotency key.
    pub fn digest(&self) -> u64 {
        let plan = record::Plan { traceparent: String::new(), ..self.record.clone() };
        fnv1a(&plan.encode_to_vec(), self.deadline_ms)
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): stored, so it may not change.
fn fnv1a(bytes: &[u8], seed: u32) -> u64 {
    let all = bytes.iter().copied().chain(seed.to_be_bytes());
    all.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The machine's side of stored branches; `None` when this version does not know what to call one of them.
pub fn core_branches(branches: &[record::Branch]) -> Option<Vec<Branch>> {
    branches.iter().map(core_branch).collect()
}

/// The machine's side of a stored branch; `None` when this version does not know what to call it.
pub fn core_branch(branch: &record::Branch) -> Option<Branch> {
    let after: Vec<u8> = branch.after.iter().map(|index| *index as u8).collect();
    let operations = Operations::from_bits(u8::try_from(branch.operations).ok()?)?;
    let retry = planned_policy(branch);
    let call_timeout_ms = match branch.call_timeout_ms {
        0 => limits::CALL_TIMEOUT_MS_DEFAULT,
        given => given,
    };
    Some(Branch::new(operations, &after, retry, call_timeout_ms))
}

/// The policy that a branch was declared with.
pub fn planned_policy(branch: &record::Branch) -> RetryPolicy {
    branch.retry.as_ref().map_or(RetryPolicy::DEFAULT, core_policy)
}

/// The machine's side of a stored policy.
pub fn core_policy(retry: &record::Retry) -> RetryPolicy {
    RetryPolicy {
        first_delay_ms: retry.first_delay_ms,
        factor_percent: retry.factor_percent,
        delay_max_ms: retry.delay_max_ms,
        jitter_percent: retry.jitter_percent as u8,
        quick_attempts: retry.quick_attempts,
        attempts: retry.attempts,
    }
}

/// A policy as it is stored.
pub fn stored_policy(policy: &RetryPolicy) -> record::Retry {
    record::Retry {
        first_delay_ms: policy.first_delay_ms,
        factor_percent: policy.factor_percent,
        delay_max_ms: policy.delay_max_ms,
        jitter_percent: policy.jitter_percent.into(),
        quick_attempts: policy.quick_attempts,
        attempts: policy.attempts,
    }
}

/// Another policy: fields that are 0 stay as they are in `now`.
///
/// # Errors
/// The first field that is outside its limit.
pub fn changed_policy(given: pb::RetryPolicy, now: &RetryPolicy) -> Result<RetryPolicy, Invalid> {
    policy("retry", given, now).map(|stored| core_policy(&stored))
}

/// What can be asked of a stored branch.
pub fn has(branch: &record::Branch, operation: Operation) -> bool {
    Operations::from_bits(branch.operations as u8).is_some_and(|operations| operations.has(operation))
}

fn operations(mode: pb::Mode) -> Result<Operations, Invalid> {
    match mode {
        pb::Mode::Tcc => Ok(Operations::TCC),
        pb::Mode::Saga => Ok(Operations::SAGA),
        pb::Mode::Message => Ok(Operations::RECEIVER),
        pb::Mode::Unspecified => Err(invalid("mode", "TCC, saga or message")),
    }
}

fn deadline(field: &str, given: u32) -> Result<u32, Invalid> {
    match given {
        0 => Ok(limits::DEADLINE_MS_DEFAULT),
        1..=limits::DEADLINE_MS_MAX => Ok(given),
        _ => Err(invalid(field, format!("at most {} ms", limits::DEADLINE_MS_MAX))),
    }
}

fn checked(
    branch: pb::Branch,
    at: usize,
    field: &str,
    operations: Operations,
    chained: bool,
) -> Result<record::Branch, Invalid> {
    check_name(&branch.service, || format!("{field}.service"))?;
    check_name(&branch.action, || format!("{field}.action"))?;
    check_key(field, &branch.business_key)?;
    if branch.request.len() > limits::BODY_BYTES_MAX {
        return Err(invalid(format!("{field}.request"), format!("at most {} bytes", limits::BODY_BYTES_MAX)));
    }
    if branch.call_timeout_ms > limits::CALL_TIMEOUT_MS_MAX {
        let limit = format!("at most {} ms", limits::CALL_TIMEOUT_MS_MAX);
        return Err(invalid(format!("{field}.call_timeout_ms"), limit));
    }
    if branch.after.len() > limits::BRANCHES_MAX {
        return Err(invalid(format!("{field}.after"), format!("at most {} indexes", limits::BRANCHES_MAX)));
    }
    let mut after = branch.after;
    if chained && after.is_empty() && !branch.concurrent && at > 0 {
        after.push(at as u32 - 1);
    }
    after.sort_unstable();
    after.dedup();
    Ok(record::Branch {
        service: branch.service,
        action: branch.action,
        request: branch.request,
        after,
        operations: operations.bits().into(),
        call_timeout_ms: branch.call_timeout_ms,
        retry: branch.retry.map(|retry| policy(&format!("{field}.retry"), retry, &RetryPolicy::DEFAULT)).transpose()?,
        business_key: branch.business_key,
    })
}

fn policy(field: &str, given: pb::RetryPolicy, default: &RetryPolicy) -> Result<record::Retry, Invalid> {
    let or = |given: u32, default: u32| if given == 0 { default } else { given };
    let retry = record::Retry {
        first_delay_ms: or(given.first_delay_ms, default.first_delay_ms),
        factor_percent: or(given.factor_percent, default.factor_percent),
        delay_max_ms: or(given.delay_max_ms, default.delay_max_ms),
        jitter_percent: or(given.jitter_percent, default.jitter_percent.into()),
        quick_attempts: or(given.quick_attempts, default.quick_attempts),
        attempts: or(given.attempts, default.attempts),
    };
    let bounded = [
        ("first_delay_ms", retry.first_delay_ms, 1, limits::DEADLINE_MS_MAX),
        ("delay_max_ms", retry.delay_max_ms, 1, limits::DEADLINE_MS_MAX),
        ("factor_percent", retry.factor_percent, 100, 10_000),
        ("jitter_percent", retry.jitter_percent, 0, 100),
        ("quick_attempts", retry.quick_attempts, 1, 100),
        ("attempts", retry.attempts, 1, limits::ATTEMPTS_MAX),
    ];
    for (name, value, least, most) in bounded {
        if !(least..=most).contains(&value) {
            return Err(invalid(format!("{field}.{name}"), format!("{least} to {most}")));
        }
    }
    Ok(retry)
}

/// Names of services and actions: 1 to 64 of `[a-z0-9_.-]`. Those that begin with "tercet." are the coordinator's own.
///
/// # Errors
/// When it is not one.
pub fn check_name(name: &str, field: impl Fn() -> String) -> Result<(), Invalid> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-');
    if (1..=limits::NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(fits) && !name.starts_with("tercet.") {
        return Ok(());
    }
    Err(invalid(field(), format!("1 to {} of [a-z0-9_.-]", limits::NAME_BYTES_MAX)))
}

fn check_key(field: &str, key: &str) -> Result<(), Invalid> {
    if key.len() <= limits::KEY_BYTES_MAX {
        return Ok(());
    }
    let field = if field == "idempotency_key" { field.into() } else { format!("{field}.business_key") };
    Err(invalid(field, format!("at most {} bytes", limits::KEY_BYTES_MAX)))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Invalid> {
    if labels.len() > limits::LABELS_MAX {
        return Err(invalid("labels", format!("at most {}", limits::LABELS_MAX)));
    }
    for (name, value) in labels {
        if !(1..limits::KEY_BYTES_MAX).contains(&name.len()) || name.contains('=') {
            return Err(invalid("labels", format!("names of 1 to {} bytes without '='", limits::KEY_BYTES_MAX - 1)));
        }
        if value.len() > limits::KEY_BYTES_MAX {
            return Err(invalid("labels", format!("values of at most {} bytes", limits::KEY_BYTES_MAX)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(after: &[u32]) -> pb::Branch {
        pb::Branch { service: "stock".into(), action: "reserve".into(), after: after.into(), ..Default::default() }
    }

    fn declared(mode: pb::Mode, branches: Vec<pb::Branch>) -> Result<Plan, Invalid> {
        Plan::declared(pb::Transaction { mode: mode as i32, branches, ..Default::default() })
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut pb::Transaction), field: &str) {
        let mut transaction = pb::Transaction { mode: pb::Mode::Tcc as i32, ..Default::default() };
        transaction.branches = vec![branch(&[]), branch(&[])];
        change(&mut transaction);
        assert_eq!(Plan::declared(transaction).expect_err("outside its limit").field, field);
    }

    #[test]
    fn what_is_outside_a_limit_is_refused_by_name() {
        refused(|t| t.mode = 0, "transaction.mode");
        refused(|t| t.branches.clear(), "transaction.branches");
        refused(|t| t.branches = vec![branch(&[]); 257], "transaction.branches");
        refused(|t| t.branches[1].after = vec![2], "transaction.branches[1].after");
        refused(|t| t.branches[1].after = vec![1], "transaction.branches.after");
        refused(|t| (t.branches[0].after, t.branches[1].after) = (vec![1], vec![0]), "transaction.branches.after");
        refused(|t| t.branches[1].service = "Stock".into(), "transaction.branches[1].service");
        refused(|t| t.branches[1].action = "x".repeat(65), "transaction.branches[1].action");
        refused(|t| t.branches[0].request = vec![0; (1 << 20) + 1].into(), "transaction.branches[0].request");
        refused(|t| t.branches[0].business_key = "x".repeat(129), "transaction.branches[0].business_key");
        refused(|t| t.branches[0].call_timeout_ms = 600_001, "transaction.branches[0].call_timeout_ms");
        refused(|t| t.deadline_ms = 86_400_001, "transaction.deadline_ms");
        refused(|t| t.idempotency_key = "x".repeat(129), "transaction.idempotency_key");
        refused(|t| drop(t.labels.insert("a=b".into(), "c".into())), "transaction.labels");
        let retry = pb::RetryPolicy { jitter_percent: 101, ..Default::default() };
        refused(|t| t.branches[0].retry = Some(retry), "transaction.branches[0].retry.jitter_percent");
    }

    #[test]
    fn a_saga_runs_as_listed_unless_it_says_otherwise() {
        let concurrent = pb::Branch { concurrent: true, ..branch(&[]) };
        let plan = declared(pb::Mode::Saga, vec![branch(&[]), branch(&[]), branch(&[0]), concurrent.clone()]);
        let after: Vec<_> = plan.expect("fits").record.branches.into_iter().map(|branch| branch.after).collect();
        assert_eq!(after, [vec![], vec![0], vec![0], vec![]]);
        let plan = declared(pb::Mode::Tcc, vec![branch(&[]), branch(&[])]).expect("fits");
        assert!(plan.record.branches.iter().all(|branch| branch.after.is_empty()));
    }

    #[test]
    fn the_same_content_has_the_same_digest_and_other_content_another() {
        let plan = |action: &str| {
            let branch = pb::Branch { action: action.into(), ..branch(&[]) };
            declared(pb::Mode::Tcc, vec![branch]).expect("fits").digest()
        };
        assert_eq!(plan("reserve"), plan("reserve"));
        assert_ne!(plan("reserve"), plan("release"));
    }
}
