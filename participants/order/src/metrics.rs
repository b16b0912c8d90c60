//! Every metric of the order service; labels are codes of the catalogue. Its calls are counted and timed by the SDK.

use metrics::counter;
use tercet_rules::Code;

/// Those that alerts and boards look at are there from the start: of a counter that begins with 1 nobody sees that it
/// rose.
pub(crate) fn ready() {
    let codes = [
        Code::NotFound,
        Code::OrderClosed,
        Code::OrderPaid,
        Code::OrderRefunded,
        Code::PaymentDiffers,
        Code::SystemBusy,
    ];
    for outcome in ["OK", "REPEATED"].into_iter().chain(codes.map(Code::name)) {
        counter!("tercet_order_payments_total", "outcome" => outcome).increment(0);
    }
    for outcome in ["done", "failed"] {
        counter!("tercet_order_job_rounds_total", "outcome" => outcome).increment(0);
    }
    for outcome in ["CLOSED", "NOT_FOUND", "NOT_REFUNDABLE", "STUCK", "SUBMITTED", "SYSTEM_BUSY"] {
        counter!("tercet_order_unpaid_total", "outcome" => outcome).increment(0);
    }
}

/// Payments by what they came to: `OK`, `REPEATED`, or the code of a fault.
pub(crate) fn paid(outcome: &'static str) {
    counter!("tercet_order_payments_total", "outcome" => outcome).increment(1);
}

/// A round of the job: `done` or `failed`. Not counted where another process has the job.
pub(crate) fn round(outcome: &'static str) {
    counter!("tercet_order_job_rounds_total", "outcome" => outcome).increment(1);
}

/// Orders that were not paid in time: `CLOSED`, `SUBMITTED` where their refund goes on, or why not: `NOT_REFUNDABLE`
/// where they were paid meanwhile, `STUCK` where they wait to be paid all the same, and another code of a fault.
pub(crate) fn unpaid(outcome: &'static str) {
    counter!("tercet_order_unpaid_total", "outcome" => outcome).increment(1);
}
