//! What a coordinator that takes nothing new tells Prometheus: by that its alerts fire.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tercet_integration::processes::{Coordinator, free_address};
use tercet_proto::admin::v1::DrainRequest;
use tercet_proto::admin::v1::admin_client::AdminClient;

use super::PATIENCE;
use super::prometheus::get;

/// Waits until a line stands among the metrics.
async fn shows(metrics: SocketAddr, line: &str) {
    let begun = Instant::now();
    loop {
        let text = get(metrics, "/metrics").await.unwrap_or_default();
        if text.lines().any(|told| told == line) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "without {line}: {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_coordinator_that_is_drained_or_has_no_room_says_so() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let metrics = free_address().expect("there is one");
    let (spec, url, admin) = Coordinator::spec(folder.path()).expect("it is built");
    let spec = spec.with("--metrics", metrics.to_string());
    let mut process = spec.clone().start().expect("it starts");
    Coordinator::connect(&url, &admin).expect("they are addresses").wait_ready().await.expect("it starts");
    for line in ["tercet_draining 0", "tercet_disk_full 0"] {
        shows(metrics, line).await;
    }
    let mut operator = AdminClient::connect(admin.clone()).await.expect("it listens");
    operator.drain(DrainRequest::default()).await.expect("nobody drains it yet");
    shows(metrics, "tercet_draining 1").await;
    operator.drain(DrainRequest { undo: true, ..DrainRequest::default() }).await.expect("it is drained");
    shows(metrics, "tercet_draining 0").await;
    process.kill();

    // More than any disk has.
    let _process = spec.with("--disk-reserve-mib", "100000000000").start().expect("it starts");
    shows(metrics, "tercet_disk_full 1").await;
}
