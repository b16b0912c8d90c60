//! `tercet stats`, `tercet top` and `tercet limits`: the coordinator as a whole.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tercet_proto::admin::v1 as pb;
use tercet_proto::admin::v1::service_health::State;
use tokio::sync::oneshot;

use super::Error;
use super::change::{Difference, Why, lines};
use super::client::{Client, request};
use super::show::{Screen, count, iso, short, span, table};
use crate::limits::UNREADY_MS;

/// How often `top` and `drain --wait` look.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// What has a terminal begin at its top again.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Numbers of a coordinator, for programs.
#[derive(Serialize)]
struct Statistics {
    version: String,
    now: String,
    started_at: String,
    epoch: u64,
    draining: bool,
    disk_full: bool,
    live: u64,
    live_max: u64,
    ended: u64,
    store_commits: u64,
    store_rows: u64,
    batches: u64,
    calls: u64,
    compensations_pending: u64,
    compensations_failed: u64,
    idle_ms: u64,
    silent_ms: u64,
    invariants: Vec<Invariant>,
    services: Vec<Service>,
}

/// What a service promises to conserve in one of its databases.
#[derive(Serialize)]
struct Invariant {
    service: String,
    invariant: String,
    place: u32,
    holds: bool,
    age_ms: u64,
    resources: u64,
    operations: u64,
    broken: Vec<String>,
}

impl From<&pb::Invariant> for Invariant {
    fn from(one: &pb::Invariant) -> Self {
        Self {
            service: one.service.clone(),
            invariant: one.invariant.clone(),
            place: one.place,
            holds: one.holds,
            age_ms: one.age_ms,
            resources: one.resources,
            operations: one.watermark,
            broken: one.broken.iter().map(|broken| format!("resource {}: {}", broken.resource, broken.text)).collect(),
        }
    }
}

#[derive(Serialize)]
struct Service {
    service: String,
    state: &'static str,
    instances: usize,
    queued: u32,
    oldest_batch_ms: u64,
    done: u64,
    refused: u64,
    not_now: u64,
    unknown: u64,
    pending: u64,
    parked: u64,
}

/// How a service is doing, in a word.
pub(super) fn state(service: &pb::ServiceHealth) -> &'static str {
    match service.state() {
        State::Unspecified => "unknown",
        State::Healthy => "healthy",
        State::Slow => "slow",
        State::Behind => "behind",
        State::Stuck => "stuck",
        State::Absent => "absent",
    }
}

/// Both answers that the numbers stand in.
pub(super) struct Seen {
    pub statistics: pb::GetStatisticsResponse,
    pub services: Vec<pb::ServiceHealth>,
}

pub(super) async fn look(client: &mut Client) -> Result<Seen, Error> {
    let statistics = client.admin.get_statistics(request(pb::GetStatisticsRequest::default())).await;
    let statistics = statistics.map_err(|status| client.blame("like that", &status))?.into_inner();
    let services = client.admin.list_participants(request(pb::ListParticipantsRequest {})).await;
    let services = services.map_err(|status| client.blame("like that", &status))?.into_inner().services;
    Ok(Seen { statistics, services })
}

impl From<&Seen> for Statistics {
    fn from(Seen { statistics, services }: &Seen) -> Self {
        let services = services.iter().map(|one| Service {
            service: one.service.clone(),
            state: state(one),
            instances: one.instances.len(),
            queued: one.queued,
            oldest_batch_ms: one.oldest_batch_ms,
            done: one.done,
            refused: one.refused,
            not_now: one.not_now,
            unknown: one.unknown,
            pending: one.pending,
            parked: one.parked,
        });
        Self {
            version: statistics.version.clone(),
            now: iso(statistics.now_ms),
            started_at: iso(statistics.started_at_ms),
            epoch: statistics.epoch,
            draining: statistics.draining,
            disk_full: statistics.disk_full,
            live: statistics.live,
            live_max: statistics.live_max,
            ended: statistics.ended,
            store_commits: statistics.store_commits,
            store_rows: statistics.store_rows,
            batches: statistics.batches,
            calls: statistics.calls,
            compensations_pending: statistics.compensations_pending,
            compensations_failed: statistics.compensations_failed,
            idle_ms: statistics.idle_ms,
            silent_ms: statistics.silent_ms,
            invariants: statistics.invariants.iter().map(Invariant::from).collect(),
            services: services.collect(),
        }
    }
}

