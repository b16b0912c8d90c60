//! A transaction as it is driven, as it is stored, and as it is shown: three forms of one thing, and the ways between
//! them.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tercet_core::{
    Cause, Effects, Note, Operation, Parked, Progress, Reply, RowStatus, Status, Timestamp, Tx, Xid, acyclic,
};
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::store::v1 as record;

use crate::plan::{Plan, core_branch, core_branches, core_policy, planned_policy, stored_policy};
use crate::store::{Advance, CompensationStatus, CompensationWrite, Create, Key, Owner, Record};
use crate::{limits, names};

/// A participant's words about a branch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// What its operation answered.
    pub result: Bytes,
    /// Why it refused, or what is known of an unknown answer.
    pub reason: String,
}

/// A transaction in memory: the machine's state, the plan, and what the machine does not look at.
#[derive(Clone, Debug)]
pub struct Live {
    /// The machine's state.
    pub tx: Tx,
    /// What was declared, with the branches that were added since.
    pub plan: Arc<record::Plan>,
    /// The last version that is durable; 0: none yet.
    pub version: u64,
    /// The initiator's own name for it.
    pub idempotency_key: Option<String>,
    /// Branches that the stored plan has; the rest is in the state.
    planned: usize,
    words: Vec<Words>,
    /// Why it is cancelled, in the words of the initiator or of the participant that refused.
    reason: String,
    timeline: Vec<record::Note>,
    ended_at: Timestamp,
}

/// A stored transaction that can not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not in the record format.
    #[error("the record of transaction {xid} can not be decoded")]
    Format {
        /// Which transaction.
        xid: Xid,
        /// What is wrong with it.
        #[source]
        source: prost::DecodeError,
    },
    /// A number in it means nothing to this version.
    #[error("the record of transaction {xid} has an unknown {field}")]
    Value {
        /// Which transaction.
        xid: Xid,
        /// Which field.
        field: &'static str,
    },
}

impl Live {
    /// A transaction at its beginning.
    pub fn new(xid: Xid, plan: Plan, now: Timestamp) -> Self {
        let tx = plan.start(xid, now);
        let count = tx.branches.len();
        Self {
            tx,
            version: 0,
            idempotency_key: (!plan.idempotency_key.is_empty()).then_some(plan.idempotency_key),
            planned: count,
            words: vec![Words::default(); count],
            reason: String::new(),
            timeline: Vec::new(),
            plan: Arc::new(plan.record),
            ended_at: Timestamp(0),
        }
    }

    /// Reads a stored transaction, as it was written.
    ///
    /// # Errors
    /// When the record is not one of this version's.
    pub fn decode(stored: &Record) -> Result<Self, Error> {
        let xid = stored.xid;
        let format = |source| Error::Format { xid, source };
        let mut plan = record::Plan::decode(stored.plan.clone()).map_err(format)?;
        let state = record::State::decode(stored.state.clone()).map_err(format)?;
        let planned = plan.branches.len();
        plan.branches.extend(state.added);
        let mut branches =
            core_branches(&plan.branches).ok_or(Error::Value { xid, field: "operations of a branch" })?;
        if branches.len() != state.branches.len() || branches.len() > limits::BRANCHES_MAX {
            return Err(Error::Value { xid, field: "number of branches" });
        }
        if !acyclic(&branches) {
            return Err(Error::Value { xid, field: "order of branches" });
        }
        let mut words = Vec::with_capacity(branches.len());
        for (branch, stored) in branches.iter_mut().zip(state.branches) {
            (branch.progress, branch.logged) =
                progress_from(stored.progress).ok_or(Error::Value { xid, field: "progress" })?;
            branch.attempts = stored.attempts;
            if let Some(retry) = &stored.retry {
                branch.retry = core_policy(retry);
            }
            words.push(Words { result: stored.result, reason: stored.reason });
        }
        let status = names::status_from(state.status).ok_or(Error::Value { xid, field: "status" })?;
        let cause = match state.cause {
            0 => None,
            1 => Some(Cause::Refused { branch: state.cause_branch as u8 }),
            2 => Some(Cause::Deadline),
            3 => Some(Cause::RolledBack),
            4 => Some(Cause::Forced),
            _ => return Err(Error::Value { xid, field: "cause" }),
        };
        let deadline = Timestamp(state.deadline_ms);
        let tx = Tx { xid, status, manual: plan.manual, deadline, cause, branches };
        Ok(Self {
            tx,
            plan: Arc::new(plan),
            version: stored.version,
            idempotency_key: stored.idempotency_key.clone(),
            planned,
            words,
            reason: state.reason,
            timeline: state.timeline,
            ended_at: stored.ended_at.unwrap_or_default(),
        })
    }

