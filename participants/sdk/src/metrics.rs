//! Every metric of the SDK. Labels come from enums and from the service's own registration.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};
use tercet_proto::participant::v1::{Reply, reply::Answer};
use tonic::Code;

use crate::fence::Operation;

/// gRPC's names of its status codes, in their order.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Calls of one method of a service: its series are there from their first use on.
pub(crate) struct OfMethod {
    service: &'static str,
    method: String,
    seconds: OnceLock<Histogram>,
    codes: [OnceLock<Counter>; CODES.len()],
}

impl OfMethod {
    pub(crate) fn new(service: &'static str, method: String) -> Self {
        Self { service, method, seconds: OnceLock::new(), codes: [const { OnceLock::new() }; CODES.len()] }
    }

    /// A call has ended, so long after its request was there.
    pub(crate) fn answered(&self, code: Code, took: Duration) {
        let (service, method) = (self.service, &self.method);
        let seconds = || histogram!("tercet_grpc_request_seconds", "service" => service, "method" => method.clone());
        self.seconds.get_or_init(seconds).record(took.as_secs_f64());
        let code = code as usize;
        let calls = || {
            let code = CODES[code];
            counter!("tercet_grpc_requests_total", "service" => service, "method" => method.clone(), "code" => code)
        };
        self.codes[code].get_or_init(calls).increment(1);
    }
}

/// The reply as a label.
pub(crate) const fn name(reply: &Reply) -> &'static str {
    match reply.answer {
        Some(Answer::Done(_)) => "done",
        Some(Answer::Refused(_)) => "refused",
        Some(Answer::NotNowMs(_)) => "not_now",
        Some(Answer::Unknown(_)) | None => "unknown",
    }
}

/// Operations run, by action, operation and [`name`] of the reply: at most 12 series an action, 4 for a sender.
pub(crate) fn operations_ran(
    service: &'static str,
    action: &'static str,
    operation: Operation,
    reply: &'static str,
    count: u64,
) {
    counter!(
        "tercet_participant_operations_total",
        "service" => service, "action" => action, "operation" => operation.name(), "reply" => reply
    )
    .increment(count);
}

/// The calls of a batch.
pub(crate) fn batch_ran(service: &'static str, rows: usize) {
    histogram!("tercet_participant_batch_rows", "service" => service).record(rows as f64);
}

/// The COMMIT of a batch.
pub(crate) fn committed(service: &'static str, took: Duration) {
    histogram!("tercet_participant_commit_seconds", "service" => service).record(took.as_secs_f64());
}

/// A local transaction that lost against another and is run again.
pub(crate) fn fence_retried(service: &'static str) {
    counter!("tercet_fence_retries_total", "service" => service).increment(1);
}
