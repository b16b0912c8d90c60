//! The coordinator's disk fills up: nothing new is taken, what is under way is kept, and with room everything goes on.

use tercet_integration::chaos::{self, DiskConfig, DiskReport};
use tokio::task::LocalSet;

#[tokio::test]
async fn within_the_reserve_what_is_under_way_ends_while_nothing_new_is_taken() {
    let report = fill(DiskConfig::default()).await;
    println!("{report}");
    assert!(report.broken.is_empty(), "{report}");
    assert!(report.in_doubt >= 10 && report.ended_s.is_some(), "{report}");
    assert_eq!(report.refusal, "ResourceExhausted DISK_FULL");
}

#[tokio::test]
async fn without_a_byte_left_nothing_that_was_accepted_is_given_up() {
    let report = fill(DiskConfig { reserve_mib: 0, ..DiskConfig::default() }).await;
    println!("{report}");
    assert!(report.broken.is_empty(), "{report}");
    assert!(report.in_doubt >= 10, "{report}");
}

async fn fill(config: DiskConfig) -> DiskReport {
    LocalSet::new().run_until(chaos::disk(&config)).await.expect("the servers run")
}