    /// Adds a branch to the plan; the machine decides whether it takes it.
    pub fn plan_branch(&mut self, branch: record::Branch) -> tercet_core::Branch {
        let core = core_branch(&branch).expect("a branch is checked before it is added");
        Arc::make_mut(&mut self.plan).branches.push(branch);
        self.words.push(Words::default());
        core
    }

    /// Takes a branch off the plan that the machine did not take.
    pub fn unplan_branch(&mut self) {
        Arc::make_mut(&mut self.plan).branches.pop();
        self.words.pop();
    }

    /// Keeps why the initiator wants it rolled back, until it is decided.
    pub fn roll_back(&mut self, mut reason: String) {
        if !self.tx.status.decided() {
            truncate(&mut reason, limits::REASON_BYTES_MAX);
            self.reason = reason;
        }
    }

    /// Keeps why a person decided it.
    pub fn forced(&mut self, mut reason: String) {
        truncate(&mut reason, limits::REASON_BYTES_MAX);
        self.reason = reason;
    }

    /// Keeps why a person did a branch's work by hand.
    pub fn resolved(&mut self, branch: u8, mut reason: String) {
        truncate(&mut reason, limits::REASON_BYTES_MAX);
        if let Some(words) = self.words.get_mut(usize::from(branch)) {
            words.reason = reason;
        }
    }

    /// What a branch's participant said last, if something went wrong.
    pub fn said(&self, branch: u8) -> &str {
        self.words.get(usize::from(branch)).map_or("", |words| &words.reason)
    }

    /// Its timeline without what people did: when, and a sentence.
    pub fn history(&self) -> impl Iterator<Item = pb::TimelineEntry> {
        self.timeline.iter().filter(|note| !names::is_act(note.kind)).map(|note| self.line(note))
    }

    /// Keeps what a participant said, if it is about the operation that the branch is at.
    pub fn hear(&mut self, branch: u8, operation: Operation, reply: Reply, mut words: Words) {
        let index = usize::from(branch);
        let Some(kept) = self.words.get_mut(index) else { return };
        // What a confirm or a cancel answers is kept where no try has answered; a cancel's result is nobody's.
        let first = self.tx.operation(branch) == Some(operation) && !self.tx.branches[index].finished();
        match reply {
            Reply::Done if first && operation != Operation::Cancel => {
                words.result.truncate(limits::RESULT_BYTES_MAX);
                if !words.result.is_empty() {
                    kept.result = words.result;
                }
                // What went wrong on the way is over.
                kept.reason.clear();
            }
            Reply::Refused | Reply::Unknown if first && !words.reason.is_empty() => {
                truncate(&mut words.reason, limits::REASON_BYTES_MAX);
                if reply == Reply::Refused && !self.tx.status.decided() {
                    // Of its own: the branch's words go on to tell of its cancel.
                    self.reason.clone_from(&words.reason);
                }
                kept.reason = words.reason;
            }
            Reply::Done | Reply::Refused | Reply::NotNow { .. } | Reply::Unknown | Reply::Unreachable => {}
        }
    }

    /// Adds what was out of the ordinary. Bounded: the first half stays, then the newest.
    pub fn note(&mut self, notes: &[Note], now: Timestamp) {
        for note in notes {
            if self.timeline.len() >= limits::TIMELINE_MAX {
                self.timeline.remove(limits::TIMELINE_MAX / 2);
            }
            let (kind, branch) = names::note_number(*note);
            let attempt = self.tx.branches.get(usize::from(branch)).map_or(0, |branch| branch.attempts);
            self.timeline.push(record::Note { at_ms: now.0, kind, branch: branch.into(), attempt });
        }
    }

    /// When it needs its owner, as the store's column has it: not at all once it has ended or rests.
    pub fn stored_wake_at(&self) -> Option<Timestamp> {
        if self.tx.status.ended() || self.tx.rests() {
            return None;
        }
        // A branch in the log is the scanner's, and counts for nothing here.
        Some(if self.tx.status == Status::Trying { self.tx.deadline } else { self.tx.wake_at().unwrap_or_default() })
    }

