//! Every metric of the services that issue coupons; labels are codes of the catalogue.

use std::time::Duration;

use metrics::{counter, histogram};
use tercet_rules::Fault;

/// Claims by what they came to: `OK`, `REPEATED`, or the code of a fault.
pub(crate) fn claimed(result: Result<bool, &Fault>, took: Duration) {
    let outcome = match result {
        Ok(true) => "OK",
        Ok(false) => "REPEATED",
        Err(fault) => fault.code.name(),
    };
    counter!("tercet_issuing_claims_total", "outcome" => outcome).increment(1);
    histogram!("tercet_issuing_claim_seconds", "outcome" => outcome).record(took.as_secs_f64());
}

/// Coupons that batches issued.
pub(crate) fn issued(coupons: usize) {
    counter!("tercet_issuing_batch_coupons_total").increment(coupons as u64);
}

/// Coupons whose time ended before they were used.
pub(crate) fn expired(coupons: usize) {
    counter!("tercet_issuing_expired_coupons_total").increment(coupons as u64);
}

/// Templates whose unclaimed stock was returned.
pub(crate) fn stock_returned() {
    counter!("tercet_issuing_returned_templates_total").increment(1);
}
