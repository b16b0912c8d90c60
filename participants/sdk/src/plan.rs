//! Declares a transaction: its branches, their order and its limits, checked before anything is sent.
//!
//! The plan's mode is part of its type, so that a saga takes only actions that can be compensated. A branch is ordered
//! by handles of earlier branches, so that a cycle, or a branch that does not exist, can not be written:
//!
//! ```
//! use tercet::action::{Action, Json, Saga};
//! use tercet::plan::saga;
//!
//! const PAY: Action<Saga, Json<u64>> = Action::saga("purse", "pay");
//! const SHIP: Action<Saga, Json<String>> = Action::saga("depot", "ship");
//!
//! let mut plan = saga().idempotency_key("order/42");
//! let paid = plan.branch(PAY.with(&Json(250))?.business_key("order/42"));
//! plan.branch(SHIP.with(&Json("a kettle".into()))?.after(&[paid]));
//! assert_eq!(plan.build()?.branch_count(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An action without a cancel has no place in a saga:
//!
//! ```compile_fail,E0308
//! use tercet::action::{Action, Json, Message};
//! use tercet::plan::saga;
//!
//! const NOTIFY: Action<Message, Json<u64>> = Action::message("mail", "notify");
//! saga().branch(NOTIFY.with(&Json(1)).unwrap());
//! ```
//!
//! A handle exists only after its branch, so nothing can wait for itself:
//!
//! ```compile_fail,E0425
//! use tercet::action::{Action, Json, Tcc};
//! use tercet::plan::tcc;
//!
//! const RESERVE: Action<Tcc, Json<u64>> = Action::tcc("stock", "reserve");
//! let mut plan = tcc();
//! let first = plan.branch(RESERVE.with(&Json(1)).unwrap().after(&[second]));
//! let second = plan.branch(RESERVE.with(&Json(2)).unwrap().after(&[first]));
//! ```

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tercet_proto::coordinator::v1 as pb;

use crate::action::{Action, FormatError, Message, Request, Saga, Tcc};
use crate::context::Traceparent;

/// Branches in one transaction.
pub const BRANCHES_MAX: usize = 256;
/// Bytes of one branch's request.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Bytes of an idempotency key, a business key, a label's name and a label's value.
pub const KEY_BYTES_MAX: usize = 128;
/// Labels of one transaction.
pub const LABELS_MAX: usize = 16;
/// Characters of the name of a service or an action.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest deadline, time-out or delay. The shortest is a millisecond.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A field beyond its limit. The same plan is refused every time: the program has to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {limit}")]
pub struct InvalidField {
    /// Where, as a path: `branches[2].request`.
    pub field: String,
    /// What is allowed there.
    pub limit: String,
}

impl InvalidField {
    pub(crate) fn new(field: impl Into<String>, limit: impl Into<String>) -> Self {
        Self { field: field.into(), limit: limit.into() }
    }
}

/// How a transaction's branches end together. Implemented by the markers of [`crate::action`] that can be planned.
pub trait Mode: Send + Sync + 'static {
    /// Its name on the wire.
    const WIRE: pb::Mode;
}

impl Mode for Tcc {
    const WIRE: pb::Mode = pb::Mode::Tcc;
}

impl Mode for Saga {
    const WIRE: pb::Mode = pb::Mode::Saga;
}

impl Mode for Message {
    const WIRE: pb::Mode = pb::Mode::Message;
}

/// The modes with tries, which can run out of time before they are decided.
pub trait Tried: Mode {}

impl Tried for Tcc {}
impl Tried for Saga {}

/// How often, and how far apart, an operation without an answer is repeated. `None` takes the coordinator's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Before the second attempt.
    pub first_delay: Option<Duration>,
    /// Each delay in hundredths of the one before, 100 to 10,000; 200 doubles.
    pub factor_percent: Option<u32>,
    /// What delays grow to.
    pub delay_max: Option<Duration>,
    /// Up to this share is taken off each delay, at most 100, so that transactions do not retry in step.
    pub jitter_percent: Option<u32>,
    /// Attempts of confirm, cancel and ask before the rest goes through the coordinator's `compensation_log`.
    pub quick_attempts: Option<u32>,
    /// Attempts in all, after which the branch is parked for a person.
    pub attempts: Option<u32>,
}

impl RetryPolicy {
    fn to_wire(self) -> Result<pb::RetryPolicy, InvalidField> {
        Ok(pb::RetryPolicy {
            first_delay_ms: self.first_delay.map_or(Ok(0), |delay| millis("retry.first_delay", delay))?,
            factor_percent: within("retry.factor_percent", self.factor_percent, 100, 10_000)?,
            delay_max_ms: self.delay_max.map_or(Ok(0), |delay| millis("retry.delay_max", delay))?,
            jitter_percent: within("retry.jitter_percent", self.jitter_percent, 1, 100)?,
            quick_attempts: within("retry.quick_attempts", self.quick_attempts, 1, u32::MAX)?,
            attempts: within("retry.attempts", self.attempts, 1, u32::MAX)?,
        })
    }
}

