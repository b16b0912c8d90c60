//! Real processes are killed under load: nothing acknowledged is lost, nothing is split or left, everything adds up.

use tercet_integration::chaos::{self, Database, KillConfig, KillReport, RecoverConfig};
use tokio::task::LocalSet;

#[tokio::test]
async fn twenty_kills_with_five_hundred_in_doubt_harm_nothing() {
    let report = campaign(KillConfig { freeze_percent: 0, ..KillConfig::default() }).await;
    println!("{report}");
    assert_eq!(report.rounds, 20);
    assert!(report.kills.len() == 4 && report.kills.values().all(|kills| *kills >= 5), "in turn: {report}");
}

#[tokio::test]
async fn thirty_kills_and_freezes_of_servers_and_their_mariadb_harm_nothing() {
    let config = KillConfig { rounds: 30, database: Database::Mariadb, seed: 2, ..KillConfig::default() };
    let report = campaign(config).await;
    println!("{report}");
    assert_eq!(report.rounds, 30);
    for server in ["coordinator", "stock", "coupon", "order", "stock-db", "coupon-db", "order-db"] {
        let acts = report.kills.get(server).unwrap_or(&0) + report.freezes.get(server).unwrap_or(&0);
        assert!(acts >= 4, "in turn: {report}");
    }
    assert!(report.freezes.len() > 2, "{report}");
}

async fn campaign(config: KillConfig) -> KillReport {
    let report = LocalSet::new().run_until(chaos::kill(&config)).await.expect("the servers run");
    assert!(report.broken.is_empty(), "{report}");
    assert!(report.alarms == 0 && report.audited > report.confirmed, "{report}");
    assert!(report.in_doubt_min >= config.in_doubt, "{report}");
    report
}

#[tokio::test]
async fn what_a_crash_leaves_is_ended_soon_after_the_restart() {
    let config = RecoverConfig { in_flight: 1_000, json: false };
    let report = LocalSet::new().run_until(chaos::recover(&config)).await.expect("the servers run");
    println!("{report}");
    assert!(report.broken.is_empty(), "{report}");
    // A figure of a busy machine: the promise of 1 s is measured by `chaos recover`.
    assert!(report.last_in_doubt_s <= 5.0, "{report}");
}
