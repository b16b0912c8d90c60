//! Real processes are killed under load: nothing acknowledged is lost, nothing is split or left, everything adds up.

use tercet_integration::chaos::{self, KillConfig, RecoverConfig};
use tokio::task::LocalSet;

#[tokio::test]
async fn twenty_kills_with_five_hundred_in_doubt_harm_nothing() {
    let config = KillConfig { rounds: 20, in_doubt: 500, seed: 1, keep: None, json: false };
    let report = LocalSet::new().run_until(chaos::kill(&config)).await.expect("the servers run");
    println!("{report}");
    assert!(report.broken.is_empty(), "{report}");
    assert_eq!(report.rounds, 20);
    assert!(report.kills.len() == 4 && report.kills.values().all(|kills| *kills >= 5), "in turn: {report}");
    assert!(report.in_doubt_min >= 500, "{report}");
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
