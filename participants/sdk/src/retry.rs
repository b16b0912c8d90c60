//! Waits between attempts to reach a server: the only place that knows the `backoff` crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// The waits before each attempt to connect again, without end: about 20 ms first, then doubling, never more than
/// 500 ms. Each is off by up to a quarter, so that the clients of a restarted server do not come all at once.
pub fn reconnect_delays() -> impl Iterator<Item = Duration> + Send {
    delays(Duration::from_millis(20), 0.25, Duration::from_millis(500))
}

/// What is waited beyond the time that an overloaded coordinator asked for, without end: about 50 ms first, then
/// doubling, never more than 5 s. Each is off by up to a half: those that were refused together do not come again
/// together, and the longer the overload, the less they add to it.
pub fn overload_delays() -> impl Iterator<Item = Duration> + Send {
    delays(Duration::from_millis(50), 0.5, Duration::from_secs(5))
}

fn delays(first: Duration, randomization_factor: f64, max: Duration) -> impl Iterator<Item = Duration> + Send {
    let mut backoff = ExponentialBackoff {
        current_interval: first,
        initial_interval: first,
        randomization_factor,
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
    fn an_overload_is_met_with_ever_longer_waits() {
        let delays: Vec<_> = overload_delays().take(50).collect();
        assert!((25..=75).contains(&delays[0].as_millis()), "{:?}", delays[0]);
        assert!(delays.iter().all(|delay| delay.as_millis() <= 5_000));
        assert!(delays[20..].iter().all(|delay| delay.as_millis() >= 2_500));
    }

    #[test]
    fn the_first_wait_is_about_20_ms_and_none_is_over_500() {
        let delays: Vec<_> = reconnect_delays().take(50).collect();
        assert!((15..=25).contains(&delays[0].as_millis()), "{:?}", delays[0]);
        assert!(delays.iter().all(|delay| delay.as_millis() <= 500));
        assert!(delays[20..].iter().all(|delay| delay.as_millis() >= 375));
    }
}
