//! Every metric of the services that issue and redeem coupons; labels are codes of the catalogue and places of
//! databases. Their calls are counted and timed by the SDK.

use metrics::{counter, gauge};
use tercet_rules::{Code, Fault};

/// Claims by what they came to: `OK`, `REPEATED`, or the code of a fault.
pub(crate) fn claimed(result: Result<bool, &Fault>) {
    let outcome = match result {
        Ok(true) => "OK",
        Ok(false) => "REPEATED",
        Err(fault) => fault.code.name(),
    };
    counter!("tercet_issuing_claims_total", "outcome" => outcome).increment(1);
}

/// Those that alerts look at are there from the start, of the issuing service: of a counter that begins with 1 nobody
/// sees that it rose.
pub(crate) fn issuing_ready() {
    for state in ["done", "stopped", "ended"] {
        counter!("tercet_issuing_batches_total", "state" => state).increment(0);
    }
    for outcome in ["done", "failed"] {
        counter!("tercet_issuing_job_rounds_total", "outcome" => outcome).increment(0);
    }
    for code in [Code::SystemBusy, Code::Timeout, Code::Internal] {
        counter!("tercet_issuing_claims_total", "outcome" => code.name()).increment(0);
    }
    for outcome in ["done", "later"] {
        counter!("tercet_issuing_occasion_runs_total", "outcome" => outcome).increment(0);
    }
    for code in [Code::SoldOut, Code::NotOffered, Code::Paused, Code::NotStarted, Code::Over, Code::NotFound] {
        counter!("tercet_issuing_occasion_users_total", "outcome" => code.name()).increment(0);
    }
    issued(0);
    expired(0);
    counter!("tercet_issuing_voided_coupons_total").increment(0);
}

/// The same, of the redemption service.
pub(crate) fn redemption_ready() {
    counter!("tercet_redemption_kept_total").increment(0);
    for why in [GivenUp::Late, GivenUp::Refused] {
        counter!("tercet_redemption_given_up_total", "why" => why.name()).increment(0);
    }
}

/// A try to give to users of an occasion: `done`, `later` where its outcome is not known, or the code of a refusal.
pub(crate) fn occasion(outcome: &'static str, users: i64) {
    counter!("tercet_issuing_occasion_runs_total", "outcome" => outcome).increment(1);
    counter!("tercet_issuing_occasion_users_total", "outcome" => outcome).increment(users.unsigned_abs());
}

/// Coupons that batches issued.
pub(crate) fn issued(coupons: usize) {
    counter!("tercet_issuing_batch_coupons_total").increment(coupons as u64);
}

/// A batch has come to its end, can not go on, or was ended by an operator: `done`, `stopped` or `ended`.
pub(crate) fn batch(state: &'static str) {
    counter!("tercet_issuing_batches_total", "state" => state).increment(1);
}

/// Batches that run, and those that can not go on: every process tells the same.
pub(crate) fn batches(running: i64, stopped: i64) {
    gauge!("tercet_issuing_batches", "state" => "running").set(running as f64);
    gauge!("tercet_issuing_batches", "state" => "stopped").set(stopped as f64);
}

/// A round of the scheduled jobs: `done` or `failed`. Not counted where another process has the jobs.
pub(crate) fn jobs(outcome: &'static str) {
    counter!("tercet_issuing_job_rounds_total", "outcome" => outcome).increment(1);
}

/// Coupons whose time ended before they were used.
pub(crate) fn expired(coupons: usize) {
    counter!("tercet_issuing_expired_coupons_total").increment(coupons as u64);
}

/// A coupon that an operator took from its user.
pub(crate) fn voided() {
    counter!("tercet_issuing_voided_coupons_total").increment(1);
}

/// Templates whose unclaimed stock was returned.
pub(crate) fn stock_returned() {
    counter!("tercet_issuing_returned_templates_total").increment(1);
}

/// Redemptions that were kept, since no coordinator was in reach.
pub(crate) fn kept() {
    counter!("tercet_redemption_kept_total").increment(1);
}

/// Redemptions that wait to be submitted, by the place of their database: at most 128.
pub(crate) fn waiting(database: usize, redemptions: i64) {
    gauge!("tercet_redemption_waiting", "database" => database.to_string()).set(redemptions as f64);
}

/// Users of occasions that were stopped so long ago that they were deleted.
pub(crate) fn old_users(users: u64) {
    counter!("tercet_issuing_purged_users_total").increment(users);
}

/// Redemptions that ended so long ago that they were deleted.
pub(crate) fn purged(redemptions: u64) {
    counter!("tercet_redemption_purged_total").increment(redemptions);
}

/// For how long the oldest of those has waited that the job has to submit.
pub(crate) fn oldest(database: usize, age_ms: i64) {
    gauge!("tercet_redemption_oldest_seconds", "database" => database.to_string()).set(age_ms as f64 / 1_000.0);
}

/// A redemption that was kept came to nothing: it took too long, or was refused when its turn came.
pub(crate) fn given_up(why: GivenUp) {
    counter!("tercet_redemption_given_up_total", "why" => why.name()).increment(1);
}

/// Why a user does not get what he was promised.
#[derive(Clone, Copy)]
pub(crate) enum GivenUp {
    Late,
    Refused,
}

impl GivenUp {
    const fn name(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Refused => "refused",
        }
    }
}