    /// The first version.
    pub fn create(&mut self, owner: Owner, digest: u64, now: Timestamp) -> Create {
        let plan = self.plan.encode_to_vec().into();
        let mut keys: Vec<Key> =
            self.plan.labels.iter().map(|(name, value)| Key::Label(format!("{name}={value}"))).collect();
        keys.extend(business_keys(&self.plan.branches));
        self.ended_at = if self.tx.status.ended() { now } else { Timestamp(0) };
        Create {
            xid: self.tx.xid,
            mode: self.plan.mode as u8,
            status: names::status_number(self.tx.status),
            ended_at: self.tx.status.ended().then_some(now),
            owner,
            wake_at: self.stored_wake_at(),
            idempotency_key: self.idempotency_key.clone(),
            digest,
            plan,
            state: self.encode_state(),
            keys,
        }
    }

    /// The next version, with the rows of `compensation_log` that belong to it. `added`: the last branch is new.
    pub fn advance(&mut self, owner: Owner, effects: &Effects, added: bool, now: Timestamp) -> Advance {
        let ended = self.tx.status.ended();
        if ended {
            self.ended_at = now;
        }
        let wake_at = self.stored_wake_at();
        let new = if added { self.plan.branches.last() } else { None };
        Advance {
            xid: self.tx.xid,
            version: self.version,
            status: names::status_number(self.tx.status),
            ended_at: ended.then_some(now),
            owner: wake_at.map(|_| owner),
            wake_at,
            state: self.encode_state(),
            keys: business_keys(new).collect(),
            compensations: self.compensations(effects, now),
            audit: None,
        }
    }

    fn compensations(&self, effects: &Effects, now: Timestamp) -> Vec<CompensationWrite> {
        let rows = effects.compensations.iter().map(|change| {
            let index = usize::from(change.branch);
            let branch = &self.plan.branches[index];
            let (status, next_retry_time) = match change.status {
                RowStatus::Pending(at) => (CompensationStatus::Pending, at),
                RowStatus::Done => (CompensationStatus::Done, now),
                RowStatus::Failed => (CompensationStatus::Failed, now),
            };
            CompensationWrite {
                branch: change.branch.into(),
                operation: names::operation_number(change.operation),
                service: branch.service.clone(),
                coupon_id: branch.business_key.strip_prefix("coupon/").and_then(|id| id.parse().ok()),
                status,
                retry_count: change.retry_count,
                next_retry_time,
                last_error: self.words[index].reason.clone(),
            }
        });
        rows.collect()
    }

    fn encode_state(&self) -> Bytes {
        let (cause, cause_branch) = match self.tx.cause {
            None => (0, 0),
            Some(Cause::Refused { branch }) => (1, branch.into()),
            Some(Cause::Deadline) => (2, 0),
            Some(Cause::RolledBack) => (3, 0),
            Some(Cause::Forced) => (4, 0),
        };
        let branches = self.tx.branches.iter().zip(&self.plan.branches).zip(&self.words);
        let branches = branches.map(|((branch, plan), words)| record::BranchState {
            progress: progress_number(branch),
            // Quick attempts start again after a restart.
            attempts: if branch.logged { branch.attempts } else { 0 },
            reason: words.reason.clone(),
            result: words.result.clone(),
            retry: (branch.retry != planned_policy(plan)).then(|| stored_policy(&branch.retry)),
        });
        let state = record::State {
            status: names::status_number(self.tx.status).into(),
            deadline_ms: self.tx.deadline.0,
            cause,
            cause_branch,
            branches: branches.collect(),
            timeline: self.timeline.clone(),
            added: self.plan.branches[self.planned..].to_vec(),
            reason: self.reason.clone(),
        };
        state.encode_to_vec().into()
    }

