//! A store that forgets everything with the process: for simulations and for the tests of participants.
//!
//! It keeps the same promises as the others but that one, and looks for what it needs by walking all rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tercet_core::{Timestamp, Xid};

use super::{
    Advance, AuditQuery, BACKLOGS_MAX, Backlog, Beat, CANARY_MODE, ClaimCompensations, Claimed, Compensation,
    CompensationQuery, CompensationStatus, CompensationWrite, Create, Error, IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX,
    Key, ListQuery, Lists, Lookup, Owner, Purge, Query, Record, Store, Write, Written,
};
use crate::audit::{AuditRow, AuditWrite};
use crate::clock::Clock;

/// A [`Store`] in memory. Clones are one store, which is how it outlives a coordinator that a test ends.
#[derive(Clone)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    tables: Arc<Mutex<Tables>>,
}

#[derive(Default)]
struct Tables {
    records: BTreeMap<Xid, Record>,
    xids: BTreeMap<String, Xid>,
    keys: BTreeSet<(Key, Xid)>,
    compensations: BTreeMap<u64, Compensation>,
    /// Who leased a compensation last.
    lessees: BTreeMap<u64, Owner>,
    nodes: BTreeMap<u16, Node>,
    audit: Vec<AuditRow>,
    last_id: u64,
}

struct Node {
    epoch: u64,
    beat_at: Timestamp,
    lease_until: Timestamp,
}

impl MemoryStore {
    /// An empty one.
    pub fn new(clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), tables: Arc::default() }
    }

    /// The same store under the clock of the next process that opens it, which is raised above every time stored.
    #[must_use]
    pub fn reopen(&self, clock: impl Clock) -> Self {
        clock.raise(self.tables().latest());
        Self { clock: Arc::new(clock), tables: Arc::clone(&self.tables) }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("nothing panics while it holds the tables")
    }
}

impl Store for MemoryStore {
    async fn write(&self, batch: Vec<Write>) -> Result<Vec<Written>, Error> {
        let now = self.clock.now();
        let mut tables = self.tables();
        Ok(batch.into_iter().map(|write| tables.write(write, now)).collect())
    }

    async fn get(&self, lookup: Lookup) -> Result<Option<Record>, Error> {
        let tables = self.tables();
        let xid = match lookup {
            Lookup::Xid(xid) => Some(xid),
            Lookup::IdempotencyKey(key) => tables.xids.get(&key).copied(),
        };
        Ok(xid.and_then(|xid| tables.records.get(&xid)).cloned())
    }

    async fn list<Q: Query>(&self, query: Q) -> Result<Vec<Q::Row>, Error> {
        query.read(self).await
    }

    async fn claim_orphans(&self, owner: Owner, limit: u32) -> Result<Vec<Record>, Error> {
        let now = self.clock.now();
        let mut tables = self.tables();
        let Tables { records, nodes, .. } = &mut *tables;
        let gone = |old: Owner| {
            if old.node == owner.node {
                return old.epoch < owner.epoch;
            }
            nodes.get(&old.node).is_some_and(|node| node.lease_until <= now)
        };
        let mut orphans: Vec<&mut Record> = records
            .values_mut()
            .filter(|record| record.ended_at.is_none() && record.wake_at.is_some() && record.owner.is_some_and(gone))
            .collect();
        orphans.sort_by_key(|record| record.owner.map(|owner| (owner.node, owner.epoch)));
        orphans.truncate(limit as usize);
        let mut claimed: Vec<Record> = orphans
            .into_iter()
            .map(|record| {
                record.owner = Some(owner);
                record.version += 1;
                record.clone()
            })
            .collect();
        claimed.sort_unstable_by_key(|record| record.xid);
        Ok(claimed)
    }

    async fn claim_compensations(&self, claim: ClaimCompensations) -> Result<Vec<Claimed>, Error> {
        let mut tables = self.tables();
        let Tables { records, compensations, lessees, .. } = &mut *tables;
        let older = |lessee: &Owner| lessee.node == claim.owner.node && lessee.epoch < claim.owner.epoch;
        let mut due: Vec<&mut Compensation> = compensations
            .values_mut()
            .filter(|row| row.status == CompensationStatus::Pending)
            .filter(|row| row.next_retry_time <= claim.now)
            .filter(|row| row.lease_until <= claim.now || lessees.get(&row.id).is_some_and(older))
            .collect();
        due.sort_by_key(|row| (row.next_retry_time, row.id));
        let mut free: BTreeMap<String, u32> = claim.services.into_iter().collect();
        let mut claimed = Vec::new();
        for row in due {
            if let Some(left) = free.get_mut(&row.service).filter(|left| **left > 0) {
                *left -= 1;
                row.lease_until = claim.lease_until;
                lessees.insert(row.id, claim.owner);
                let record = records.get(&row.xid).cloned();
                claimed.extend(record.map(|record| Claimed { compensation: row.clone(), record }));
            }
        }
        Ok(claimed)
    }

