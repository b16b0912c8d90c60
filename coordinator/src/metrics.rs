//! Every metric of the coordinator. Labels are bounded: mode, outcome, operation, reply, and services: those that have
//! registered since the start, a few others that transactions name, and "other" for what is past those.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use tercet_core::{Operation, Reply, Status, Timestamp};

use crate::request::Error;
use crate::session::{Health, State};
use crate::store::{Backlog, Compensation};
use crate::{limits, names};

/// Close enough together that a quantile between two of them says something.
const SECONDS: [f64; 20] = [
    0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0, 900.0,
];
/// From a second to the day after which attempts are used up, and over a weekend.
const AGES: [f64; 14] =
    [1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1_800.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0];
const ROWS: [f64; 9] = [1.0, 4.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// From the quick attempts to the last by default.
const RETRIES: [f64; 11] = [1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0, 150.0, 500.0, 1_500.0];

/// What requests can be refused for when there is too much of it.
const OVERLOADS: [&str; 6] =
    ["live transactions", "waiting requests", "waiting calls", "commit delay in ms", "call delay in ms", "disk"];

/// An exporter whose histograms have buckets that fit what they measure.
///
/// # Errors
/// None, as long as every list of buckets has one.
pub fn exporter() -> Result<PrometheusBuilder, BuildError> {
    let suffix = |text: &str| Matcher::Suffix(text.into());
    PrometheusBuilder::new()
        .set_buckets_for_metric(suffix("_seconds"), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("tercet_compensation_age_seconds".into()), &AGES)?
        .set_buckets_for_metric(suffix("_rows"), &ROWS)?
        .set_buckets_for_metric(suffix("_calls"), &ROWS)?
        .set_buckets_for_metric(suffix("_to_success"), &RETRIES)
}

/// Says what each metric means. Called once, after a recorder is installed.
pub fn describe() {
    describe_counter!("tercet_transactions_total", "Transactions that have ended, by mode and outcome");
    describe_histogram!("tercet_transaction_seconds", "From acceptance to the end, by mode");
    describe_counter!("tercet_branch_calls_total", "Answers of participants, by service, operation and reply");
    describe_histogram!("tercet_branch_call_seconds", "From the moment a batch was sent to its answer, by service");
    describe_histogram!("tercet_batch_calls", "Calls in one batch to a participant");
    describe_counter!("tercet_retries_total", "Attempts that will be repeated, by service and operation");
    describe_counter!("tercet_compensations_total", "Branches handed to compensation_log, by service and operation");
    describe_counter!("tercet_parked_total", "Branches parked, by service and operation");
    describe_histogram!(
        "tercet_retries_to_success",
        "Retries of an operation that had any, when it succeeded, by service and operation"
    );
    describe_histogram!("tercet_store_commit_seconds", "How long a group commit took");
    describe_histogram!("tercet_store_commit_rows", "Rows of one group commit");
    describe_gauge!("tercet_store_commit_age_seconds", "Since the group commit under way began; 0: none is");
    describe_counter!("tercet_store_failures_total", "Commits of unknown result");
    describe_gauge!("tercet_disk_free_bytes", "Free bytes of the disk under the store");
    describe_gauge!("tercet_draining", "1 while new transactions are refused because an operator drains it");
    describe_gauge!("tercet_disk_full", "1 while new transactions are refused because that disk is full");
    describe_counter!("tercet_overloaded_total", "Requests refused for want of room, by what there was too much of");
    describe_counter!("tercet_abandoned_total", "Requests whose callers had given up before they were begun");
    describe_histogram!("tercet_scanner_lag_seconds", "From the moment a row was due to its attempt, by service");
    describe_gauge!("tercet_live_transactions", "Transactions in memory");
    describe_gauge!("tercet_idle_seconds", "Since a transaction ended, if only a canary; 0: none is under way");
    describe_gauge!(
        "tercet_silent_seconds",
        "Since sessions were to be asked by canaries and none of any service has answered; 0: one has, or none was"
    );
    describe_gauge!(
        "tercet_canary_age_seconds",
        "Since a session was asked by a canary and has answered nothing: its longest, by service; 0: none is"
    );
    describe_gauge!("tercet_audit_age_seconds", "Since a page of a book came, by service and invariant");
    describe_counter!("tercet_invariant_alarms_total", "Resources found not to be conserved, by service and invariant");
    describe_gauge!("tercet_invariant_broken", "Resources that are not conserved, by service and invariant");
    describe_gauge!("tercet_sessions", "Sessions of participants, by service");
    describe_gauge!("tercet_service_state", "1 for how a service is doing, 0 for all else, by service and state");
    describe_gauge!("tercet_queued_calls", "Calls that wait for a session to take them, by service");
    describe_gauge!("tercet_calls_in_flight", "Calls without an answer, by service");
    describe_gauge!("tercet_oldest_batch_seconds", "Since the oldest batch without an answer was sent, by service");
    describe_gauge!("tercet_compensations_pending", "Rows of compensation_log that are tried again, by service");
    describe_gauge!("tercet_compensations_parked", "Rows of compensation_log that wait for a person, by service");
    describe_gauge!("tercet_compensations_oldest_seconds", "Age of the oldest pending row, by service");
    describe_gauge!("tercet_compensations_overdue_seconds", "Since the first pending row was due, by service");
    describe_histogram!("tercet_compensation_age_seconds", "Age of a pending row at each attempt, by service");
    // A rate sees the first of something only if it was 0 before.
    for what in OVERLOADS {
        counter!("tercet_overloaded_total", "what" => what).absolute(0);
    }
    abandoned_counter().absolute(0);
    failures_counter().absolute(0);
}

fn abandoned_counter() -> Counter {
    counter!("tercet_abandoned_total")
}

fn failures_counter() -> Counter {
    counter!("tercet_store_failures_total")
}

/// A transaction has ended.
pub fn ended(mode: u32, status: Status, created: Timestamp, now: Timestamp) {
    let mode = names::mode_name(mode);
    counter!("tercet_transactions_total", "mode" => mode, "outcome" => names::status_name(status)).increment(1);
    histogram!("tercet_transaction_seconds", "mode" => mode).record(seconds(now.ms_since(created)));
}

/// A group commit is durable.
pub fn committed(rows: usize, took: Duration) {
    histogram!("tercet_store_commit_seconds").record(took.as_secs_f64());
    histogram!("tercet_store_commit_rows").record(rows as f64);
}

/// How long the commit that is under way takes already.
pub fn committing(age: Duration) {
    gauge!("tercet_store_commit_age_seconds").set(age.as_secs_f64());
}

/// A commit's result is unknown.
pub fn store_failed() {
    failures_counter().increment(1);
}

/// So much of the disk under the store is free.
pub fn disk_free(bytes: u64) {
    gauge!("tercet_disk_free_bytes").set(bytes as f64);
}

/// New transactions are refused because somebody drains it, or are not.
pub fn draining(draining: bool) {
    gauge!("tercet_draining").set(if draining { 1.0 } else { 0.0 });
}

/// New transactions are refused because that disk is full, or are not.
pub fn disk_full(full: bool) {
    gauge!("tercet_disk_full").set(if full { 1.0 } else { 0.0 });
}

/// A request was refused for want of room.
pub fn overloaded(error: &Error) {
    let what = match error {
        Error::Overloaded { what, .. } | Error::ServiceOverloaded { what, .. } => *what,
        Error::DiskFull => "disk",
        Error::Invalid(_)
        | Error::KeyReused { .. }
        | Error::BranchDiffers { .. }
        | Error::NotHere
        | Error::NotFound
        | Error::AlreadyDecided { .. }
        | Error::NothingToDo { .. }
        | Error::Draining
        | Error::Declared
        | Error::Unstored { .. }
        | Error::Unavailable { .. }
        | Error::Late
        | Error::Stopping => return,
    };
    counter!("tercet_overloaded_total", "what" => what).increment(1);
}

/// The caller of a request had given up before it was begun.
pub fn abandoned() {
    abandoned_counter().increment(1);
}

/// The services that are named.
static NAMED: Mutex<Named> = Mutex::new(Named { registered: BTreeSet::new(), others: BTreeSet::new() });

struct Named {
    registered: BTreeSet<String>,
    /// A service may have been there before this process: it is told apart as well. But anybody can make up names.
    others: BTreeSet<String>,
}

impl Named {
    fn label(&mut self, service: &str) -> String {
        if !self.registered.contains(service) && !self.others.contains(service) {
            if self.others.len() >= limits::OTHERS_NAMED_MAX {
                return "other".to_owned();
            }
            self.others.insert(service.to_owned());
        }
        service.to_owned()
    }
}

/// The label of a service that a transaction names.
fn named(service: &str) -> String {
    NAMED.lock().unwrap_or_else(PoisonError::into_inner).label(service)
}

/// An attempt will be repeated.
pub fn retried(service: &str, operation: Operation) {
    let operation = names::operation_name(operation);
    counter!("tercet_retries_total", "service" => named(service), "operation" => operation).increment(1);
}

/// A branch goes on through `compensation_log`.
pub fn logged(service: &str, operation: Operation) {
    let operation = names::operation_name(operation);
    counter!("tercet_compensations_total", "service" => named(service), "operation" => operation).increment(1);
}

/// A branch waits for a person.
pub fn parked(service: &str, operation: Operation) {
    let operation = names::operation_name(operation);
    counter!("tercet_parked_total", "service" => named(service), "operation" => operation).increment(1);
}

/// An operation has succeeded after so many attempts that had not.
pub fn succeeded(service: &str, operation: Operation, retries: u32) {
    let operation = names::operation_name(operation);
    histogram!("tercet_retries_to_success", "service" => named(service), "operation" => operation).record(retries);
}

/// The scanner feeds a row.
pub fn scanned(row: &Compensation, now: Timestamp) {
    let service = || named(&row.service);
    let lag = seconds(now.ms_since(row.next_retry_time));
    histogram!("tercet_scanner_lag_seconds", "service" => service()).record(lag);
    let age = seconds(now.ms_since(row.create_time));
    histogram!("tercet_compensation_age_seconds", "service" => service()).record(age);
}

/// What waits in `compensation_log`, of all services for which anything does, and that nothing does of those that have
/// registered. `shown`: the labels of the last time, which are told when nothing does any more.
pub fn backlogs(all: &[Backlog], shown: &mut BTreeSet<String>, now: Timestamp) {
    let registered = NAMED.lock().unwrap_or_else(PoisonError::into_inner).registered.clone();
    let mut labels: BTreeMap<String, Backlog> =
        std::mem::take(shown).into_iter().chain(registered).map(|label| (label, Backlog::default())).collect();
    for one in all {
        let label = named(&one.service);
        shown.insert(label.clone());
        let sum = labels.entry(label).or_default();
        sum.pending += one.pending;
        sum.failed += one.failed;
        sum.oldest = sum.oldest.into_iter().chain(one.oldest).min();
        sum.due = sum.due.into_iter().chain(one.due).min();
    }
    let since = |at: Option<Timestamp>| at.map_or(0.0, |at| seconds(now.ms_since(at)));
    for (label, sum) in labels {
        let service = || label.clone();
        gauge!("tercet_compensations_pending", "service" => service()).set(sum.pending as f64);
        gauge!("tercet_compensations_parked", "service" => service()).set(sum.failed as f64);
        gauge!("tercet_compensations_oldest_seconds", "service" => service()).set(since(sum.oldest));
        gauge!("tercet_compensations_overdue_seconds", "service" => service()).set(since(sum.due));
    }
}

/// How many transactions are in memory.
pub fn live(count: u64) {
    gauge!("tercet_live_transactions").set(count as f64);
}

/// How long ago something ended while something is under way.
pub fn idle(age: Duration) {
    gauge!("tercet_idle_seconds").set(age.as_secs_f64());
}

/// How long ago a session of any service answered while some are to be asked.
pub fn silent(age: Duration) {
    gauge!("tercet_silent_seconds").set(age.as_secs_f64());
}

/// For how long the session of each service that is silent for longest has owed an answer to a canary.
pub fn canaries(ages: &[(String, Duration)]) {
    for (service, age) in ages {
        gauge!("tercet_canary_age_seconds", "service" => service.clone()).set(age.as_secs_f64());
    }
}

/// How old and how sound what a service conserves is, in the worst and in all of its databases.
pub fn audited(service: &str, invariant: &str, age: Duration, broken: usize) {
    let labels = [("service", service.to_owned()), ("invariant", invariant.to_owned())];
    gauge!("tercet_audit_age_seconds", &labels).set(age.as_secs_f64());
    gauge!("tercet_invariant_broken", &labels).set(broken as f64);
}

/// So many resources have been found not to be conserved.
pub fn alarmed(service: &str, invariant: &str, resources: u64) {
    let labels = [("service", service.to_owned()), ("invariant", invariant.to_owned())];
    counter!("tercet_invariant_alarms_total", &labels).increment(resources);
}

/// The metrics of one service, looked up once.
#[derive(Debug)]
pub struct ServiceMetrics {
    sessions: Gauge,
    queued: Gauge,
    in_flight: Gauge,
    oldest_batch: Gauge,
    states: [Gauge; State::ALL.len()],
    calls: metrics::Histogram,
    seconds: metrics::Histogram,
    replies: Vec<Counter>,
}

const OPERATIONS: [Operation; 4] = [Operation::Try, Operation::Confirm, Operation::Cancel, Operation::Ask];
const REPLIES: [Reply; 4] = [Reply::Done, Reply::Refused, Reply::NotNow { delay_ms: 0 }, Reply::Unknown];

impl ServiceMetrics {
    /// Those of a service that has registered.
    pub fn new(service: &str) -> Self {
        let label = || service.to_owned();
        NAMED.lock().unwrap_or_else(PoisonError::into_inner).registered.insert(label());
        for operation in OPERATIONS.map(names::operation_name) {
            // As in `describe`: a rate sees the first one.
            for name in ["tercet_retries_total", "tercet_compensations_total", "tercet_parked_total"] {
                counter!(name, "service" => label(), "operation" => operation).absolute(0);
            }
        }
        let replies = OPERATIONS.iter().flat_map(|operation| {
            REPLIES.iter().map(|reply| {
                let (operation, reply) = (names::operation_name(*operation), names::reply_name(*reply));
                counter!("tercet_branch_calls_total",
                    "service" => label(), "operation" => operation, "reply" => reply)
            })
        });
        Self {
            sessions: gauge!("tercet_sessions", "service" => label()),
            queued: gauge!("tercet_queued_calls", "service" => label()),
            in_flight: gauge!("tercet_calls_in_flight", "service" => label()),
            oldest_batch: gauge!("tercet_oldest_batch_seconds", "service" => label()),
            states: State::ALL
                .map(|state| gauge!("tercet_service_state", "service" => label(), "state" => state.name())),
            calls: histogram!("tercet_batch_calls", "service" => label()),
            seconds: histogram!("tercet_branch_call_seconds", "service" => label()),
            replies: replies.collect(),
        }
    }

    /// How it is doing.
    pub fn measure(&self, health: &Health) {
        self.sessions.set(health.sessions as f64);
        self.queued.set(health.queued as f64);
        self.in_flight.set(health.in_flight as f64);
        self.oldest_batch.set(health.oldest_batch.as_secs_f64());
        for (gauge, state) in self.states.iter().zip(State::ALL) {
            gauge.set(if state == health.state { 1.0 } else { 0.0 });
        }
    }

    /// A batch was sent.
    pub fn sent(&self, calls: usize) {
        self.calls.record(calls as f64);
    }

    /// A batch was answered.
    pub fn answered(&self, took: Duration) {
        self.seconds.record(took.as_secs_f64());
    }

    /// A call was answered.
    pub fn replied(&self, operation: Operation, reply: Reply) {
        let row = usize::from(names::operation_number(operation)) - 1;
        self.replies[row * REPLIES.len() + reply_column(reply)].increment(1);
    }
}

/// Where a reply is counted: done, refused, not now, unknown.
pub const fn reply_column(reply: Reply) -> usize {
    match reply {
        Reply::Done => 0,
        Reply::Refused => 1,
        Reply::NotNow { .. } => 2,
        Reply::Unknown | Reply::Unreachable => 3,
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_somebody_makes_up_are_not_all_kept() {
        let mut named = Named { registered: BTreeSet::from(["stock".to_owned()]), others: BTreeSet::new() };
        for at in 0..limits::OTHERS_NAMED_MAX {
            assert_eq!(named.label(&format!("svc-{at}")), format!("svc-{at}"));
        }
        assert_eq!(["svc-0", "svc-x", "stock"].map(|name| named.label(name)), ["svc-0", "other", "stock"]);
    }
}
