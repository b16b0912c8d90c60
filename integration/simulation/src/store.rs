//! A store that is slow, fails before or after it has done what it was asked, and leaves it unknown which.

use std::time::Duration;

use futures_util::FutureExt as _;
use tercet_coordinator::clock::{Clock as _, SystemClock};
use tercet_coordinator::names;
use tercet_coordinator::store::{
    Beat, ClaimCompensations, Claimed, Error, Lookup, MemoryStore, Owner, Purge, Query, Record, Store, Write, Written,
};
use tokio::time::sleep;

use crate::Victim;
use crate::faults::Fault;
use crate::world::World;

/// A [`MemoryStore`] with faults in front of it. What is under way when the coordinator dies was done, or was not.
pub(crate) struct FaultyStore {
    world: World,
    store: MemoryStore,
    clock: SystemClock,
    /// Which coordinator's.
    number: u64,
}

impl FaultyStore {
    pub(crate) fn new(world: World, store: MemoryStore, clock: SystemClock, number: u64) -> Self {
        Self { world, store, clock, number }
    }

    async fn pause(&self) {
        let micros = if self.world.fault(Fault::StoreSlow, 3) { 400_000 } else { 2_000 };
        sleep(Duration::from_micros(self.world.below(micros))).await;
    }

    /// Fails by chance.
    fn may(&self, kind: Fault, percent: u64) -> Result<(), Error> {
        if self.world.fault(kind, percent) { Err(Error::Unavailable(sqlx::Error::PoolTimedOut)) } else { Ok(()) }
    }

    /// A point between two durable writes.
    async fn pass(&self, what: &'static str) {
        self.world.pass(Victim::Coordinator, what).await;
    }

    /// Looks at what is durable now.
    fn written(&self, write: &(u8, tercet_core::Xid, u64)) {
        let (number, xid, version) = *write;
        let (tx, who) = (self.world.tx(xid), format!("coordinator {}", self.number));
        let Some(status) = names::status_from(number.into()) else { return };
        self.world.log(who, format_args!("{tx} is {status:?}, version {version}"));
        crate::check::goes_forward(&self.world, xid, version, status);
        if self.world.watched()
            && let Some(Ok(Some(record))) = self.store.get(Lookup::Xid(xid)).now_or_never()
        {
            self.world.show(|watch| watch.durable(self.clock.now(), &record));
        }
    }
}

impl Store for FaultyStore {
    async fn write(&self, batch: Vec<Write>) -> Result<Vec<Written>, Error> {
        self.pause().await;
        self.pass("before a write").await;
        self.may(Fault::WriteFailed, 2)?;
        let statuses: Vec<_> = batch.iter().map(moved).collect();
        let written = self.store.write(batch).await?;
        for (write, written) in statuses.iter().zip(&written) {
            if let (Some(write), Written::Done { .. }) = (write, written) {
                self.written(write);
            }
        }
        self.pass("after a write").await;
        self.pause().await;
        self.may(Fault::WriteUnknown, 2)?;
        Ok(written)
    }

    async fn get(&self, lookup: Lookup) -> Result<Option<Record>, Error> {
        self.pause().await;
        self.may(Fault::ReadFailed, 2)?;
        self.store.get(lookup).await
    }

    async fn list<Q: Query>(&self, query: Q) -> Result<Vec<Q::Row>, Error> {
        self.store.list(query).await
    }

    async fn claim_orphans(&self, owner: Owner, limit: u32) -> Result<Vec<Record>, Error> {
        self.pause().await;
        self.may(Fault::ClaimFailed, 5)?;
        let claimed = self.store.claim_orphans(owner, limit).await?;
        if !claimed.is_empty() {
            self.world.log(format!("coordinator {}", self.number), format_args!("claims {} orphans", claimed.len()));
            self.pass("after claiming orphans").await;
            self.may(Fault::ClaimUnknown, 5)?;
        }
        Ok(claimed)
    }

    async fn claim_compensations(&self, claim: ClaimCompensations) -> Result<Vec<Claimed>, Error> {
        self.pause().await;
        self.may(Fault::ClaimFailed, 2)?;
        let claimed = self.store.claim_compensations(claim).await?;
        if !claimed.is_empty() {
            self.world.log(format!("coordinator {}", self.number), format_args!("claims {} rows", claimed.len()));
            self.pass("after claiming compensations").await;
            self.may(Fault::ClaimUnknown, 5)?;
        }
        Ok(claimed)
    }

    async fn beat(&self, node: u16, epoch: Option<u64>, lease_ms: u64) -> Result<Beat, Error> {
        self.may(Fault::BeatFailed, 15)?;
        let beat = self.store.beat(node, epoch, lease_ms).await?;
        if epoch.is_none() {
            self.pass("after its first beat").await;
        }
        self.may(Fault::BeatUnknown, 5)?;
        Ok(beat)
    }

    async fn purge(&self, purge: Purge) -> Result<u64, Error> {
        self.store.purge(purge).await
    }
}

/// The status, transaction and version that a write brings about; nothing where it moves no transaction.
fn moved(write: &Write) -> Option<(u8, tercet_core::Xid, u64)> {
    let status = match write {
        Write::Create(create) => create.status,
        Write::Advance(advance) => advance.status,
        Write::Audit(_) => return None,
    };
    Some((status, write.xid()?, write.version()))
}