    async fn beat(&self, node: u16, epoch: Option<u64>, lease_ms: u64) -> Result<Beat, Error> {
        let now = self.clock.now();
        let mut tables = self.tables();
        let row = tables.nodes.entry(node).or_insert(Node { epoch: 0, beat_at: now, lease_until: now });
        match epoch {
            None => row.epoch += 1,
            Some(epoch) if epoch != row.epoch => return Err(Error::Superseded { node, epoch }),
            Some(_) => {}
        }
        row.beat_at = now;
        row.lease_until = now.after_ms(lease_ms);
        let epoch = row.epoch;
        let mut backlogs = BTreeMap::<&str, Backlog>::new();
        for row in tables.compensations.values().filter(|row| row.status != CompensationStatus::Done) {
            let backlog = backlogs.entry(&row.service).or_default();
            backlog.failed += u64::from(row.status == CompensationStatus::Failed);
            if row.status == CompensationStatus::Pending {
                backlog.pending += 1;
                backlog.oldest = backlog.oldest.into_iter().chain([row.create_time]).min();
                backlog.due = backlog.due.into_iter().chain([row.next_retry_time]).min();
            }
        }
        let named = backlogs.into_iter().map(|(service, backlog)| Backlog { service: service.to_owned(), ..backlog });
        let mut backlogs: Vec<_> = named.collect();
        backlogs.sort_by_key(|backlog| std::cmp::Reverse(backlog.pending + backlog.failed));
        backlogs.truncate(BACKLOGS_MAX);
        Ok(Beat { now, epoch, backlogs })
    }

    async fn purge(&self, purge: Purge) -> Result<u64, Error> {
        let mut tables = self.tables();
        let ended = tables.records.values().filter_map(|record| Some((record.ended_at?, record.xid)));
        let mut ended: Vec<(Timestamp, Xid)> = ended.collect();
        ended.sort_unstable();
        let too_many = ended.len().saturating_sub(usize::try_from(purge.keep_max).unwrap_or(usize::MAX));
        let too_old = ended.partition_point(|(at, _)| *at < purge.older_than);
        ended.truncate(too_many.max(too_old).min(purge.limit as usize));
        let gone: BTreeSet<Xid> = ended.into_iter().map(|(_, xid)| xid).collect();
        tables.records.retain(|xid, _| !gone.contains(xid));
        tables.xids.retain(|_, xid| !gone.contains(xid));
        tables.keys.retain(|(_, xid)| !gone.contains(xid));
        tables.compensations.retain(|_, row| !gone.contains(&row.xid));
        let Tables { compensations, lessees, .. } = &mut *tables;
        lessees.retain(|id, _| compensations.contains_key(id));
        Ok(gone.len() as u64)
    }
}

impl Lists for MemoryStore {
    async fn transactions(&self, query: ListQuery) -> Result<Vec<Record>, Error> {
        let tables = self.tables();
        let keys: Vec<Key> =
            query.label.map(Key::Label).into_iter().chain(query.business_key.map(Key::Business)).collect();
        let fits = |record: &&Record| {
            record.mode != CANARY_MODE
                && query.status.is_none_or(|status| record.status == status)
                && !(query.unfinished && record.ended_at.is_some())
                && query.before.is_none_or(|before| record.xid < before)
                && query.from.is_none_or(|from| record.xid >= from)
                && (!query.parked || tables.parked(record.xid))
                && keys.iter().all(|key| tables.keys.contains(&(key.clone(), record.xid)))
        };
        Ok(tables.records.values().rev().filter(fits).take(query.limit as usize).cloned().collect())
    }

    async fn compensations(&self, query: CompensationQuery) -> Result<Vec<Compensation>, Error> {
        let fits = |row: &&Compensation| {
            row.id > query.after_id
                && query.status.is_none_or(|status| row.status == status)
                && query.service.as_ref().is_none_or(|service| row.service == *service)
                && query.xid.is_none_or(|xid| row.xid == xid)
        };
        Ok(self.tables().compensations.values().filter(fits).take(query.limit as usize).cloned().collect())
    }

    async fn audit(&self, query: AuditQuery) -> Result<Vec<AuditRow>, Error> {
        let fits = |row: &&AuditRow| {
            row.id > query.after_id
                && query.before_id.is_none_or(|before| row.id < before)
                && query.xid.is_none_or(|xid| row.write.xid == Some(xid))
        };
        let tables = self.tables();
        let fitting: Vec<&AuditRow> = tables.audit.iter().filter(fits).collect();
        let limit = (query.limit as usize).min(fitting.len());
        let from = if query.before_id.is_some() { fitting.len() - limit } else { 0 };
        Ok(fitting[from..from + limit].iter().copied().cloned().collect())
    }
}