pub(super) async fn stats(mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let seen = look(&mut client).await?;
    if screen.json {
        return screen.document(&Statistics::from(&seen));
    }
    let text = overview(&seen, None, screen.color);
    screen.text(&text)
}

/// What `top` can be told.
#[derive(Args, Clone, Debug)]
pub(super) struct Top {
    /// Look once more after a second, and end
    #[arg(long)]
    once: bool,
}

/// Shows the numbers again and again, with what passed in between, until Ctrl-C or q and Enter.
pub(super) async fn top(options: Top, mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let mut before = look(&mut client).await?;
    let (quit, mut quits) = oneshot::channel::<()>();
    if !options.once {
        std::thread::spawn(move || {
            let quits = |line: std::io::Result<String>| line.is_ok_and(|line| line.trim() == "q");
            // Without a keyboard only Ctrl-C ends it.
            if std::io::stdin().lines().any(quits) {
                // Ctrl-C may have been quicker.
                quit.send(()).ok();
            } else {
                std::mem::forget(quit);
            }
        });
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = &mut quits, if !options.once => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        let seen = match look(&mut client).await {
            Ok(seen) => seen,
            // It may be started again meanwhile: the connection is made again by the next look.
            Err(error @ (Error::Unreachable { .. } | Error::Failed { .. })) if !options.once => {
                lost(&error, screen)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        if screen.json {
            screen.line(&Statistics::from(&seen))?;
        } else {
            let clear = if options.once { "" } else { CLEAR };
            let text = overview(&seen, Some(&before), screen.color);
            screen.text(&format!("{clear}{text}"))?;
        }
        if options.once {
            return Ok(());
        }
        before = seen;
    }
}

/// Says that nothing can be seen, and that one goes on looking. Programs read documents only.
fn lost(error: &Error, screen: &mut Screen<'_>) -> Result<(), Error> {
    if screen.json {
        eprintln!("tercet: {error}; looking again every second");
        return Ok(());
    }
    screen.text(&format!("{CLEAR}{error}\nlooking again every second"))
}

/// For people. With what was seen before, also how fast things go.
fn overview(seen: &Seen, before: Option<&Seen>, color: bool) -> String {
    let now = &seen.statistics;
    let passed_ms = before.map_or(0, |before| now.now_ms.saturating_sub(before.statistics.now_ms)).max(1);
    let rate = |of: fn(&pb::GetStatisticsResponse) -> u64| {
        let per_second = |before: &Seen| of(now).saturating_sub(of(&before.statistics)) * 1_000 / passed_ms;
        before.map_or_else(String::new, |before| format!(" ({}/s)", per_second(before)))
    };
    let per = |whole: u64, parts: u64| whole as f64 / parts.max(1) as f64;
    let up = span(now.now_ms.saturating_sub(now.started_at_ms));
    let mut lines = vec![format!("coordinator {}, up {up}, start {}", now.version, now.epoch)];
    if now.draining {
        lines.push("  DRAINING   nothing new is taken, see `tercet audit list`".into());
    }
    if now.disk_full {
        lines.push("  DISK FULL  nothing new is taken, see `tercet doctor`".into());
    }
    if now.idle_ms >= UNREADY_MS {
        lines.push(format!("  NOT READY  nothing has ended for {}, not even a canary", span(now.idle_ms)));
    }
    if now.silent_ms >= UNREADY_MS {
        lines.push(format!("  NOT READY  no session has answered for {}, see `tercet doctor`", span(now.silent_ms)));
    }
    lines.push(format!("  in memory  {} of {}", now.live, now.live_max));
    lines.push(format!("  ended      {}{}", now.ended, rate(|one| one.ended)));
    let rows = per(now.store_rows, now.store_commits);
    lines.push(format!("  commits    {}{}, {rows:.1} rows each", now.store_commits, rate(|one| one.store_commits)));
    lines.push(format!(
        "  calls      {}{}, {:.1} a batch",
        now.calls,
        rate(|one| one.calls),
        per(now.calls, now.batches)
    ));
    let (pending, failed) = (now.compensations_pending, now.compensations_failed);
    lines.push(format!("  log        {pending} retried, {failed} waiting for a person"));
    lines.extend(now.invariants.iter().map(conserved));
    lines.push(String::new());
    lines.push(services(&seen.services, color));
    lines.join("\n")
}

/// What is promised, and whether it holds; `doctor` tells who broke it.
fn conserved(one: &pb::Invariant) -> String {
    let pb::Invariant { service, invariant, resources, watermark, .. } = one;
    let broken = count(one.broken.len().max(1) as u64, "resource is", "resources are");
    let holds = if one.holds { "holds".to_owned() } else { format!("BROKEN: {broken} wrong, see `tercet doctor`") };
    let age = span(one.age_ms);
    format!("  conserved  {invariant} of {service}, {resources} resources, {watermark} operations, {age} ago: {holds}")
}

const HEADER: [&str; 12] = [
    "SERVICE",
    "STATE",
    "INST",
    "QUEUED",
    "IN FLIGHT",
    "OLDEST",
    "DONE",
    "REFUSED",
    "NOT NOW",
    "UNKNOWN",
    "PENDING",
    "PARKED",
];

/// Services with their health, for people.
fn services(services: &[pb::ServiceHealth], color: bool) -> String {
    if services.is_empty() {
        return "No service has connected yet".into();
    }
    let rows = services.iter().map(|one| {
        let in_flight: u32 = one.instances.iter().map(|instance| instance.in_flight).sum();
        vec![
            short(&one.service, 24),
            state(one).to_owned(),
            one.instances.len().to_string(),
            one.queued.to_string(),
            in_flight.to_string(),
            span(one.oldest_batch_ms),
            one.done.to_string(),
            one.refused.to_string(),
            one.not_now.to_string(),
            one.unknown.to_string(),
            one.pending.to_string(),
            one.parked.to_string(),
        ]
    });
    table(&HEADER, rows.collect(), Some(1), color)
}

/// A change of a setting, for programs.
#[derive(Serialize)]
struct Moved {
    dry_run: bool,
    difference: Difference,
}

/// What to do with limits.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Limits {
    /// List those that can be moved while the coordinator runs
    List,
    /// Move one, until the coordinator is started again
    Set {
        /// Its name
        name: String,
        /// Its new value
        value: u64,
        #[command(flatten)]
        why: Why,
    },
}

/// A limit, for programs.
#[derive(Serialize)]
struct Limit {
    name: String,
    value: u64,
    configured: u64,
    least: u64,
    most: u64,
    text: String,
}

pub(super) async fn limits(command: Limits, mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    match command {
        Limits::Set { name, value, why } => {
            let asked = client.named(pb::SetLimitRequest { name, value, change: why.change() })?;
            let set = client.admin.set_limit(asked).await.map_err(|status| client.blame("like that", &status))?;
            let difference = set.into_inner().difference.unwrap_or_default();
            if screen.json {
                return screen.document(&Moved { dry_run: why.is_dry_run(), difference: (&difference).into() });
            }
            screen.text(&format!("{}\n{}", why.title(), lines(&difference, screen.now())))
        }
        Limits::List => {
            let listed = client.admin.list_limits(request(pb::ListLimitsRequest {})).await;
            let listed = listed.map_err(|status| client.blame("like that", &status))?.into_inner().limits;
            if screen.json {
                let limits: Vec<Limit> = listed.into_iter().map(shown).collect();
                return screen.document(&limits);
            }
            let rows = listed.iter().map(|one| {
                let range = format!("{} to {}", one.least, one.most);
                vec![one.name.clone(), one.value.to_string(), one.configured.to_string(), range, one.text.clone()]
            });
            let header = ["LIMIT", "VALUE", "CONFIGURED", "RANGE", "WHAT"];
            screen.text(&table(&header, rows.collect(), None, false))
        }
    }
}

fn shown(limit: pb::Limit) -> Limit {
    let pb::Limit { name, value, least, most, configured, text } = limit;
    Limit { name, value, configured, least, most, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let statistics = pb::GetStatisticsResponse {
            now_ms: 7_000,
            epoch: 3,
            draining: true,
            disk_full: true,
            live: 4,
            live_max: 5,
            ended: 60,
            store_commits: 7,
            store_rows: 14,
            batches: 9,
            calls: 12,
            compensations_pending: 15,
            compensations_failed: 10,
            idle_ms: 11,
            ..pb::GetStatisticsResponse::default()
        };
        let stock = pb::ServiceHealth {
            service: "stock".into(),
            state: State::Slow.into(),
            queued: 21,
            oldest_batch_ms: 22,
            done: 23,
            refused: 24,
            not_now: 25,
            unknown: 26,
            pending: 27,
            parked: 28,
            ..pb::ServiceHealth::default()
        };
        Seen { statistics, services: vec![stock] }
    }

    #[test]
    fn programs_find_each_number_under_its_name() {
        let told = serde_json::to_value(Statistics::from(&seen())).expect("it is JSON");
        assert_eq!((&told["draining"], &told["disk_full"]), (&true.into(), &true.into()));
        let all = ["epoch", "live", "live_max", "ended", "store_commits", "store_rows", "batches", "calls"];
        assert_eq!(all.map(|name| told[name].as_u64()), [3, 4, 5, 60, 7, 14, 9, 12].map(Some));
        let all = ["compensations_pending", "compensations_failed", "idle_ms"];
        assert_eq!(all.map(|name| told[name].as_u64()), [15, 10, 11].map(Some));
        let stock = &told["services"][0];
        assert_eq!((&stock["service"], &stock["state"]), (&"stock".into(), &"slow".into()));
        let all = ["queued", "oldest_batch_ms", "done", "refused", "not_now", "unknown", "pending", "parked"];
        assert_eq!(all.map(|name| stock[name].as_u64()), [21, 22, 23, 24, 25, 26, 27, 28].map(Some));
    }

    #[test]
    fn what_passed_between_two_looks_is_told_by_the_second() {
        let (before, mut now) = (seen(), seen());
        let moved = &mut now.statistics;
        moved.now_ms += 2_000;
        (moved.ended, moved.store_commits, moved.calls) = (70, 11, 18);
        let text = overview(&now, Some(&before), false);
        let told = "
  ended      70 (5/s)
  commits    11 (2/s), 1.3 rows each
  calls      18 (3/s), 2.0 a batch
  log        15 retried, 10 waiting for a person
";
        assert!(text.contains(told), "{text}");
    }

    #[test]
    fn it_stands_out_for_which_reason_the_coordinator_is_not_ready() {
        let told = |idle_ms, silent_ms| {
            let statistics = pb::GetStatisticsResponse { idle_ms, silent_ms, ..pb::GetStatisticsResponse::default() };
            overview(&Seen { statistics, services: Vec::new() }, None, false)
        };
        assert!(!told(1_900, 1_900).contains("NOT READY"));
        assert!(told(3_000, 0).contains("NOT READY  nothing has ended for 3s, not even a canary\n"));
        assert!(told(0, 4_000).contains("NOT READY  no session has answered for 4s, see `tercet doctor`\n"));
    }

    #[test]
    fn what_is_promised_and_broken_stands_out() {
        let mut units = pb::Invariant {
            service: "stock".into(),
            invariant: "units".into(),
            resources: 3,
            watermark: 70,
            age_ms: 900,
            holds: true,
            ..pb::Invariant::default()
        };
        assert_eq!(conserved(&units), "  conserved  units of stock, 3 resources, 70 operations, 900ms ago: holds");
        units.holds = false;
        units.broken = vec![pb::Broken { resource: 7, text: "changed".into(), ..pb::Broken::default() }; 2];
        assert!(conserved(&units).ends_with("BROKEN: 2 resources are wrong, see `tercet doctor`"));
        assert_eq!(Invariant::from(&units).broken[1], "resource 7: changed");
    }
}
