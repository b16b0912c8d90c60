//! What a coordinator does beside driving: renews its lease, takes up what nobody drives, deletes what is old.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tercet_core::{Event, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::{BEAT_MS, LEASE_MS};
use crate::driver::{Gauges, Settings};
use crate::live::Live;
use crate::outage::Outage;
use crate::request::Input;
use crate::store::{self, ListQuery, Purge, Record, Store};
use crate::{limits, metrics, writer};

/// Keeps the node alive and takes up what nobody drives.
pub struct Node<S, K> {
    /// Where it is registered.
    pub store: Arc<S>,
    /// The store's time.
    pub clock: K,
    /// The driver.
    pub inbox: mpsc::Sender<Input>,
    /// How the driver is doing.
    pub gauges: Arc<Gauges>,
    /// What the driver was told.
    pub settings: Settings,
}

impl<S: Store, K: Clock> Node<S, K> {
    /// Beats until the driver is gone, or until another start of this node takes over, which `superseded` hears.
    pub async fn run(self, superseded: oneshot::Sender<store::Error>) {
        let owner = self.settings.owner;
        let (mut beating, mut looking) = (Outage::new("renewing the lease"), Outage::new("looking for orphans"));
        let mut shown = BTreeSet::new();
        // Whether a claim may have made transactions this node's without showing them.
        let mut unseen = false;
        // Everything that an older start of this node owned is due at once; what other nodes lose, when their lease
        // lapses.
        self.take_up(&mut looking, &mut unseen).await;
        loop {
            tokio::time::sleep(Duration::from_millis(BEAT_MS)).await;
            match self.store.beat(owner.node, Some(owner.epoch), LEASE_MS).await {
                Ok(beat) => {
                    beating.over();
                    self.clock.raise(beat.now);
                    metrics::backlogs(&beat.backlogs, &mut shown, beat.now);
                    *self.gauges.backlogs.lock().unwrap_or_else(PoisonError::into_inner) = beat.backlogs;
                    let end = writer::lease_end(beat.now, LEASE_MS);
                    if self.inbox.send(Input::Lease { end }).await.is_err() {
                        return;
                    }
                }
                Err(error @ store::Error::Superseded { .. }) => {
                    error!(error = &error as &dyn std::error::Error, "another start of this node has taken over");
                    drop(superseded.send(error));
                    return;
                }
                Err(error) => beating.failed(&error),
            }
            self.take_up(&mut looking, &mut unseen).await;
        }
    }

    async fn take_up(&self, looking: &mut Outage, unseen: &mut bool) {
        loop {
            let records = match self.store.claim_orphans(self.settings.owner, limits::ORPHANS_MAX).await {
                Ok(records) => records,
                Err(error) => {
                    *unseen = true;
                    return looking.failed(&error);
                }
            };
            looking.over();
            if !records.is_empty() {
                info!(transactions = records.len(), "taking up what nobody drives");
            }
            let last = records.len() < limits::ORPHANS_MAX as usize;
            for record in records {
                self.adopt(&record).await;
            }
            if last {
                break;
            }
        }
        if *unseen {
            match self.take_up_own().await {
                Ok(()) => *unseen = false,
                Err(error) => warn!(error = &error as &dyn std::error::Error, "could not look for what this node owns"),
            }
        }
    }

    /// Takes up what is this node's by the store. What the driver has already is only woken, which changes nothing.
    async fn take_up_own(&self) -> Result<(), store::Error> {
        let mut before = None;
        loop {
            let query = ListQuery { unfinished: true, before, limit: limits::PAGE_MAX, ..ListQuery::default() };
            let records = self.store.list(query).await?;
            let Some(last) = records.last() else { return Ok(()) };
            before = Some(last.xid);
            for record in &records {
                if record.owner == Some(self.settings.owner) && record.wake_at.is_some() {
                    self.adopt(record).await;
                }
            }
        }
    }

    async fn adopt(&self, record: &Record) {
        match Live::decode(record) {
            Ok(live) => {
                let input = Input::Adopt { live: Box::new(live), event: Event::Woken };
                // When the driver is gone, the next one takes it up.
                drop(self.inbox.send(input).await);
            }
            Err(error) => error!(xid = %record.xid, error = &error as &dyn std::error::Error, "not taken up"),
        }
    }
}

/// Deletes what has ended long enough ago, a little at a time.
/// Never ends.
pub async fn purge<S: Store, K: Clock>(store: Arc<S>, clock: K, retention_seconds: u64, retention_max: u64) {
    let mut purging = Outage::new("deleting what ended long ago");
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let older_than = clock.now().0.saturating_sub(retention_seconds.saturating_mul(1_000));
        let request =
            Purge { older_than: Timestamp(older_than), keep_max: retention_max, limit: limits::PURGE_ROWS_MAX };
        loop {
            match store.purge(request).await {
                Ok(deleted) if deleted >= u64::from(limits::PURGE_ROWS_MAX) => {
                    // Between two of these the writer gets its turn.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Ok(_) => {
                    purging.over();
                    break;
                }
                Err(error) => {
                    purging.failed(&error);
                    break;
                }
            }
        }
    }
}
