//! `tercet doctor`: named checks, and what to do where one fails.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tercet_core::Timestamp;
use tercet_proto::admin::v1 as pb;
use tercet_proto::admin::v1::admin_server::SERVICE_NAME;
use tercet_proto::admin::v1::service_health::State;
use tercet_secure::client::Credentials;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::{CONNECT_TIMEOUT, Client, endpoint, hung_up, request, root, shown, status_text, target};
use super::show::{Screen, count, paint, span, wrap};
use super::{Common, Error, offline};

/// The checks that ask the coordinator, each of which needs the one before but for what it found out.
const ONLINE: [&str; 13] = [
    "address",
    "connection",
    "health",
    "version",
    "clock",
    "room",
    "drain",
    "space",
    "reach",
    "participants",
    "retries",
    "parked",
    "conserved",
];

/// How far the clocks may be apart.
const CLOCK_DIFFERENCE_MS_MAX: u64 = 1_000;

/// Past this age of its last answer a service's books are as good as not audited.
const AUDIT_AGE_MS_MAX: u64 = 30_000;

/// Past this lag of its retries the alert TercetRetriesLate tells of a service too.
const OVERDUE_MS_MAX: u64 = 120_000;

/// What to check.
#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Check the folder of an embedded store on this machine too
    #[arg(long, value_name = "DIR", env = "TERCET_DATA", hide_env_values = true)]
    data: Option<PathBuf>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One check: what was found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub name: &'static str,
    pub outcome: Outcome,
    pub detail: String,
    pub remedy: Option<String>,
}

/// A check that found nothing wrong.
pub(super) fn passed(name: &'static str, detail: impl Into<String>) -> Check {
    Check { name, outcome: Outcome::Passed, detail: detail.into(), remedy: None }
}

/// A check that found something wrong, and what to do.
pub(super) fn failed(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { name, outcome: Outcome::Failed, detail: detail.into(), remedy: Some(remedy.into()) }
}

/// A check that could not be made, and why.
pub(super) fn skipped(name: &'static str, detail: impl Into<String>) -> Check {
    Check { name, outcome: Outcome::Skipped, detail: detail.into(), remedy: None }
}

/// All checks, for programs.
#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

