//! How far behind a group is, while it takes events and while none come: nobody else would see one that is slow and
//! does not fail.

use std::pin::pin;
use std::time::Duration;

use sqlx::Pool;
use tercet_proto::events::v1 as pb;
use tokio::time::{Instant, sleep, timeout};

use crate::limits::{CLOCK, CLOCK_MAX, LAG_LOOK};
use crate::metrics;
use crate::store::Store;

/// A database's clock, read now and then.
#[derive(Debug, Default)]
pub(super) struct Clock(Option<(i64, Instant)>);

impl Clock {
    /// What it shows, in milliseconds; `None` where it was never read.
    pub(super) async fn now_ms<Db: Store>(&mut self, pool: &Pool<Db>) -> Option<i64> {
        if self.0.is_none_or(|(_, at)| at.elapsed() > CLOCK) {
            let read = async { Db::clock_ms(&mut *pool.acquire().await?).await };
            if let Ok(Ok(now_ms)) = timeout(CLOCK_MAX, read).await {
                self.0 = Some((now_ms, Instant::now()));
            }
        }
        self.0.map(|(then_ms, at)| then_ms + i64::try_from(at.elapsed().as_millis()).unwrap_or(0))
    }
}

/// How old the oldest of these events is. One that has come back from the dead letters says nothing of those that wait,
/// nor does one whose producer leaves its time out.
pub(super) fn age<'a>(events: impl Iterator<Item = &'a pb::Event>, now_ms: Option<i64>) -> Duration {
    let fresh = events.filter(|event| event.occurred_ms > 0 && event.only_group.is_empty());
    let oldest = fresh.map(|event| event.occurred_ms).min().zip(now_ms);
    oldest
        .map_or(Duration::ZERO, |(then_ms, now_ms)| Duration::from_millis(u64::try_from(now_ms - then_ms).unwrap_or(0)))
}

/// Waits for something to come. While nothing does nothing is behind.
pub(super) async fn waiting<T>(group: &'static str, next: impl Future<Output = T>) -> T {
    watched(next, || metrics::lags(group, Duration::ZERO)).await
}

/// Takes events, of which the oldest is this old by now, and older when they are taken.
pub(super) async fn taking<T>(group: &'static str, age: Duration, taken: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let lags = || metrics::lags(group, age + began.elapsed());
    let taken = watched(taken, lags).await;
    lags();
    taken
}

async fn watched<T>(done: impl Future<Output = T>, look: impl Fn()) -> T {
    let mut done = pin!(done);
    loop {
        tokio::select! {
            done = &mut done => return done,
            () = sleep(LAG_LOOK) => look(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_oldest_that_is_new_counts() {
        let event = |occurred_ms, only_group: &str| pb::Event {
            occurred_ms,
            only_group: only_group.into(),
            ..pb::Event::default()
        };
        let of = |events: &[pb::Event], now_ms| age(events.iter(), now_ms);
        let events = [event(0, ""), event(100, "order"), event(500, ""), event(400, "")];
        assert_eq!(of(&events, Some(1_000)), Duration::from_millis(600));
        assert_eq!(of(&events, Some(300)), Duration::ZERO, "clocks differ");
        assert_eq!(of(&events, None), Duration::ZERO);
        assert_eq!(of(&events[..2], Some(1_000)), Duration::ZERO, "neither says anything");
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_looked_at_meanwhile() {
        let looks = Cell::new(0);
        let done = watched(sleep(LAG_LOOK * 3 + LAG_LOOK / 2), || looks.set(looks.get() + 1));
        done.await;
        assert_eq!(looks.get(), 3);
        assert_eq!(watched(std::future::ready(7), || panic!("it is there")).await, 7);
    }
}
