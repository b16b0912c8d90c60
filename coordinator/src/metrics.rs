//! Every metric of the coordinator. Labels are bounded: mode, outcome, operation, reply, and services that have
//! registered.

use std::time::Duration;

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tercet_core::{Operation, Reply, Status, Timestamp};

use crate::names;
use crate::request::Error;

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
    describe_histogram!("tercet_store_commit_seconds", "How long a group commit took");
    describe_histogram!("tercet_store_commit_rows", "Rows of one group commit");
    describe_counter!("tercet_store_failures_total", "Commits of unknown result");
    describe_gauge!("tercet_disk_free_bytes", "Free bytes of the disk under the store");
    describe_gauge!("tercet_disk_full", "1 while new transactions are refused because that disk is full");
    describe_counter!("tercet_overloaded_total", "Requests refused for want of room, by what there was too much of");
    describe_counter!("tercet_abandoned_total", "Requests whose callers had given up before they were begun");
    describe_histogram!("tercet_scanner_lag_seconds", "From the moment a row was due to its attempt, by service");
    describe_gauge!("tercet_live_transactions", "Transactions in memory");
    describe_gauge!("tercet_sessions", "Sessions of participants, by service");
    describe_gauge!("tercet_queued_calls", "Calls that wait for a session to take them, by service");
    describe_gauge!("tercet_compensations_pending", "Rows of compensation_log that are tried again, by service");
    describe_gauge!("tercet_compensations_failed", "Rows of compensation_log that are parked, by service");
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

/// A commit's result is unknown.
pub fn store_failed() {
    counter!("tercet_store_failures_total").increment(1);
}

/// So much of the disk under the store is free.
pub fn disk_free(bytes: u64) {
    gauge!("tercet_disk_free_bytes").set(bytes as f64);
}

/// New transactions are refused for that, or are no longer.
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
        | Error::Stopping => return,
    };
    counter!("tercet_overloaded_total", "what" => what).increment(1);
}

/// The caller of a request had given up before it was begun.
pub fn abandoned() {
    counter!("tercet_abandoned_total").increment(1);
}

/// An attempt will be repeated.
pub fn retried(service: &str, operation: Operation) {
    let operation = names::operation_name(operation);
    counter!("tercet_retries_total", "service" => service.to_owned(), "operation" => operation).increment(1);
}

/// A branch goes on through `compensation_log`.
pub fn logged(service: &str, operation: Operation) {
    let operation = names::operation_name(operation);
    counter!("tercet_compensations_total", "service" => service.to_owned(), "operation" => operation).increment(1);
}

/// A branch waits for a person.
pub fn parked(service: &str, operation: Operation) {
    let operation = names::operation_name(operation);
    counter!("tercet_parked_total", "service" => service.to_owned(), "operation" => operation).increment(1);
}

/// The scanner feeds a row that was due at `due`.
pub fn scanned(service: &str, due: Timestamp, now: Timestamp) {
    histogram!("tercet_scanner_lag_seconds", "service" => service.to_owned()).record(seconds(now.ms_since(due)));
}

/// How many rows of `compensation_log` of a service wait, and how many are parked.
pub fn compensations(service: &str, pending: u64, failed: u64) {
    gauge!("tercet_compensations_pending", "service" => service.to_owned()).set(pending as f64);
    gauge!("tercet_compensations_failed", "service" => service.to_owned()).set(failed as f64);
}

/// How many transactions are in memory.
pub fn live(count: u64) {
    gauge!("tercet_live_transactions").set(count as f64);
}

/// The metrics of one service, looked up once.
#[derive(Debug)]
pub struct ServiceMetrics {
    sessions: Gauge,
    queued: Gauge,
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
            calls: histogram!("tercet_batch_calls", "service" => label()),
            seconds: histogram!("tercet_branch_call_seconds", "service" => label()),
            replies: replies.collect(),
        }
    }

    /// An instance has connected, or is gone.
    pub fn sessions(&self, count: usize) {
        self.sessions.set(count as f64);
    }

    /// A batch was sent; so many calls still wait.
    pub fn sent(&self, calls: usize, queued: usize) {
        self.calls.record(calls as f64);
        self.queued.set(queued as f64);
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