    /// As shown. The caller shows only what is durable.
    pub fn view(&self) -> pb::TransactionView {
        let branches = self.tx.branches.iter().zip(&self.plan.branches).zip(&self.words);
        let branches = branches.map(|((branch, plan), words)| pb::BranchView {
            service: plan.service.clone(),
            action: plan.action.clone(),
            status: branch_status(branch) as i32,
            result: words.result.clone(),
            attempts: branch.attempts,
            business_key: plan.business_key.clone(),
            reason: words.reason.clone(),
        });
        pb::TransactionView {
            xid: Bytes::copy_from_slice(&self.tx.xid.0),
            mode: self.plan.mode as i32,
            status: i32::from(names::status_number(self.tx.status)),
            version: self.version,
            reason: self.reason(),
            branches: branches.collect(),
            repeated: false,
            created_at_ms: self.tx.xid.created_at().0,
            deadline_at_ms: self.tx.deadline.0,
            ended_at_ms: self.ended_at.0,
            labels: self.plan.labels.clone(),
            timeline: self.timeline.iter().map(|note| self.line(note)).collect(),
            idempotency_key: self.idempotency_key.clone().unwrap_or_default(),
            refusal: self.refusal(),
        }
    }

    fn refusal(&self) -> Option<pb::Refusal> {
        match self.tx.cause {
            Some(Cause::Refused { branch }) => Some(pb::Refusal { branch: branch.into(), reason: self.reason.clone() }),
            Some(Cause::Deadline | Cause::RolledBack | Cause::Forced) | None => None,
        }
    }

    fn reason(&self) -> String {
        match self.tx.cause {
            None => String::new(),
            Some(Cause::Deadline) => "the deadline passed before it was decided".into(),
            Some(Cause::Forced) => format!("a person decided it: {}", self.reason),
            Some(Cause::RolledBack) if self.reason.is_empty() => "the initiator rolled it back".into(),
            Some(Cause::RolledBack) => format!("the initiator rolled it back: {}", self.reason),
            Some(Cause::Refused { branch }) => {
                let index = usize::from(branch);
                let service = self.plan.branches.get(index).map_or("?", |branch| &branch.service);
                format!("{service} refused: {}", self.reason)
            }
        }
    }

    fn line(&self, note: &record::Note) -> pb::TimelineEntry {
        let branch = self.plan.branches.get(note.branch as usize);
        let name = branch.map_or_else(String::new, |branch| format!("{}/{}", branch.service, branch.action));
        let text = names::note_text(note.kind, &name, note.branch, note.attempt);
        pb::TimelineEntry { at_ms: note.at_ms, text }
    }
}

/// Cuts off what is over so many bytes, between two characters.
pub(crate) fn truncate(text: &mut String, bytes_max: usize) {
    if let Some(end) = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end))
        && text.len() > bytes_max
    {
        text.truncate(end);
    }
}

fn business_keys<'a>(branches: impl IntoIterator<Item = &'a record::Branch>) -> impl Iterator<Item = Key> {
    let keys = branches.into_iter().map(|branch| branch.business_key.as_str()).filter(|key| !key.is_empty());
    let mut keys: Vec<_> = keys.map(str::to_owned).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().map(Key::Business)
}

fn progress_number(branch: &tercet_core::Branch) -> u32 {
    match branch.progress {
        Progress::Parked(Parked::Refused) => 5,
        Progress::Parked(Parked::Exhausted) => 6,
        Progress::Parked(Parked::ByPerson) => 7,
        Progress::Done => 2,
        Progress::Skipped => 4,
        Progress::Logged => 3,
        Progress::Due | Progress::Called | Progress::Delayed | Progress::Unreachable => {
            if branch.logged {
                3
            } else {
                1
            }
        }
    }
}

/// Progress, and whether there is a row in the log.
fn progress_from(number: u32) -> Option<(Progress, bool)> {
    match number {
        1 => Some((Progress::Due, false)),
        2 => Some((Progress::Done, false)),
        3 => Some((Progress::Logged, true)),
        4 => Some((Progress::Skipped, false)),
        5 => Some((Progress::Parked(Parked::Refused), true)),
        6 => Some((Progress::Parked(Parked::Exhausted), true)),
        7 => Some((Progress::Parked(Parked::ByPerson), true)),
        _ => None,
    }
}

fn branch_status(branch: &tercet_core::Branch) -> pb::BranchStatus {
    match branch.progress {
        // A branch that is called for its row of the log is still in the log.
        Progress::Due | Progress::Called | Progress::Delayed | Progress::Unreachable if !branch.logged => {
            pb::BranchStatus::Pending
        }
        Progress::Due | Progress::Called | Progress::Delayed | Progress::Unreachable | Progress::Logged => {
            pb::BranchStatus::Logged
        }
        Progress::Done => pb::BranchStatus::Done,
        Progress::Parked(_) => pb::BranchStatus::Parked,
        Progress::Skipped => pb::BranchStatus::Skipped,
    }
}
