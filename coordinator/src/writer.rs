//! Group commit: one batch, one durable write, and the truth about it whatever happens in between.

use std::time::Duration;

use tercet_core::{Timestamp, Xid};
use tracing::{error, info};

use crate::clock::Clock;
use crate::driver::Gauges;
use crate::store::{Error, Lookup, Record, Store, Write, Written};
use crate::{limits, metrics};

/// Waits between attempts to reach a store that is away.
const DELAY_MS: [u64; 6] = [5, 20, 80, 200, 500, 1_000];

/// The next batch: as many of the queued writes as one commit takes.
pub fn next_batch(queued: &mut Vec<Write>) -> Vec<Write> {
    let mut bytes = 0;
    let fits = queued.iter().take(limits::COMMIT_ROWS_MAX).take_while(|write| {
        let room = bytes < limits::COMMIT_BYTES_MAX;
        bytes += size(write);
        room
    });
    let count = fits.count();
    if count == queued.len() { std::mem::take(queued) } else { queued.drain(..count).collect() }
}

fn size(write: &Write) -> usize {
    match write {
        Write::Create(create) => create.plan.len() + create.state.len(),
        Write::Advance(advance) => advance.state.len(),
        Write::Audit(audit) => audit.before.len() + audit.after.len(),
    }
}

/// Makes a batch durable and says what became of each write. Does not give up: while the store is away it waits, and a
/// commit of unknown result is read back by version before anyone hears of it. Only what would be new is given up when
/// there is no room for it; that there is none the gauges tell at once, as what was accepted may have to wait for long.
pub async fn commit<S: Store, K: Clock>(
    store: &S,
    clock: &K,
    gauges: &Gauges,
    batch: Vec<Write>,
) -> Vec<(Xid, Written)> {
    let names: Vec<Option<Xid>> = batch.iter().map(Write::xid).collect();
    let started = clock.monotonic();
    let rows = batch.len();
    let written = match store.write(batch.clone()).await {
        Ok(written) => written,
        Err(error) => {
            metrics::store_failed();
            error!(
                error = &error as &dyn std::error::Error,
                rows, "commit of unknown result; reading back until it is known"
            );
            recover(store, gauges, batch, is_full(&error, gauges)).await
        }
    };
    metrics::committed(rows, clock.monotonic().saturating_sub(started));
    names.into_iter().zip(written).filter_map(|(xid, written)| Some((xid?, written))).collect()
}

fn is_full(error: &Error, gauges: &Gauges) -> bool {
    let full = matches!(error, Error::Full(_));
    if full {
        gauges.meet_full();
    }
    full
}

async fn recover<S: Store>(store: &S, gauges: &Gauges, batch: Vec<Write>, mut full: bool) -> Vec<Written> {
    let mut known: Vec<Option<Written>> = batch.iter().map(|_| None).collect();
    for attempt in 0.. {
        let delay_ms = DELAY_MS.get(attempt).or(DELAY_MS.last()).copied().unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        if read_back(store, &batch, &mut known).await.is_err() {
            continue;
        }
        if full {
            refuse_new(&batch, &mut known);
        }
        let missing: Vec<usize> = (0..batch.len()).filter(|at| known[*at].is_none()).collect();
        if !missing.is_empty() {
            let again = missing.iter().map(|at| batch[*at].clone()).collect();
            match store.write(again).await {
                Ok(written) => missing.into_iter().zip(written).for_each(|(at, written)| known[at] = Some(written)),
                Err(error) => {
                    metrics::store_failed();
                    full = is_full(&error, gauges);
                    continue;
                }
            }
        }
        info!(rows = batch.len(), attempts = attempt + 1, "the result of the commit is known");
        break;
    }
    known.into_iter().flatten().collect()
}

/// What was accepted needs the room that there is.
fn refuse_new(batch: &[Write], known: &mut [Option<Written>]) {
    for (write, known) in batch.iter().zip(known) {
        if known.is_none() && matches!(write, Write::Create(_)) {
            *known = Some(Written::NoRoom);
        }
    }
}

async fn read_back<S: Store>(store: &S, batch: &[Write], known: &mut [Option<Written>]) -> Result<(), Error> {
    for (write, known) in batch.iter().zip(known.iter_mut()) {
        // An audit row of its own can not be told from another of the same words: it is written again.
        if let (None, Some(xid)) = (&known, write.xid()) {
            let found = store.get(Lookup::Xid(xid)).await?;
            *known = judge(write, found.as_ref());
        }
    }
    Ok(())
}

/// What the store's content says of a write; `None`: it was not done.
fn judge(write: &Write, found: Option<&Record>) -> Option<Written> {
    let state = match write {
        Write::Create(create) => &create.state,
        Write::Advance(advance) => &advance.state,
        Write::Audit(_) => return None,
    };
    match (found, write) {
        (None, Write::Create(_) | Write::Audit(_)) => None,
        (None, Write::Advance(_)) => Some(Written::Stale),
        (Some(record), _) if record.version < write.version() => None,
        (Some(record), _) if record.version == write.version() && record.state == *state => {
            Some(Written::Done { version: record.version })
        }
        (Some(_), _) => Some(Written::Stale),
    }
}

/// When a lease that a store granted at `granted` for `lease_ms` is no longer to be relied on.
pub fn lease_end(granted: Timestamp, lease_ms: u64) -> Timestamp {
    // A tenth is kept back for the time that passes between the store and a participant.
    granted.after_ms(lease_ms - lease_ms / 10)
}
