//! Every metric of the SDK. Labels come from enums and from the service's own registration.

use std::time::Duration;

use metrics::{counter, histogram};
use tercet_proto::participant::v1::{Reply, reply::Answer};

use crate::fence::Operation;

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
