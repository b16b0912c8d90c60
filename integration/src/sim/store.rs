//! A store that is slow, fails before or after it has done what it was asked, and leaves it unknown which.

use std::time::Duration;

use tercet_coordinator::store::memory::MemoryStore;
use tercet_coordinator::store::{
    Beat, ClaimCompensations, Claimed, Error, Lookup, Owner, Purge, Query, Record, Store, Write, Written,
};
use tokio::time::sleep;

use super::{Planted, World};

/// A [`MemoryStore`] with faults in front of it. What is under way when the coordinator dies was done, or was not.
pub(super) struct FaultyStore {
    world: World,
    store: MemoryStore,
}

impl FaultyStore {
    pub(super) fn new(world: World, store: MemoryStore) -> Self {
        Self { world, store }
    }

    async fn pause(&self) {
        let micros = if self.world.fault("store slow", 3) { 400_000 } else { 2_000 };
        sleep(Duration::from_micros(self.world.below(micros))).await;
    }
}

fn lost() -> Error {
    Error::Unavailable(sqlx::Error::PoolTimedOut)
}

impl Store for FaultyStore {
    async fn write(&self, batch: Vec<Write>) -> Result<Vec<Written>, Error> {
        if self.world.planted == Some(Planted::ActBeforePersist) {
            // The answer comes first; the write follows, unless the process dies before.
            let answer = batch.iter().map(|write| Written::Done { version: write.version() }).collect();
            let (store, world) = (self.store.clone(), self.world.clone());
            let starts = world.lock().starts;
            tokio::spawn(async move {
                sleep(Duration::from_millis(30)).await;
                if world.lock().inbox.is_some() && world.lock().starts == starts {
                    drop(store.write(batch).await);
                }
            });
            return Ok(answer);
        }
        self.pause().await;
        if self.world.fault("write failed", 2) {
            return Err(lost());
        }
        let written = self.store.write(batch).await?;
        self.pause().await;
        if self.world.fault("write done, answer lost", 2) {
            return Err(lost());
        }
        Ok(written)
    }

    async fn get(&self, lookup: Lookup) -> Result<Option<Record>, Error> {
        self.pause().await;
        if self.world.fault("read failed", 2) {
            return Err(lost());
        }
        self.store.get(lookup).await
    }

    async fn list<Q: Query>(&self, query: Q) -> Result<Vec<Q::Row>, Error> {
        self.store.list(query).await
    }

    async fn claim_orphans(&self, owner: Owner, limit: u32) -> Result<Vec<Record>, Error> {
        self.pause().await;
        self.store.claim_orphans(owner, limit).await
    }

    async fn claim_compensations(&self, claim: ClaimCompensations) -> Result<Vec<Claimed>, Error> {
        self.pause().await;
        self.store.claim_compensations(claim).await
    }

    async fn beat(&self, node: u16, epoch: Option<u64>, lease_ms: u64) -> Result<Beat, Error> {
        if self.world.fault("beat failed", 20) {
            return Err(lost());
        }
        self.store.beat(node, epoch, lease_ms).await
    }

    async fn purge(&self, purge: Purge) -> Result<u64, Error> {
        self.store.purge(purge).await
    }
}
