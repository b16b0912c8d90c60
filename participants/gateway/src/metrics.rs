//! Every metric of the gateway. Labels are names of routes, methods, classes of statuses and codes, all from tables.

use std::time::Duration;

use axum::http::StatusCode;
use metrics::{Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tercet_rules::Code;

const SECONDS: &str = "tercet_gateway_request_seconds";
const ERRORS: &str = "tercet_gateway_errors_total";
const IN_FLIGHT: &str = "tercet_gateway_requests_in_flight";
const CONNECTIONS: &str = "tercet_gateway_connections";
const STALE: &str = "tercet_gateway_list_stale";

/// Says what each is.
pub(crate) fn describe() {
    describe_histogram!(SECONDS, "Seconds from a request's head to its answer, by route, method and class of status");
    describe_counter!(ERRORS, "Answers that are errors, by route and code");
    describe_gauge!(IN_FLIGHT, "Requests that are being answered");
    describe_gauge!(CONNECTIONS, "Open connections");
    describe_gauge!(
        STALE,
        "1 while the keys or the list of revoked tokens can not be read or used, and the old are in force"
    );
}

/// Those of one route.
pub(crate) struct OfRoute {
    name: &'static str,
    /// By the first digit of the status, from 2 on.
    seconds: [Histogram; 4],
}

impl OfRoute {
    pub(crate) fn new(name: &'static str, method: &'static str) -> Self {
        let class = |class: &'static str| histogram!(SECONDS, "route" => name, "method" => method, "status" => class);
        Self { name, seconds: ["2xx", "3xx", "4xx", "5xx"].map(class) }
    }

    /// The route's.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// A request was answered.
    pub(crate) fn answered(&self, status: StatusCode, took: Duration) {
        let class = (usize::from(status.as_u16()) / 100).clamp(2, 5) - 2;
        self.seconds[class].record(took);
    }

    /// The answer is an error.
    pub(crate) fn failed(&self, code: Code) {
        counter!(ERRORS, "route" => self.name, "code" => code.name()).increment(1);
    }
}

/// Requests that are being answered.
pub(crate) fn in_flight() -> Gauge {
    gauge!(IN_FLIGHT)
}

/// Whether what tokens are checked with can not be read or used: `keys` or `revoked`.
pub(crate) fn stale(list: &'static str) -> Gauge {
    gauge!(STALE, "list" => list)
}

/// Open connections.
pub(crate) fn connections() -> Gauge {
    gauge!(CONNECTIONS)
}
