//! What has to hold of every run: no split, nothing acknowledged lost, units conserved, and in the end an end.

use std::time::Duration;

use tercet_coordinator::live::Live;
use tercet_coordinator::store::memory::MemoryStore;
use tercet_coordinator::store::{CompensationQuery, CompensationStatus, ListQuery, Store as _};
use tercet_core::{Operation, Status, Xid};
use tokio::time::{Instant, sleep};

use super::World;
use super::participant::TOTAL;

async fn all(memory: &MemoryStore) -> Vec<Live> {
    let records = memory.list(ListQuery { limit: 100_000, ..ListQuery::default() }).await.expect("memory answers");
    records.iter().map(|record| Live::decode(record).expect("written by this version")).collect()
}

/// How many confirmed, and cancelled.
pub(super) async fn outcomes(memory: &MemoryStore) -> (u64, u64) {
    let all = all(memory).await;
    let count = |status| all.iter().filter(|live| live.tx.status == status).count() as u64;
    (count(Status::Confirmed), count(Status::Cancelled))
}

/// Rows that wait for a person.
pub(super) async fn parked(memory: &MemoryStore) -> u64 {
    let failed = Some(CompensationStatus::Failed);
    let query = CompensationQuery { status: failed, limit: 100_000, ..CompensationQuery::default() };
    memory.list(query).await.expect("memory answers").len() as u64
}

/// Waits until nothing is unfinished; names what still is when the time is over.
pub(super) async fn wait_for_end(world: &World, memory: &MemoryStore, limit: Duration) -> Vec<Xid> {
    let start = Instant::now();
    loop {
        let all = all(memory).await;
        let unfinished: Vec<Xid> = all.iter().filter(|live| !live.tx.status.ended()).map(|live| live.tx.xid).collect();
        if unfinished.is_empty() || start.elapsed() > limit {
            // Calls that are still on their way may yet arrive, and change nothing.
            sleep(Duration::from_secs(300)).await;
            world.happened("end", Xid([0; 16]), unfinished.len() as u64);
            return unfinished;
        }
        sleep(Duration::from_secs(5)).await;
    }
}

/// Writes down everything that does not hold.
pub(super) async fn safety(world: &World, memory: &MemoryStore, unfinished: Vec<Xid>) {
    for xid in unfinished {
        world.broken(format!("{xid}: not ended, long after the last fault"));
    }
    let all = all(memory).await;
    if parked(memory).await > 0 {
        world.broken("work is parked although no participant is at fault".into());
    }
    for live in &all {
        check_branches(world, live);
    }
    let told = world.lock().told.clone();
    for (xid, outcome) in told {
        let found = all.iter().find(|live| live.tx.xid == xid).map(|live| live.tx.status);
        let kept = match found {
            Some(Status::Confirmed | Status::Confirming) => outcome == 4,
            Some(Status::Cancelled | Status::Cancelling) => outcome == 5,
            Some(Status::Trying) | None => false,
        };
        if !kept {
            world.broken(format!("{xid}: acknowledged as {outcome}, and is {found:?}"));
        }
    }
    let names: Vec<String> = world.lock().services.keys().cloned().collect();
    for name in names {
        let (free, reserved, issued) = {
            let inner = world.lock();
            let service = &inner.services[&name];
            (service.free, service.reserved, service.issued)
        };
        if free + reserved + issued != TOTAL || free < 0 || reserved < 0 {
            world.broken(format!("{name}: {free} free, {reserved} reserved, {issued} issued of {TOTAL}"));
        }
    }
}

/// Every branch ended as its transaction did, exactly once.
fn check_branches(world: &World, live: &Live) {
    let xid = live.tx.xid;
    for (index, branch) in live.plan.branches.iter().enumerate() {
        let effects = {
            let inner = world.lock();
            inner.services[&branch.service].effects.get(&(xid, index as u8)).copied().unwrap_or_default()
        };
        let has = |operation| tercet_coordinator::plan::has(branch, operation);
        let (confirmed, cancelled) = (live.tx.status == Status::Confirmed, live.tx.status == Status::Cancelled);
        let right = if has(Operation::Ask) {
            // The sender's own commit.
            (effects.tried == 1) == confirmed
        } else if confirmed {
            let tries = u32::from(has(Operation::Try));
            let confirms = u32::from(has(Operation::Confirm));
            (effects.tried, effects.confirmed, effects.cancelled) == (tries, confirms, 0)
        } else {
            effects.confirmed == 0 && effects.tried == effects.cancelled && effects.tried <= 1
        };
        if (confirmed || cancelled) && !right {
            world.broken(format!("{xid}: {:?}, and branch {index} has {effects:?}", live.tx.status));
        }
    }
}