impl Tables {
    fn latest(&self) -> Timestamp {
        let made = self.records.keys().next_back().map(|xid| xid.created_at());
        let ended = self.records.values().filter_map(|record| record.ended_at);
        let beats = self.nodes.values().map(|node| node.beat_at);
        made.into_iter().chain(ended).chain(beats).max().unwrap_or_default()
    }

    fn write(&mut self, write: Write, now: Timestamp) -> Written {
        if let Some(why) = refusal(&write) {
            return Written::Refused(why.to_owned());
        }
        match write {
            Write::Create(create) => self.create(create),
            Write::Advance(advance) => self.advance(advance, now),
            Write::Audit(audit) => {
                self.witness(audit, now);
                Written::Done { version: 0 }
            }
        }
    }

    fn witness(&mut self, audit: AuditWrite, now: Timestamp) {
        let head = self.audit.last().and_then(AuditRow::head).unwrap_or_default();
        self.audit.push(AuditRow::after(head, now, audit));
    }

    fn parked(&self, xid: Xid) -> bool {
        self.compensations.values().any(|row| row.xid == xid && row.status == CompensationStatus::Failed)
    }

    fn create(&mut self, create: Create) -> Written {
        if self.records.contains_key(&create.xid) {
            return Written::Stale;
        }
        if let Some(key) = &create.idempotency_key {
            if let Some(record) = self.xids.get(key).and_then(|xid| self.records.get(xid)) {
                return Written::KeyTaken(Box::new(record.clone()));
            }
            self.xids.insert(key.clone(), create.xid);
        }
        self.keys.extend(create.keys.into_iter().map(|key| (key, create.xid)));
        let record = Record {
            xid: create.xid,
            version: 1,
            mode: create.mode,
            status: create.status,
            ended_at: create.ended_at,
            owner: Some(create.owner),
            wake_at: create.wake_at,
            idempotency_key: create.idempotency_key,
            digest: create.digest,
            plan: create.plan,
            state: create.state,
        };
        self.records.insert(create.xid, record);
        Written::Done { version: 1 }
    }

    fn advance(&mut self, advance: Advance, now: Timestamp) -> Written {
        let Some(record) = self.records.get_mut(&advance.xid).filter(|record| record.version == advance.version) else {
            return Written::Stale;
        };
        record.version += 1;
        record.status = advance.status;
        record.ended_at = advance.ended_at;
        record.owner = advance.owner;
        record.wake_at = advance.wake_at;
        record.state = advance.state;
        let version = record.version;
        self.keys.extend(advance.keys.into_iter().map(|key| (key, advance.xid)));
        for row in advance.compensations {
            self.compensate(advance.xid, row, now);
        }
        if let Some(audit) = advance.audit {
            self.witness(*audit, now);
        }
        Written::Done { version }
    }

    fn compensate(&mut self, xid: Xid, write: CompensationWrite, now: Timestamp) {
        let named = |row: &&Compensation| (row.xid, row.branch, row.operation) == (xid, write.branch, write.operation);
        let before = self.compensations.values().find(named);
        let (id, create_time) = before.map_or((self.last_id + 1, now), |row| (row.id, row.create_time));
        self.last_id = self.last_id.max(id);
        let row = Compensation {
            id,
            xid,
            branch: write.branch,
            operation: write.operation,
            service: write.service,
            coupon_id: write.coupon_id,
            status: write.status,
            retry_count: write.retry_count,
            create_time,
            update_time: now,
            next_retry_time: write.next_retry_time,
            lease_until: Timestamp(0),
            last_error: write.last_error,
        };
        self.compensations.insert(id, row);
    }
}

/// What a database would have against a write.
fn refusal(write: &Write) -> Option<&'static str> {
    let (key, keys) = match write {
        Write::Create(create) => (create.idempotency_key.as_deref(), &create.keys),
        Write::Advance(advance) => (None, &advance.keys),
        Write::Audit(_) => return None,
    };
    if key.is_some_and(|key| key.len() > IDEMPOTENCY_KEY_BYTES_MAX) {
        return Some("the idempotency key is too long");
    }
    let too_long = |key: &Key| match key {
        Key::Label(text) | Key::Business(text) => text.len() > KEY_BYTES_MAX,
    };
    keys.iter().any(too_long).then_some("a key is too long")
}

#[cfg(test)]
mod tests {
    use crate::clock::ManualClock;
    use crate::store::conformance::{Bench, START};

    struct InMemory(super::MemoryStore, ManualClock);

    impl InMemory {
        async fn fresh() -> Self {
            let clock = ManualClock::at(START);
            Self(super::MemoryStore::new(clock.clone()), clock)
        }
    }

    impl Bench for InMemory {
        type Store = super::MemoryStore;

        async fn open(&self) -> Self::Store {
            self.0.clone()
        }

        fn clock(&self) -> &ManualClock {
            &self.1
        }
    }

    crate::store_conformance!(InMemory::fresh().await);
}
