//! Waits between attempts to reach a server: the only place that knows the `backoff` crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// The waits before each attempt to connect again, without end: about 20 ms first, then doubling, never more than
/// 500 ms. Each is off by up to a quarter, so that the clients of a restarted server do not come all at once.
pub fn reconnect_delays() -> impl Iterator<Item = Duration> + Send {
    let max = Duration::from_millis(500);
    let mut backoff = ExponentialBackoff {
        current_interval: Duration::from_millis(20),
        initial_interval: Duration::from_millis(20),
        randomization_factor: 0.25,
        multiplier: 2.0,
        max_interval: max,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    std::iter::from_fn(move || Some(backoff.next_backoff().unwrap_or(max).min(max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wait_is_about_20_ms_and_none_is_over_500() {
        let delays: Vec<_> = reconnect_delays().take(50).collect();
        assert!((15..=25).contains(&delays[0].as_millis()), "{:?}", delays[0]);
        assert!(delays.iter().all(|delay| delay.as_millis() <= 500));
        assert!(delays[20..].iter().all(|delay| delay.as_millis() >= 375));
    }
}
