//! Fence rows that nobody will ask for again.
//!
//! Each database forgets at its own pace: one that hangs keeps neither the others nor the session waiting.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::Executor;
use super::connections::Connections;
use crate::fence::Dialect;
use crate::xid::Xid;

/// How many transactions may wait in each database for its floor to rise, and as many again for their rows to go.
pub(super) const FORGOTTEN_MAX: usize = 1 << 20;
/// How many transactions' rows one statement deletes.
const FORGET_ROWS: usize = 500;
/// How long a database may be at one round; the next goes on from there.
const ROUND_MAX: Duration = Duration::from_secs(5);
/// From a round that failed to the next one; twice as long after each further failure, up to the second.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

/// What one database is to forget.
#[derive(Default)]
pub(super) struct Forgotten {
    named: Mutex<Named>,
    /// Whoever has it is at a round; nobody waits for it.
    round: tokio::sync::Mutex<Round>,
}

/// Transactions that wait for the floor.
#[derive(Default)]
pub(super) struct Named {
    /// The highest that was asked for.
    floor_ms: u64,
    /// Of each message, with the floor that all of their calls end at or below. The databases share the lists.
    lists: Vec<(u64, Arc<[Xid]>)>,
    pub(super) transactions: usize,
}

#[derive(Default)]
struct Round {
    /// What the floor was raised to.
    floor_ms: u64,
    /// Transactions whose calls the floor was above before this round.
    due: VecDeque<Arc<[Xid]>>,
    /// How many of the first list are gone.
    gone: usize,
    failures: u32,
    /// No round begins before.
    retry_at: Option<Instant>,
    /// The floor does not rise before.
    raise_at: Option<Instant>,
}

impl Forgotten {
    /// Takes what there is room for, and says how many transactions that leaves out.
    fn name(&self, floor_ms: u64, xids: &Arc<[Xid]>) -> usize {
        let mut named = self.named();
        named.floor_ms = named.floor_ms.max(floor_ms);
        if named.transactions + xids.len() > FORGOTTEN_MAX {
            return xids.len();
        }
        if !xids.is_empty() {
            named.transactions += xids.len();
            named.lists.push((floor_ms, Arc::clone(xids)));
        }
        0
    }

    pub(super) fn named(&self) -> MutexGuard<'_, Named> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    fn failed(&mut self) {
        let [first, last] = RETRY;
        self.retry_at = Some(Instant::now() + (first * 2_u32.saturating_pow(self.failures)).min(last));
        self.failures = (self.failures + 1).min(16);
    }
}

impl<Db: Dialect> Executor<Db> {
    /// In each database raises the floor, and deletes the rows of the transactions above whose calls it was raised
    /// before: every call of theirs that was under way then has met the raised floor since.
    ///
    /// The transactions are noted before this returns. What comes while a database is at a round, or too early for the
    /// next, is left to a later call. Whoever drops the future leaves the rest of the round to the next one.
    pub fn forget(&self, floor_ms: u64, xids: Vec<Xid>) -> impl Future<Output = ()> + Send {
        let xids: Arc<[Xid]> = xids.into();
        let places = if self.fence_id.is_some() { &self.places[..] } else { &[] };
        for place in places {
            let transactions = place.forgotten.name(floor_ms, &xids);
            if transactions > 0 {
                warn!(service = self.service, transactions, "fence rows of forgotten transactions stay for good");
            }
        }
        let rounds = join_all(places.iter().map(|place| self.forget_in(place)));
        async move { drop(rounds.await) }
    }

    async fn forget_in(&self, place: &Connections<Db>) {
        let Ok(mut round) = place.forgotten.round.try_lock() else { return };
        if round.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let ran = timeout(ROUND_MAX, forget_some(place, &mut round)).await;
        match ran.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok(()) => round.failures = 0,
            Err(error) => {
                warn!(service = self.service, %error, "fence rows stay for another round");
                round.failed();
            }
        }
    }
}

/// One round. Where it is left off, `round` has what remains.
async fn forget_some<Db: Dialect>(place: &Connections<Db>, round: &mut Round) -> Result<(), sqlx::Error> {
    while let Some(list) = round.due.front().map(Arc::clone) {
        if round.gone == list.len() {
            round.due.pop_front();
            round.gone = 0;
            continue;
        }
        let until = list.len().min(round.gone + FORGET_ROWS);
        // Calls have their turn between two statements.
        let _permit = place.writers.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let mut connection = place.connection().await?;
        Db::forget(&mut connection, &list[round.gone..until]).await?;
        place.put(connection);
        round.gone = until;
    }
    let higher = place.forgotten.named().floor_ms > round.floor_ms;
    if higher && round.raise_at.is_none_or(|at| Instant::now() >= at) {
        let _permit = place.writers.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let floor_ms = place.forgotten.named().floor_ms;
        let mut connection = place.connection().await?;
        Db::raise_floor(&mut connection, floor_ms).await?;
        place.put(connection);
        (round.floor_ms, round.raise_at) = (floor_ms, Some(Instant::now() + Db::RAISE_EVERY));
    }
    let mut named = place.forgotten.named();
    let due = named.lists.extract_if(.., |(floor_ms, _)| *floor_ms <= round.floor_ms).map(|(_, list)| list);
    round.due.extend(due);
    named.transactions = named.lists.iter().map(|(_, list)| list.len()).sum();
    Ok(())
}
