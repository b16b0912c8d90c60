//! What metrics can only say by looking: how full, how busy and how old things are. Calls do not pay for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::Clock;
use crate::driver::Gauges;
use crate::metrics;
use crate::session::Sessions;

/// How often one looks.
const LOOK: Duration = Duration::from_secs(1);

/// Looks at the driver and the services. Never ends.
pub(crate) async fn run<K: Clock>(clock: K, gauges: Arc<Gauges>, sessions: Sessions) {
    loop {
        metrics::live(gauges.live.load(Ordering::Relaxed));
        metrics::draining(gauges.controls.draining());
        let began = match gauges.commit_began_us.load(Ordering::Relaxed) {
            0 => None,
            us => Some(Duration::from_micros(us)),
        };
        metrics::committing(began.map_or(Duration::ZERO, |began| clock.monotonic().saturating_sub(began)));
        sessions.measure();
        tokio::time::sleep(LOOK).await;
    }
}
