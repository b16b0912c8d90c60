//! Keeps refusing from taking the time of what has been accepted.
//!
//! Everything here runs on one thread, whose tasks take turns. When far more comes than can be done, the driver would
//! be one task among thousands that each only say no, and would come to its own work ever more rarely. So between two
//! turns of the driver only so many refusals leave. The others keep their calls open, and a connection with enough open
//! calls is read no further: who asks more than can even be refused waits, and the accepted work goes on. (Admission in
//! front of each stage, so that a stage keeps its throughput whatever is offered: Welsh and Culler, "Adaptive Overload
//! Control for Busy Internet Servers", 2003.)

use tokio::sync::{Notify, Semaphore};

use crate::limits;

/// Between the door, which refuses, and the driver, which has its turns.
#[derive(Debug)]
pub struct Turnstile {
    places: Semaphore,
    bell: Notify,
}

impl Default for Turnstile {
    fn default() -> Self {
        Self { places: Semaphore::new(limits::REFUSALS_MAX), bell: Notify::new() }
    }
}

impl Turnstile {
    /// Ends when one more refusal may leave. They leave in the order in which they came.
    pub async fn pass(&self) {
        if let Ok(place) = self.places.try_acquire() {
            return place.forget();
        }
        self.bell.notify_one();
        if let Ok(place) = self.places.acquire().await {
            place.forget();
            // Others may wait behind it, and a driver with nothing to do has no turns of its own.
            self.bell.notify_one();
        }
    }

    /// The driver has a turn.
    pub fn turn(&self) {
        let missing = limits::REFUSALS_MAX.saturating_sub(self.places.available_permits());
        if missing > 0 {
            self.places.add_permits(missing);
        }
    }

    /// Ends when somebody waits for the driver's next turn.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn refusals_leave_in_order_and_so_many_a_turn() {
        let turnstile = Turnstile::default();
        for _ in 0..limits::REFUSALS_MAX {
            assert!(turnstile.pass().now_or_never().is_some());
        }
        assert!(turnstile.rung().now_or_never().is_none(), "nobody waits");
        let mut waiting: Vec<_> = (0..=limits::REFUSALS_MAX).map(|_| Box::pin(turnstile.pass())).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(turnstile.rung().now_or_never().is_some(), "the driver is told");
        turnstile.turn();
        let (last, first) = waiting.split_last_mut().expect("some");
        assert!(first.iter_mut().all(|one| one.now_or_never().is_some()));
        assert!(last.now_or_never().is_none());
        assert!(turnstile.rung().now_or_never().is_some(), "and told again while somebody waits");
        turnstile.turn();
        assert!(last.now_or_never().is_some());
    }
}