/// Makes every check it can. The exit code is a failure when one failed.
pub(super) async fn run(options: &Options, common: &Common, screen: &mut Screen<'_>) -> Result<ExitCode, Error> {
    let mut checks = Vec::new();
    online(common, screen, &mut checks).await;
    // What could not be reached can not be asked.
    if let Some(last) = checks.last().map(|check| check.name) {
        let rest = ONLINE.iter().skip(checks.len());
        checks.extend(rest.map(|name| skipped(name, format!("needs {last}"))));
    }
    if let Some(folder) = &options.data {
        let connected = checks.iter().any(|check| check.name == "connection" && check.outcome == Outcome::Passed);
        checks.extend(offline::checks(folder, &common.admin, connected).await);
    }
    let ok = checks.iter().all(|check| check.outcome != Outcome::Failed);
    if screen.json {
        screen.document(&Report { ok, checks })?;
    } else {
        screen.text(&report(&checks, screen.color))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// For people.
fn report(checks: &[Check], color: bool) -> String {
    let mut lines = Vec::new();
    for Check { name, outcome, detail, remedy } in checks {
        let (outcome, gap) = (paint(outcome.name(), color), if *outcome == Outcome::Skipped { "" } else { " " });
        lines.push(format!("{outcome}{gap}  {name:<12}  {}", wrap(detail, 23)));
        lines.extend(remedy.iter().map(|remedy| format!("{:9}-> {}", "", wrap(remedy, 12))));
    }
    let of = |wanted| checks.iter().filter(|check| check.outcome == wanted).count();
    let (passed, failed, skipped) = (of(Outcome::Passed), of(Outcome::Failed), of(Outcome::Skipped));
    lines.push(format!("\n{passed} passed, {failed} failed, {skipped} skipped"));
    lines.join("\n")
}

/// Adds checks in the order of [`ONLINE`], up to the first after which the next can not be made.
async fn online(common: &Common, screen: &Screen<'_>, checks: &mut Vec<Check>) {
    let (endpoint, host, port) = match resolve(&common.admin).await {
        Ok((endpoint, addresses, host, port)) => {
            checks.push(passed("address", format!("{host}:{port} is {addresses}")));
            (endpoint, host, port)
        }
        Err(check) => return checks.push(check),
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => checks.push(passed("connection", "open")),
        refused => {
            let cause = refused.map_or_else(
                |_| "no answer".to_owned(),
                |error| error.map_or_else(|error| error.to_string(), |_| String::new()),
            );
            let remedy = "start a coordinator with `tercet serve`, or name its admin address with --admin";
            return checks.push(failed("connection", format!("{host}:{port}: {cause}"), remedy));
        }
    }
    let credentials = Credentials::load(&common.security);
    let target = credentials.map_err(Error::from).and_then(|own| Ok((target(&common.admin, &own)?, own)));
    let (target, credentials) = match target {
        Ok(target) => target,
        Err(error) => return checks.push(failed("health", error.to_string(), "see `tercet doctor --help`")),
    };
    let channel = match target.connect().await {
        Ok(channel) => channel,
        Err(error) => return checks.push(failed("health", root(&error), stranger(common))),
    };
    let asked = request(HealthCheckRequest { service: SERVICE_NAME.into() });
    let health = match HealthClient::new(channel.clone()).check(asked).await {
        Ok(response) => response.into_inner().status(),
        Err(status) => return checks.push(failed("health", status_text(&status), stranger(common))),
    };
    if health != ServingStatus::Serving {
        let detail = format!("the coordinator says {}", health.as_str_name());
        return checks.push(failed("health", detail, "it is starting, stopping, or executes nothing: look at its log"));
    }
    checks.push(passed("health", "speaks gRPC and is serving"));

    let mut client = Client::new(channel, credentials, shown(endpoint.uri()));
    let before = screen.now();
    let statistics = client.admin.get_statistics(request(pb::GetStatisticsRequest::default())).await;
    let after = screen.now();
    let statistics = match statistics {
        Ok(response) => response.into_inner(),
        Err(status) => return checks.push(failed("version", status_text(&status), unanswered(&status))),
    };
    checks.push(version(env!("CARGO_PKG_VERSION"), &statistics.version));
    checks.push(clock(before, after, statistics.now_ms));
    checks.extend([room(&statistics), drain(&statistics), space(&statistics), reach(&statistics)]);
    match work(&mut client).await {
        Ok((unfinished, services)) => {
            checks.push(participants(&unfinished, &services, after));
            checks.push(retries(&services));
            checks.push(parked(unfinished.parked));
            checks.push(conserved(&unfinished.invariants));
        }
        Err(status) => {
            let remedy = "look at the coordinator's log: its store may be unavailable";
            checks.push(failed("participants", status_text(&status), remedy));
        }
    }
}

/// What is unfinished, and how the services are that have to end it.
async fn work(client: &mut Client) -> Result<(pb::GetStatisticsResponse, Vec<pb::ServiceHealth>), tonic::Status> {
    let unfinished = client.admin.get_statistics(request(pb::GetStatisticsRequest { unfinished: true })).await?;
    let services = client.admin.list_participants(request(pb::ListParticipantsRequest {})).await?;
    Ok((unfinished.into_inner(), services.into_inner().services))
}

/// What to do where something listens that does not speak as a coordinator does.
fn stranger(common: &Common) -> String {
    let hint = hung_up(&common.admin, &common.security);
    format!("is this port a coordinator's? `tercet serve` listens for operators on 7069 unless told otherwise{hint}")
}

/// What to do where a coordinator does not say how it stands.
fn unanswered(status: &tonic::Status) -> &'static str {
    match status.code() {
        Code::Unauthenticated => "it asks for a token: name the file of one that it knows with --token-file",
        Code::PermissionDenied => {
            "its token is not an operator's: name the file of another with --token-file (`tercet token NAME --secret \
                FILE operator view` makes one)"
        }
        Code::Unimplemented => "use the `tercet` of the coordinator's version",
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => "look at the coordinator's log",
    }
}

async fn resolve(address: &str) -> Result<(tonic::transport::Endpoint, String, String, u16), Check> {
    let remedy = "name a coordinator's admin port such as http://127.0.0.1:7069 with --admin or TERCET_ADMIN";
    let endpoint = endpoint(address).map_err(|error| failed("address", error.to_string(), remedy))?;
    let host = endpoint.uri().host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = endpoint.uri().port_u16().unwrap_or_default();
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    let addresses = found.map_err(|error| {
        failed("address", format!("{host}: {error}"), "is the name right, and does this machine's DNS know it?")
    })?;
    let addresses: Vec<_> = addresses.map(|address| address.ip().to_string()).collect();
    Ok((endpoint, addresses.join(", "), host, port))
}

fn version(own: &str, coordinators: &str) -> Check {
    if own == coordinators {
        return passed("version", format!("both are {own}"));
    }
    let remedy = "use the `tercet` that belongs to the coordinator: with another, parts may not be understood";
    failed("version", format!("the coordinator is {coordinators}, this program {own}"), remedy)
}

/// The coordinator told its time somewhere between `before` and `after`.
fn clock(before: Timestamp, after: Timestamp, remote_ms: u64) -> Check {
    let behind = before.0.saturating_sub(remote_ms);
    let ahead = remote_ms.saturating_sub(after.0);
    let difference = behind.max(ahead);
    if difference < CLOCK_DIFFERENCE_MS_MAX {
        return passed("clock", format!("{difference}ms apart"));
    }
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let detail = format!("the coordinator is {} {direction} this machine", span(difference));
    failed("clock", detail, "let both machines take their time from NTP")
}

fn room(statistics: &pb::GetStatisticsResponse) -> Check {
    let detail = format!("{} of {} transactions in memory", statistics.live, statistics.live_max);
    if statistics.live < statistics.live_max {
        return passed("room", detail);
    }
    let remedy =
        "it refuses new ones until some end: see `tercet tx list --unfinished`, or raise --live-max of `serve`";
    failed("room", detail, remedy)
}

fn drain(statistics: &pb::GetStatisticsResponse) -> Check {
    if !statistics.draining {
        return passed("drain", "nobody drains it");
    }
    let detail = "somebody drains it: every new transaction is refused";
    failed("drain", detail, "`tercet audit list` says who and why; `tercet drain --undo` takes new ones again")
}

fn space(statistics: &pb::GetStatisticsResponse) -> Check {
    if !statistics.disk_full {
        return passed("space", "its store has room");
    }
    let detail = "the disk under its store is full: every new transaction is refused, what is under way ends";
    failed("space", detail, "make room on that disk; full is what leaves less free than its --disk-reserve-mib")
}

/// Whether calls get through at all.
fn reach(statistics: &pb::GetStatisticsResponse) -> Check {
    if statistics.silent_ms < crate::limits::UNREADY_MS {
        return passed("reach", "no session has to be waited for, or one of them answers");
    }
    let silent = span(statistics.silent_ms);
    let detail = format!("sessions are asked and none has answered for {silent}: initiators are told it is not ready");
    let remedy = "see `tercet participants`, and start those again that hang; when they are well, look at its log";
    failed("reach", detail, remedy)
}

/// Who is waited for and gone, and who is there and does not keep up. The transactions tell of the newest work, the
/// services of all that is queued or in the log.
fn participants(statistics: &pb::GetStatisticsResponse, services: &[pb::ServiceHealth], now: Timestamp) -> Check {
    let missing: Vec<_> = statistics.waiting.iter().filter(|waiting| !waiting.connected).collect();
    let named = missing.iter().map(|waiting| {
        let waits = count(waiting.transactions, "transaction waits", "transactions wait");
        let oldest = span(now.0.saturating_sub(waiting.oldest_ms));
        format!("{} is not connected ({waits}, the oldest {oldest})", waiting.service)
    });
    let troubled = services.iter().filter_map(|one| {
        let pb::ServiceHealth { service, queued, oldest_batch_ms, pending, .. } = one;
        let batch = span(*oldest_batch_ms);
        let calls = || count((*queued).into(), "call waits", "calls wait");
        match one.state() {
            State::Stuck => {
                let held = format!("{} for it, its oldest batch is without an answer for {batch}", calls());
                Some(format!("{service} is connected and stuck: {held}, and new transactions that name it are refused"))
            }
            State::Behind => {
                let held = format!("{} for too long", calls());
                Some(format!("{service} is behind: {held}, and new transactions that name it are refused"))
            }
            State::Absent if missing.iter().any(|waiting| waiting.service == *service) => None,
            State::Absent if *pending > 0 || *queued > 0 => {
                let rows = count(*pending, "row of compensation_log waits", "rows of compensation_log wait");
                Some(format!("{service} is not connected ({rows}, {} for it)", calls()))
            }
            State::Absent | State::Unspecified | State::Healthy | State::Slow => None,
        }
    });
    let wrong: Vec<_> = named.chain(troubled).collect();
    if !wrong.is_empty() {
        let remedy = "start an instance that is gone, start one again that hangs, or start more; its log and \
            `tercet participants` tell more";
        return failed("participants", wrong.join("; "), remedy);
    }
    if statistics.looked_at == 0 {
        return passed("participants", "nothing is unfinished");
    }
    let looked_at = count(statistics.looked_at, "unfinished transaction waits", "unfinished transactions wait");
    passed("participants", format!("all that {looked_at} for are connected and keep up"))
}

/// Whether the scanner keeps up.
fn retries(services: &[pb::ServiceHealth]) -> Check {
    let late = services.iter().filter(|one| one.overdue_ms > OVERDUE_MS_MAX);
    let late = late.map(|one| {
        let rows = count(one.pending, "row", "rows");
        format!("{} ({rows}, the first due for {})", one.service, span(one.overdue_ms))
    });
    let late: Vec<_> = late.collect();
    if late.is_empty() {
        return passed("retries", "none is late");
    }
    let remedy = "see `tercet participants` for whether it is connected and takes calls";
    failed("retries", format!("late: {}", late.join("; ")), remedy)
}

/// An auditor that is silent for long has found nothing wrong, and nothing right either.
fn conserved(invariants: &[pb::Invariant]) -> Check {
    let broken = invariants.iter().filter(|one| !one.holds).map(|one| {
        let first = one.broken.first().map_or_else(
            || "its sums differ".to_owned(),
            |first| format!("resource {}: {}", first.resource, first.text),
        );
        format!("{} of {}: {first}", one.invariant, one.service)
    });
    let silent = invariants.iter().filter(|one| one.holds && one.age_ms > AUDIT_AGE_MS_MAX);
    let silent =
        silent.map(|one| format!("{} of {}: not audited for {}", one.invariant, one.service, span(one.age_ms)));
    let wrong: Vec<_> = broken.chain(silent).collect();
    if wrong.is_empty() {
        return passed("conserved", count(invariants.len() as u64, "invariant holds", "invariants hold"));
    }
    let remedy = "see what the transaction did with `tercet tx get`, and mend the rows; or accept them: delete the \
        resource's row of tercet_book";
    failed("conserved", wrong.join("; "), remedy)
}

fn parked(number: u64) -> Check {
    if number == 0 {
        return passed("parked", "nothing waits for a person");
    }
    let more = if number >= u64::from(crate::limits::PAGE_MAX) { " or more" } else { "" };
    let detail = format!("{number}{more} waiting for a person");
    failed("parked", detail, "see them with `tercet compensation list --status failed`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_to_do_under_what_failed() {
        let checks = [
            passed("address", "a:1 is 1.2.3.4"),
            failed("connection", "refused\nby x", "start it"),
            skipped("health", "needs connection"),
        ];
        let expected = "\
passed   address       a:1 is 1.2.3.4
failed   connection    refused by x
         -> start it
skipped  health        needs connection

1 passed, 1 failed, 1 skipped";
        assert_eq!(report(&checks, false), expected);
        assert!(report(&checks, true).starts_with("\x1b[32mpassed\x1b[0m   address"));
    }

    #[test]
    fn a_difference_of_the_clocks_counts_beyond_the_time_of_the_call() {
        let check = |remote_ms| clock(Timestamp(10_000), Timestamp(10_400), remote_ms).detail;
        assert_eq!(check(10_200), "0ms apart");
        assert_eq!(check(11_399), "999ms apart");
        assert_eq!(check(11_400), "the coordinator is 1s ahead of this machine");
        assert_eq!(check(2_000), "the coordinator is 8s behind this machine");
    }

    #[test]
    fn versions_room_silence_and_parked_work_fail_at_their_limits() {
        let full = pb::GetStatisticsResponse { live: 5, live_max: 5, ..pb::GetStatisticsResponse::default() };
        assert_eq!(room(&full).outcome, Outcome::Failed);
        assert_eq!(room(&pb::GetStatisticsResponse { live: 4, ..full }).outcome, Outcome::Passed);
        assert_eq!(version("1.0.0", "1.0.0").outcome, Outcome::Passed);
        assert_eq!(version("1.0.0", "1.0.1").detail, "the coordinator is 1.0.1, this program 1.0.0");
        let silent = |silent_ms| reach(&pb::GetStatisticsResponse { silent_ms, ..Default::default() });
        assert_eq!(silent(1_999).outcome, Outcome::Passed);
        let told = "sessions are asked and none has answered for 2s: initiators are told it is not ready";
        assert_eq!(silent(2_000).detail, told);
        assert_eq!(parked(0).outcome, Outcome::Passed);
        assert_eq!(parked(3).detail, "3 waiting for a person");
        assert_eq!(parked(1_000).detail, "1000 or more waiting for a person");
    }

    #[test]
    fn services_that_are_waited_for_are_named() {
        let waiting = |service: &str, connected| pb::Waiting {
            service: service.into(),
            transactions: 2,
            oldest_ms: 5_000,
            connected,
        };
        let mut statistics = pb::GetStatisticsResponse {
            looked_at: 2,
            waiting: vec![waiting("coupon", false), waiting("stock", true)],
            ..pb::GetStatisticsResponse::default()
        };
        let check = |statistics: &_, services: &[_]| participants(statistics, services, Timestamp(9_000));
        let told = "coupon is not connected (2 transactions wait, the oldest 4s)";
        assert_eq!(check(&statistics, &[service("coupon", State::Absent)]).detail, told, "and once");
        statistics.waiting.remove(0);
        assert_eq!(check(&statistics, &[]).outcome, Outcome::Passed);
    }

    fn service(name: &str, state: State) -> pb::ServiceHealth {
        let (service, state) = (name.into(), state.into());
        pb::ServiceHealth { service, state, pending: 3, queued: 560, oldest_batch_ms: 4_000, ..Default::default() }
    }

    #[test]
    fn services_that_do_not_keep_up_or_are_gone_with_work_in_the_log_fail() {
        let check = |services: &[_]| participants(&pb::GetStatisticsResponse::default(), services, Timestamp(9_000));
        for well in [State::Healthy, State::Slow] {
            assert_eq!(check(&[service("stock", well)]).outcome, Outcome::Passed, "{well:?}");
        }
        let idle = pb::ServiceHealth { pending: 0, queued: 0, ..service("stock", State::Absent) };
        assert_eq!(check(&[idle]).outcome, Outcome::Passed, "nobody misses it");
        let wrong = [State::Stuck, State::Behind, State::Absent].map(|state| service("stock", state));
        let told = "stock is connected and stuck: 560 calls wait for it, its oldest batch is without an answer for 4s, \
            and new transactions that name it are refused; stock is behind: 560 calls wait for too long, and new \
            transactions that name it are refused; stock is not connected (3 rows of compensation_log wait, 560 calls \
            wait for it)";
        assert_eq!(check(&wrong).detail, told);
    }

    #[test]
    fn retries_that_are_late_fail() {
        let late = |overdue_ms| retries(&[pb::ServiceHealth { overdue_ms, ..service("stock", State::Healthy) }]);
        assert_eq!(late(120_000).outcome, Outcome::Passed);
        assert_eq!(late(180_000).detail, "late: stock (3 rows, the first due for 3m)");
    }

    #[test]
    fn what_is_broken_or_was_not_audited_for_long_fails() {
        let units = |holds, age_ms| pb::Invariant {
            service: "stock".into(),
            invariant: "units".into(),
            holds,
            age_ms,
            ..Default::default()
        };
        assert_eq!(conserved(&[units(true, 30_000)]).detail, "1 invariant holds");
        assert_eq!(conserved(&[units(true, 31_000)]).detail, "units of stock: not audited for 31s");
        let resource = pb::Broken { resource: 7, text: "changed by hand".into(), ..Default::default() };
        let broken = pb::Invariant { broken: vec![resource], ..units(false, 0) };
        let check = conserved(&[broken, units(false, 0)]);
        assert_eq!(check.detail, "units of stock: resource 7: changed by hand; units of stock: its sums differ");
        assert_eq!(check.outcome, Outcome::Failed);
    }
}
