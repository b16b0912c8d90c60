//! `tercet participants`.

use serde::Serialize;
use tercet_core::Timestamp;
use tercet_proto::admin::v1 as pb;

use super::Error;
use super::client::{Client, request};
use super::show::{Screen, iso_or_none, short, span, table};
use super::stats::state;

/// Every service, for programs.
#[derive(Serialize)]
struct Participants {
    services: Vec<Service>,
}

#[derive(Serialize)]
struct Service {
    service: String,
    state: &'static str,
    queued: u32,
    in_flight: u32,
    oldest_batch_ms: u64,
    done: u64,
    refused: u64,
    not_now: u64,
    unknown: u64,
    pending: u64,
    parked: u64,
    oldest_pending_ms: u64,
    overdue_ms: u64,
    last_error: String,
    last_error_at: Option<String>,
    instances: Vec<Instance>,
}

#[derive(Serialize)]
struct Instance {
    instance: String,
    version: String,
    in_flight: u32,
    canary_age_ms: u64,
}

impl From<pb::ServiceHealth> for Service {
    fn from(health: pb::ServiceHealth) -> Self {
        let state = state(&health);
        let instances = health.instances.into_iter().map(|one| Instance {
            instance: one.instance,
            version: one.version,
            in_flight: one.in_flight,
            canary_age_ms: one.canary_age_ms,
        });
        Self {
            service: health.service,
            state,
            queued: health.queued,
            in_flight: health.in_flight,
            oldest_batch_ms: health.oldest_batch_ms,
            done: health.done,
            refused: health.refused,
            not_now: health.not_now,
            unknown: health.unknown,
            pending: health.pending,
            parked: health.parked,
            oldest_pending_ms: health.oldest_pending_ms,
            overdue_ms: health.overdue_ms,
            last_error: health.last_error,
            last_error_at: iso_or_none(health.last_error_at_ms),
            instances: instances.collect(),
        }
    }
}

/// Does it.
pub(super) async fn run(mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let listed = client.admin.list_participants(request(pb::ListParticipantsRequest {})).await;
    let services = listed.map_err(|status| client.blame("like that", &status))?.into_inner().services;
    if screen.json {
        return screen.document(&Participants { services: services.into_iter().map(Service::from).collect() });
    }
    let text = listing(&services, screen.now(), screen.color);
    screen.text(&text)
}

/// Services, then their instances, then what went wrong with them.
fn listing(services: &[pb::ServiceHealth], now: Timestamp, color: bool) -> String {
    if services.is_empty() {
        return "No service is connected: start one with the coordinator's address as its --coordinator".to_owned();
    }
    let age = |ms: u64| if ms == 0 { "-".to_owned() } else { span(ms) };
    let rows = services.iter().map(|one| {
        vec![
            short(&one.service, 24),
            state(one).to_owned(),
            one.instances.len().to_string(),
            one.queued.to_string(),
            one.in_flight.to_string(),
            one.pending.to_string(),
            one.parked.to_string(),
            age(one.oldest_pending_ms),
            age(one.overdue_ms),
        ]
    });
    let header = ["SERVICE", "STATE", "SESSIONS", "QUEUED", "IN FLIGHT", "PENDING", "PARKED", "OLDEST", "LAG"];
    let mut parts = vec![table(&header, rows.collect(), Some(1), color)];
    let instances = services.iter().flat_map(|one| &one.instances).map(|one| {
        let (service, instance) = (short(&one.service, 24), short(&one.instance, 32));
        vec![service, instance, short(&one.version, 12), one.in_flight.to_string(), span(one.canary_age_ms)]
    });
    let instances: Vec<_> = instances.collect();
    if !instances.is_empty() {
        parts.push(table(&["SERVICE", "INSTANCE", "VERSION", "IN FLIGHT", "CANARY"], instances, None, false));
    }
    let failed = services.iter().filter(|one| !one.last_error.is_empty()).map(|one| {
        let ago = span(now.0.saturating_sub(one.last_error_at_ms));
        vec![short(&one.service, 24), format!("{ago} ago"), short(&one.last_error, 160)]
    });
    let failed: Vec<_> = failed.collect();
    if !failed.is_empty() {
        parts.push(table(&["SERVICE", "WHEN", "LAST ERROR"], failed, None, false));
    }
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_how_each_service_is_doing_and_what_went_wrong() {
        let instance = pb::Participant {
            service: "stock".into(),
            instance: "host-1:77".into(),
            version: "0.1.0".into(),
            queued: 120,
            in_flight: 9,
            canary_age_ms: 700,
        };
        let stock = pb::ServiceHealth {
            service: "stock".into(),
            state: pb::service_health::State::Stuck.into(),
            queued: 120,
            in_flight: 9,
            instances: vec![instance],
            ..pb::ServiceHealth::default()
        };
        let coupon = pb::ServiceHealth {
            service: "coupon".into(),
            state: pb::service_health::State::Absent.into(),
            pending: 7,
            parked: 1,
            oldest_pending_ms: 7_200_000,
            overdue_ms: 61_000,
            last_error: "lost the session of host-2:9".into(),
            last_error_at_ms: 40_000,
            ..pb::ServiceHealth::default()
        };
        let expected = "\
SERVICE  STATE   SESSIONS  QUEUED  IN FLIGHT  PENDING  PARKED  OLDEST  LAG
coupon   absent  0         0       0          7        1       2h      61s
stock    stuck   1         120     9          0        0       -       -

SERVICE  INSTANCE   VERSION  IN FLIGHT  CANARY
stock    host-1:77  0.1.0    9          700ms

SERVICE  WHEN     LAST ERROR
coupon   61s ago  lost the session of host-2:9";
        assert_eq!(listing(&[coupon, stock], Timestamp(101_000), false), expected);
        assert!(listing(&[], Timestamp(0), false).starts_with("No service is connected"));
    }
}
