//! Short runs of the programs that load the gateway: what they print adds up. Nothing here is about time.

use tercet_integration::load::gateway::{self, BatchConfig, Config, HotConfig, Place, Report};
use tercet_integration::servers;
use tokio::task::LocalSet;

async fn run(load: impl Future<Output = anyhow::Result<Report>>) -> Report {
    let report = LocalSet::new().run_until(load).await.unwrap_or_else(|error| panic!("{error:#}"));
    eprintln!("{report}");
    assert!(report.broken.is_empty(), "{report}");
    assert_eq!(report.ok + report.refused.values().sum::<u64>(), report.requests, "{report}");
    assert!(report.p50_ms > 0.0 && report.p50_ms <= report.p99_ms && report.p99_ms <= report.max_ms, "{report}");
    assert!(report.rss_mib.values().all(|mib| *mib > 1.0), "{report}");
    report
}

fn config(rate: Option<f64>, place: Place) -> Config {
    Config { place, rate, clients: 8, seconds: 1, warmup: 0, users: 300, json: true }
}

#[tokio::test]
async fn claims_that_come_at_a_rate_are_all_counted() {
    let report = run(gateway::claims(&config(Some(50.0), Place::default()))).await;
    assert_eq!((report.load, report.requests, report.clients), ("claims", 50, None));
    assert_eq!(report.kinds.keys().collect::<Vec<_>>(), [&"claim"]);
    assert!(report.cpu_us.contains_key("platform") && report.cpu_us.contains_key("load"), "{report}");
    let json = serde_json::to_value(&report).expect("it has a form");
    assert_eq!((&json["offered_per_s"], &json["clients"]), (&50.0.into(), &serde_json::Value::Null));
}

#[tokio::test]
async fn the_mixed_plan_has_its_shares() {
    let report = run(gateway::mixed(&config(Some(100.0), Place::default()))).await;
    let share = |kind: &str| report.kinds[kind].requests;
    assert_eq!([share("my coupons"), share("template"), share("claim")], [70, 20, 10], "{report}");
}

#[tokio::test]
async fn twenty_coupons_of_each_user_are_tried_on_orders() {
    let report = run(gateway::validate(&Config { users: 20, ..config(Some(50.0), Place::default()) })).await;
    assert_eq!((report.load, report.requests), ("validate", 50), "{report}");
}

#[tokio::test]
async fn all_of_few_coupons_go_to_as_many_users() {
    let place = Place::default();
    let config = HotConfig { place, rate: None, clients: 16, users: 200, coupons: 60, json: true };
    let report = run(gateway::hot_template(&config)).await;
    // The report itself says whether any of them is missing.
    assert!(report.requests == 200 && report.ok <= 60 && report.refused["SOLD_OUT"] <= 140, "{report}");
}

#[tokio::test]
async fn services_apart_on_mariadb_and_kafka_are_loaded_alike() {
    let Some((kafka, _)) = servers::kafka() else { return };
    let Some(mariadb) = servers::mariadb().await.expect("the server answers") else { return };
    let place = || Place {
        mariadb: Some(mariadb.clone()),
        kafka: Some(kafka.clone()),
        databases: 2,
        tables: 4,
        ..Place::default()
    };
    let report = run(gateway::batch(&BatchConfig { place: place(), users: 200, each: 3, json: true })).await;
    assert!(report.coupons_per_s > 0.0 && report.requests == 1, "{report}");
    for process in ["coordinator", "coupon", "issuing", "gateway", "load"] {
        assert!(report.cpu_us.contains_key(process), "{process} in {report}");
    }
    let report = run(gateway::claims(&config(None, place()))).await;
    assert_eq!(report.place, "MariaDB 2x4 and Kafka");
}