/// A branch of a plan, for [`Branch::after`] and for its result in the answer. Belongs to the plan that returned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    plan: u64,
    index: u32,
}

impl From<Handle> for u32 {
    fn from(handle: Handle) -> Self {
        handle.index
    }
}

/// One participant's part: an action, its request, and how it is to be called.
#[derive(Clone, Debug)]
pub struct Branch<M> {
    wire: pb::Branch,
    after: Vec<Handle>,
    invalid: Option<InvalidField>,
    mode: PhantomData<fn() -> M>,
}

impl<M, R: Request> Action<M, R> {
    /// A branch that asks this of the service.
    ///
    /// # Errors
    /// When the request has no form in its format, which prost messages always have.
    pub fn with(&self, request: &R) -> Result<Branch<M>, FormatError> {
        Ok(Branch::new(self.service(), self.name(), request.to_bytes()?))
    }
}

impl<M> Branch<M> {
    fn new(service: &str, action: &str, request: Bytes) -> Self {
        let wire = pb::Branch { service: service.into(), action: action.into(), request, ..pb::Branch::default() };
        Self { wire, after: Vec::new(), invalid: None, mode: PhantomData }
    }

    /// A branch whose service and action are known only at run time, such as `Branch::<Tcc>::dynamic(…)`. That the
    /// service registered this action in this mode is found out by the coordinator; [`Action::with`] needs no such
    /// luck.
    ///
    /// # Errors
    /// When a name is not 1 to 64 of `[a-z0-9_.-]`, or the request is longer than 1 MiB.
    pub fn dynamic(service: &str, action: &str, request: Bytes) -> Result<Self, InvalidField> {
        let branch = Self::new(service, action, request);
        branch.check()?;
        Ok(branch)
    }

    /// Tries it only when the tries of these have succeeded. Handles are of earlier branches of the same plan.
    #[must_use]
    pub fn after(mut self, branches: &[Handle]) -> Self {
        self.after.extend_from_slice(branches);
        self
    }

    /// How long one call may take before its answer counts as unknown. 1 ms to 24 h.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.wire.call_timeout_ms = keep(&mut self.invalid, millis("call_timeout", timeout));
        self
    }

    /// How often, and how far apart, it is called again.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.wire.retry = Some(keep(&mut self.invalid, policy.to_wire()));
        self
    }

    /// What a person searches by, such as `coupon/42`. At most 128 bytes.
    #[must_use]
    pub fn business_key(mut self, key: impl Into<String>) -> Self {
        self.wire.business_key = key.into();
        self
    }

    fn check(&self) -> Result<(), InvalidField> {
        if let Some(invalid) = &self.invalid {
            return Err(invalid.clone());
        }
        name("service", &self.wire.service)?;
        name("action", &self.wire.action)?;
        if self.wire.request.len() > REQUEST_BYTES_MAX {
            return Err(InvalidField::new("request", "at most 1 MiB"));
        }
        at_most("business_key", &self.wire.business_key)
    }

    /// Checked, for a call that takes it outside of a plan.
    pub(crate) fn into_wire(self) -> Result<pb::Branch, InvalidField> {
        self.check()?;
        if self.after.is_empty() {
            Ok(self.wire)
        } else {
            Err(InvalidField::new("after", "only in a plan: what is called by the initiator is ordered by it"))
        }
    }
}

impl Branch<Saga> {
    /// Starts it at once, whatever stands before it in the plan.
    #[must_use]
    pub fn concurrent(mut self) -> Self {
        self.wire.concurrent = true;
        self
    }
}

/// A transaction being declared. [`tcc`], [`saga`] and [`message`] start one.
#[derive(Clone, Debug)]
pub struct Builder<M> {
    id: u64,
    wire: pb::Transaction,
    traceparent: Option<Traceparent>,
    invalid: Option<InvalidField>,
    mode: PhantomData<fn() -> M>,
}

/// A transaction of tries that are all confirmed or all cancelled. They run at once where [`Branch::after`] does not
/// order them.
pub fn tcc() -> Builder<Tcc> {
    Builder::new()
}

/// A transaction of steps in the order given; when one is refused, those before it are compensated, newest first.
pub fn saga() -> Builder<Saga> {
    Builder::new()
}

/// A message to one or several receivers, each delivered until it is done.
pub fn message() -> Builder<Message> {
    Builder::new()
}

impl<M: Mode> Builder<M> {
    fn new() -> Self {
        // Tells the handles of two plans apart, so that one used in the wrong plan is found out.
        static IDS: AtomicU64 = AtomicU64::new(0);
        let wire = pb::Transaction { mode: M::WIRE.into(), ..pb::Transaction::default() };
        Self { id: IDS.fetch_add(1, Ordering::Relaxed), wire, traceparent: None, invalid: None, mode: PhantomData }
    }

