//! `tercet participants`.

use serde::Serialize;
use tercet_proto::admin::v1 as pb;

use super::Error;
use super::client::{Client, request};
use super::show::{Screen, count, iso, short, table};

/// How a coordinator is doing, for programs.
#[derive(Serialize)]
struct Statistics {
    version: String,
    now: String,
    epoch: u64,
    live: u64,
    live_max: u64,
    store_commits: u64,
    store_rows: u64,
    ended: u64,
    participants: Vec<Participant>,
}

#[derive(Serialize)]
struct Participant {
    service: String,
    instance: String,
    version: String,
    queued: u32,
    in_flight: u32,
}

impl From<pb::GetStatisticsResponse> for Statistics {
    fn from(response: pb::GetStatisticsResponse) -> Self {
        let participants = response.participants.into_iter().map(|participant| Participant {
            service: participant.service,
            instance: participant.instance,
            version: participant.version,
            queued: participant.queued,
            in_flight: participant.in_flight,
        });
        Self {
            version: response.version,
            now: iso(response.now_ms),
            epoch: response.epoch,
            live: response.live,
            live_max: response.live_max,
            store_commits: response.store_commits,
            store_rows: response.store_rows,
            ended: response.ended,
            participants: participants.collect(),
        }
    }
}

/// Does it.
pub(super) async fn run(mut client: Client, screen: &mut Screen<'_>) -> Result<(), Error> {
    let statistics = client.admin.get_statistics(request(pb::GetStatisticsRequest::default())).await;
    let statistics = statistics.map_err(|status| client.blame("like that", &status))?.into_inner();
    if screen.json {
        return screen.document(&Statistics::from(statistics));
    }
    screen.text(&listing(&statistics))
}

fn listing(statistics: &pb::GetStatisticsResponse) -> String {
    let rows: Vec<_> = statistics.participants.iter().map(row).collect();
    let participants = if rows.is_empty() {
        "No service is connected: start one with the coordinator's address as its --coordinator".to_owned()
    } else {
        table(&["SERVICE", "INSTANCE", "VERSION", "QUEUED", "IN FLIGHT"], rows, None, false)
    };
    let live = count(statistics.live, "transaction", "transactions");
    let (ended, version) = (statistics.ended, &statistics.version);
    format!("{participants}\n\n{live} in memory, {ended} ended since the start; coordinator {version}")
}

fn row(participant: &pb::Participant) -> Vec<String> {
    vec![
        short(&participant.service, 24),
        short(&participant.instance, 24),
        short(&participant.version, 12),
        participant.queued.to_string(),
        participant.in_flight.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_who_is_connected_and_how_busy() {
        let participant = |service: &str, queued| pb::Participant {
            service: service.into(),
            instance: "host-1:77".into(),
            version: "0.1.0".into(),
            queued,
            in_flight: 9,
        };
        let mut statistics = pb::GetStatisticsResponse {
            version: "0.1.0".into(),
            live: 1,
            ended: 4,
            participants: vec![participant("stock", 0), participant("coupon", 120)],
            ..pb::GetStatisticsResponse::default()
        };
        let expected = "\
SERVICE  INSTANCE   VERSION  QUEUED  IN FLIGHT
stock    host-1:77  0.1.0    0       9
coupon   host-1:77  0.1.0    120     9

1 transaction in memory, 4 ended since the start; coordinator 0.1.0";
        assert_eq!(listing(&statistics), expected);
        statistics.participants.clear();
        assert!(listing(&statistics).starts_with("No service is connected"));
    }
}
