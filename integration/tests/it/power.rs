//! The coordinator's power is cut, for real and on paper: what clients were told is there, and the file opens.

use tercet_integration::chaos::{self, PowerConfig, PowerReport};
use tokio::task::LocalSet;

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_power_goes() {
    let report = cut(PowerConfig::default()).await;
    println!("{report}");
    assert!(report.broken.is_empty(), "{report}");
    assert_eq!(report.rounds, 5);
    assert!(report.acknowledged >= 1_000 && report.syncs >= 100, "{report}");
    assert!(report.images.len() == 4 && report.images.values().sum::<usize>() == 200, "{report}");
}

#[tokio::test]
async fn a_disk_that_only_says_it_has_synced_is_found_out() {
    let config = PowerConfig { rounds: 1, images: 60, lie: Some("-wal".into()), ..PowerConfig::default() };
    let report = cut(config).await;
    println!("{report}");
    assert!(report.lost > 0 && !report.broken.is_empty(), "{report}");
}

async fn cut(config: PowerConfig) -> PowerReport {
    LocalSet::new().run_until(chaos::power(&config)).await.expect("the servers run")
}
