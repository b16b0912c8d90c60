//! Keeps refusing from taking the time of what has been accepted.
//!
//! Everything here runs on one thread. A refusal costs it about a fifth of a transaction, so when several times more
//! comes than can be done, saying no to all of it at once would leave little time for anything else. So one refusal
//! leaves for each transaction that ends, and a few more for when nothing does. The others keep their calls open, and a
//! connection with enough open calls is read no further: who asks more than can even be refused waits, and the accepted
//! work goes on. (Admission in front of each stage, so that a stage keeps its throughput whatever is offered: Welsh and
//! Culler, "Adaptive Overload Control for Busy Internet Servers", 2003.)

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep_until};

use crate::limits;

/// Between the door, which refuses, and the driver, in which transactions end.
#[derive(Debug)]
pub struct Turnstile {
    /// Refusals that may leave because transactions have ended.
    earned: AtomicUsize,
    /// Its holder is the next one to leave.
    granted: Mutex<Granted>,
    bell: Notify,
}

/// Refusals that may leave whether anything ends or not.
#[derive(Debug)]
struct Granted {
    /// How many of them, until `until`. Those that leave because something ended are among them: whichever is more.
    left: usize,
    until: Instant,
}

impl Granted {
    fn from(now: Instant) -> Self {
        Self { left: limits::REFUSALS_MAX, until: now + Duration::from_millis(limits::REFUSALS_MS) }
    }
}

impl Default for Turnstile {
    fn default() -> Self {
        Self { earned: AtomicUsize::new(0), granted: Mutex::new(Granted::from(Instant::now())), bell: Notify::new() }
    }
}

impl Turnstile {
    /// Ends when one more refusal may leave. They leave in the order in which they came.
    pub async fn pass(&self) {
        let mut granted = self.granted.lock().await;
        loop {
            let now = Instant::now();
            if granted.until <= now {
                *granted = Granted::from(now);
            }
            let earned = |earned: usize| earned.checked_sub(1);
            if self.earned.try_update(Ordering::Relaxed, Ordering::Relaxed, earned).is_ok() {
                granted.left = granted.left.saturating_sub(1);
                return;
            }
            if let Some(left) = granted.left.checked_sub(1) {
                granted.left = left;
                return;
            }
            tokio::select! {
                () = self.bell.notified() => {}
                () = sleep_until(granted.until) => {}
            }
        }
    }

    /// A transaction has ended. What nobody takes is not kept for long.
    pub fn ended(&self) {
        if self.earned.fetch_add(1, Ordering::Relaxed) >= limits::REFUSALS_MAX {
            self.earned.store(limits::REFUSALS_MAX, Ordering::Relaxed);
        }
        self.bell.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    async fn leave(turnstile: &Turnstile, refusals: usize) {
        for _ in 0..refusals {
            assert!(turnstile.pass().now_or_never().is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_leave_in_order_one_for_each_end() {
        let turnstile = Turnstile::default();
        leave(&turnstile, limits::REFUSALS_MAX).await;
        let (mut first, mut second) = (Box::pin(turnstile.pass()), Box::pin(turnstile.pass()));
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        turnstile.ended();
        assert!((&mut second).now_or_never().is_none(), "the other one came first");
        assert!((&mut first).now_or_never().is_some());
        assert!((&mut second).now_or_never().is_none());
        turnstile.ended();
        assert!((&mut second).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn when_nothing_ends_so_many_leave_in_a_while() {
        let turnstile = Turnstile::default();
        leave(&turnstile, limits::REFUSALS_MAX).await;
        assert!(turnstile.pass().now_or_never().is_none());
        turnstile.pass().await;
        leave(&turnstile, limits::REFUSALS_MAX - 1).await;
        assert!(turnstile.pass().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_hour_allows_no_flood_after_it() {
        let turnstile = Turnstile::default();
        (0..100 * limits::REFUSALS_MAX).for_each(|_| turnstile.ended());
        leave(&turnstile, limits::REFUSALS_MAX).await;
        assert!(turnstile.pass().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_now_and_then_holds_nothing_up() {
        let turnstile = Turnstile::default();
        let began = Instant::now();
        let ends = async {
            loop {
                tokio::time::sleep(Duration::from_millis(limits::REFUSALS_MS - 1)).await;
                turnstile.ended();
            }
        };
        let refusals = async {
            for _ in 0..10 * limits::REFUSALS_MAX {
                turnstile.pass().await;
            }
        };
        tokio::select! {
            () = ends => {}
            () = refusals => {}
        }
        assert!(began.elapsed() <= Duration::from_millis(11 * limits::REFUSALS_MS), "{:?}", began.elapsed());
    }
}