    /// Adds a branch. What is wrong with it is told by [`Builder::build`].
    pub fn branch(&mut self, branch: Branch<M>) -> Handle {
        let at = self.wire.branches.len();
        let index = u32::try_from(at).unwrap_or(u32::MAX);
        if let Err(InvalidField { field, limit }) = branch.check() {
            self.refuse(InvalidField::new(format!("branches[{at}].{field}"), limit));
        }
        let mut wire = branch.wire;
        for handle in branch.after {
            if handle.plan == self.id && handle.index < index {
                wire.after.push(handle.index);
            } else {
                self.refuse(InvalidField::new(format!("branches[{at}].after"), "earlier branches of the same plan"));
            }
        }
        self.wire.branches.push(wire);
        Handle { plan: self.id, index }
    }

    /// A name and a value to search by. At most 16, each of at most 128 bytes; a name is not empty. The same name
    /// again replaces the value.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.wire.labels.insert(name.into(), value.into());
        self
    }

    /// What makes a repeat by the caller, even by a restarted one, the same transaction: 1 to 128 bytes, unique among
    /// all transactions that the coordinator still keeps. Without one the client's own repeats alone are safe.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.wire.idempotency_key = key.into();
        if self.wire.idempotency_key.is_empty() {
            self.refuse(InvalidField::new("idempotency_key", "1 to 128 bytes"));
        }
        self
    }

    /// The caller's span, which every call of a participant is told.
    #[must_use]
    pub fn traceparent(mut self, traceparent: Traceparent) -> Self {
        self.traceparent = Some(traceparent);
        self
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// The first field beyond its limit.
    pub fn build(self) -> Result<Plan<M>, InvalidField> {
        if self.wire.branches.is_empty() {
            return Err(InvalidField::new("branches", "1 to 256"));
        }
        self.check()
    }

    /// All but the number of branches, which a transaction driven by its initiator has none of yet.
    pub(crate) fn check(self) -> Result<Plan<M>, InvalidField> {
        if let Some(invalid) = self.invalid {
            return Err(invalid);
        }
        if self.wire.branches.len() > BRANCHES_MAX {
            return Err(InvalidField::new("branches", "1 to 256"));
        }
        at_most("idempotency_key", &self.wire.idempotency_key)?;
        if self.wire.labels.len() > LABELS_MAX {
            return Err(InvalidField::new("labels", "at most 16"));
        }
        for (name, value) in &self.wire.labels {
            if name.is_empty() || name.len() > KEY_BYTES_MAX {
                return Err(InvalidField::new("labels", "names of 1 to 128 bytes"));
            }
            at_most(&format!("labels[{name}]"), value)?;
        }
        Ok(Plan { wire: self.wire, traceparent: self.traceparent, mode: PhantomData })
    }

    fn refuse(&mut self, invalid: InvalidField) {
        self.invalid.get_or_insert(invalid);
    }
}

impl<M: Tried> Builder<M> {
    /// From acceptance to the decision, 1 ms to 24 h; past it the transaction is cancelled. The coordinator has a
    /// default.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.wire.deadline_ms = keep(&mut self.invalid, millis("deadline", deadline));
        self
    }
}

/// A transaction within every limit, ready to be sent, any number of times.
#[derive(Clone, Debug)]
pub struct Plan<M> {
    wire: pb::Transaction,
    traceparent: Option<Traceparent>,
    mode: PhantomData<fn() -> M>,
}

impl<M> Plan<M> {
    /// How many branches it has, 1 to 256.
    pub fn branch_count(&self) -> usize {
        self.wire.branches.len()
    }

    pub(crate) fn into_wire(self) -> (pb::Transaction, Option<Traceparent>) {
        (self.wire, self.traceparent)
    }
}

/// The value, or its default after noting what is wrong with it: the first fault wins.
fn keep<T: Default>(invalid: &mut Option<InvalidField>, value: Result<T, InvalidField>) -> T {
    value.unwrap_or_else(|fault| {
        invalid.get_or_insert(fault);
        T::default()
    })
}

fn name(field: &str, name: &str) -> Result<(), InvalidField> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.' | b'-');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(InvalidField::new(field, "1 to 64 of [a-z0-9_.-]"))
    }
}

fn at_most(field: &str, text: &str) -> Result<(), InvalidField> {
    if text.len() <= KEY_BYTES_MAX { Ok(()) } else { Err(InvalidField::new(field, "at most 128 bytes")) }
}

/// Whole milliseconds. Less than one is an error, for 0 on the wire is the coordinator's default.
pub(crate) fn millis(field: &str, duration: Duration) -> Result<u32, InvalidField> {
    let ms = u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    if ms >= 1 && duration <= DURATION_MAX { Ok(ms) } else { Err(InvalidField::new(field, "1 ms to 24 h")) }
}

fn within(field: &str, value: Option<u32>, least: u32, most: u32) -> Result<u32, InvalidField> {
    match value {
        None => Ok(0),
        Some(value) if (least..=most).contains(&value) => Ok(value),
        Some(_) if most == u32::MAX => Err(InvalidField::new(field, format!("at least {least}"))),
        Some(_) => Err(InvalidField::new(field, format!("{least} to {most}"))),
    }
}

#[cfg(test)]
mod tests;
