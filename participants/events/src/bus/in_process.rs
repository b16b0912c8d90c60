//! Events within one process. Nothing is kept here: an event stays in its outbox until every group has taken it, and a
//! consumer that is slow holds up the outboxes that write for it.

use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::{Delivered, Error, Group, Record};
use crate::limits::BATCH_ROWS_MAX;
use crate::settings::Refused;

/// Batches that wait for one group: one of each outbox that writes for it.
const WAITING_MAX: usize = 16;

type Parcel = (Vec<Delivered>, oneshot::Sender<()>);

#[derive(Clone, Debug)]
pub(super) struct Bus(Arc<[Seat]>);

/// One group and what waits for it, whether a consumer sits there or not.
#[derive(Debug)]
struct Seat {
    group: Group,
    sender: mpsc::Sender<Parcel>,
    receiver: Arc<Mutex<mpsc::Receiver<Parcel>>>,
}

impl Bus {
    pub(super) fn new(groups: &[Group]) -> Self {
        let seat = |group: &Group| {
            let (sender, receiver) = mpsc::channel(WAITING_MAX);
            Seat { group: *group, sender, receiver: Arc::new(Mutex::new(receiver)) }
        };
        Self(groups.iter().map(seat).collect())
    }

    pub(super) async fn publish(&self, records: &[Record]) -> Result<(), Error> {
        try_join_all(self.0.iter().map(|seat| seat.put(records))).await.map(drop)
    }

    pub(super) fn subscribe(&self, group: &Group) -> Result<Subscription, Refused> {
        let seat = self.0.iter().find(|seat| seat.group.name == group.name);
        let seat = seat.ok_or_else(|| Refused(format!("the bus was not made for the group {}", group.name)))?;
        Ok(Subscription(seat.receiver.clone()))
    }
}

impl Seat {
    /// Waits until the group has taken all of these that it is told.
    async fn put(&self, records: &[Record]) -> Result<(), Error> {
        let told = |record: &&Record| self.group.topics.iter().any(|topic| topic.name() == record.topic);
        let delivered = |record: &Record| Delivered {
            topic: record.topic.clone(),
            partition: 0,
            key: record.key.clone(),
            place: (record.source.clone(), record.sequence),
            payload: record.payload.clone(),
        };
        let events: Vec<Delivered> = records.iter().filter(told).map(delivered).collect();
        if events.is_empty() {
            return Ok(());
        }
        let (done, is_done) = oneshot::channel();
        self.sender.send((events, done)).await.map_err(|_| Error::Gone)?;
        is_done.await.map_err(|_| Error::Gone)
    }
}

pub(super) struct Subscription(Arc<Mutex<mpsc::Receiver<Parcel>>>);

/// Dropped, it tells the outboxes that their events were not taken.
pub(super) struct Receipt(Vec<oneshot::Sender<()>>);

impl Subscription {
    pub(super) async fn next(&mut self) -> Result<(Vec<Delivered>, Receipt), Error> {
        let mut parcels = self.0.lock().await;
        let (mut events, done) = parcels.recv().await.ok_or(Error::Gone)?;
        let mut receipt = Receipt(vec![done]);
        while events.len() < BATCH_ROWS_MAX
            && let Ok((more, done)) = parcels.try_recv()
        {
            events.extend(more);
            receipt.0.push(done);
        }
        Ok((events, receipt))
    }
}

impl Receipt {
    pub(super) fn done(self) {
        for done in self.0 {
            // Whoever published it may have stopped since.
            let _ = done.send(());
        }
    }
}
