//! Publishes what an outbox holds: in order, at least once, one relay at a time for each database.
//!
//! A round is one local transaction, which deletes the batch that was published and notes the ids of the next one, and
//! one call of the bus. The relay numbers events as it takes them, and a batch that was noted is published again with
//! the same numbers after a crash. So numbers rise in each partition but for repeats, and a consumer knows a repeat by
//! its number alone, whoever published it: a relay that was frozen, and thinks it is still the one, publishes nothing
//! but repeats, since its next round finds another epoch in the database.
//!
//! Rows are taken by id. An id says when a row was written, not when it was committed: a lower one may appear after a
//! higher one was taken. It is taken then; nothing keeps a place among the ids. Two events of one user whose
//! transactions waited for each other, as [`Outbox`] asks for, have rising ids and appear in their order.

use std::time::Duration;

use bytes::Bytes;
use sqlx::Pool;
use tercet::beside::{Failure, Stop};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::bus::{Bus, Error, Record};
use crate::event::Stamp;
use crate::limits::{BATCH_ROWS_MAX, GATHER, LEASE, LOOK, POLL, RETRY_FIRST, RETRY_MAX, STOP_MAX};
use crate::metrics;
use crate::outbox::Outbox;
use crate::store::{Lease, Look, Store, Waiting};

/// The relay of one database of a service.
#[derive(Debug)]
pub struct Relay<Db: Store> {
    service: &'static str,
    place: usize,
    pool: Pool<Db>,
    bus: Bus,
    /// Who it is among the relays of this database.
    owner: String,
    lease: Duration,
    written: Option<watch::Receiver<()>>,
}

/// Why a round came to nothing.
enum Trouble {
    /// Somebody else relays now.
    Lost,
    /// Asked again later.
    Database(sqlx::Error),
    /// Nothing helps but other settings.
    Refused(Failure),
    Stopped,
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl<Db: Store> Relay<Db> {
    /// Of the database at this place of the service, to which `outbox` writes.
    pub fn new(service: &'static str, place: usize, pool: Pool<Db>, outbox: &Outbox, bus: Bus) -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        let owner = format!("{}-{:016x}", std::process::id(), RandomState::new().hash_one(place));
        Self { service, place, pool, bus, owner, lease: LEASE, written: outbox.written() }
    }

    /// How long this process keeps others from relaying when it dies; 10 seconds by default.
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Publishes until it is told to stop.
    ///
    /// # Errors
    /// When the bus refuses its settings. Everything else is tried again.
    pub async fn run(self, stop: Stop) -> Result<(), Failure> {
        let (relaying, is_relaying) = watch::channel(false);
        let looking = look(self.service, self.place, self.pool.clone(), is_relaying);
        tokio::select! {
            ended = self.relay(stop, relaying) => ended,
            () = looking => Ok(()),
        }
    }

    async fn relay(mut self, mut stop: Stop, relaying: watch::Sender<bool>) -> Result<(), Failure> {
        let mut pause = RETRY_FIRST;
        while !stop.is_requested() {
            let trouble = match self.take().await {
                Ok(Some(lease)) => {
                    relaying.send_replace(true);
                    pause = RETRY_FIRST;
                    self.hold(lease, &mut stop).await
                }
                Ok(None) => Trouble::Lost,
                Err(error) => Trouble::Database(error),
            };
            relaying.send_replace(false);
            let wait = match trouble {
                Trouble::Stopped => break,
                Trouble::Refused(failure) => return Err(failure),
                Trouble::Lost => self.lease / 3,
                Trouble::Database(error) => {
                    warn!(service = self.service, place = self.place, %error, "the outbox can not be read");
                    pause = (pause * 2).min(RETRY_MAX);
                    pause
                }
            };
            tokio::select! {
                () = stop.requested() => {}
                () = sleep(wait) => {}
            }
        }
        Ok(())
    }

    async fn take(&self) -> sqlx::Result<Option<Lease>> {
        let mut db = self.pool.acquire().await?;
        Db::outbox_take(&mut db, &self.owner, self.lease_ms(), self.bus.is_alone()).await
    }

    fn lease_ms(&self) -> i64 {
        i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX)
    }

    /// Relays while it has the lease.
    async fn hold(&mut self, mut lease: Lease, stop: &mut Stop) -> Trouble {
        info!(service = self.service, place = self.place, epoch = lease.epoch, "relaying");
        let trouble = match self.rounds(&mut lease, stop).await {
            Ok(()) => Trouble::Stopped,
            Err(trouble) => trouble,
        };
        if matches!(trouble, Trouble::Stopped) {
            // The next one need not wait; where this fails, it does.
            if let Ok(mut db) = self.pool.acquire().await {
                let _ = Db::outbox_renew(&mut db, lease.epoch, 0).await;
            }
        }
        trouble
    }

    /// Ends when it is told to stop.
    async fn rounds(&mut self, lease: &mut Lease, stop: &mut Stop) -> Result<(), Trouble> {
        // What an earlier relay had begun.
        let mut rows = Db::outbox_batch(&mut *self.pool.acquire().await?, lease).await?;
        loop {
            if !rows.is_empty() {
                let full = rows.len() >= BATCH_ROWS_MAX / 2;
                let records = records(lease, rows);
                self.publish(&records, lease.epoch, stop).await?;
                if !full {
                    sleep(GATHER).await;
                }
            }
            if lease.batch.is_empty() {
                self.wait(lease.epoch, stop).await?;
            }
            rows = self.advance(lease).await?;
            if stop.is_requested() {
                return Ok(());
            }
        }
    }

    /// Publishes these, however long it takes, and keeps the lease meanwhile.
    async fn publish(&self, records: &[Record], epoch: i64, stop: &mut Stop) -> Result<(), Trouble> {
        let began = Instant::now();
        let mut pause = RETRY_FIRST;
        let publishing = async {
            loop {
                match self.bus.publish(records).await {
                    Ok(()) => return Ok(()),
                    Err(Error::Refused(refused)) => return Err(Trouble::Refused(refused.into())),
                    Err(error @ (Error::Unavailable(_) | Error::Gone)) => {
                        metrics::publish_failed(self.service);
                        warn!(service = self.service, %error, "events can not be published");
                        sleep(pause).await;
                        pause = (pause * 2).min(RETRY_MAX);
                    }
                }
            }
        };
        tokio::pin!(publishing);
        // Within a process whoever takes them stops too.
        let grace = if self.bus.is_alone() { Duration::ZERO } else { STOP_MAX };
        let published = loop {
            tokio::select! {
                published = &mut publishing => break published,
                () = sleep(self.lease / 3) => self.keep(epoch).await?,
                () = stop.requested() => break timeout(grace, &mut publishing).await.unwrap_or(Err(Trouble::Stopped)),
            }
        };
        published?;
        metrics::batch_published(self.service, began.elapsed());
        let mut counted = 0;
        while let Some(first) = records.get(counted) {
            let same = records[counted..].iter().take_while(|record| record.topic == first.topic).count();
            metrics::published(self.service, &first.topic, same as u64);
            counted += same;
        }
        Ok(())
    }

    /// Waits until there is something to publish.
    async fn wait(&mut self, epoch: i64, stop: &mut Stop) -> Result<(), Trouble> {
        let mut kept = Instant::now();
        while !Db::outbox_any(&mut *self.pool.acquire().await?).await? {
            let told = match &mut self.written {
                Some(written) => timeout(POLL, written.changed()),
                None => return Err(Trouble::Stopped),
            };
            tokio::select! {
                told = told => if told.is_ok() {
                    sleep(GATHER).await;
                },
                () = stop.requested() => return Err(Trouble::Stopped),
            }
            if kept.elapsed() > self.lease / 3 {
                self.keep(epoch).await?;
                kept = Instant::now();
            }
        }
        Ok(())
    }

    /// Keeps the lease. One that nobody else wants needs no care.
    async fn keep(&self, epoch: i64) -> Result<(), Trouble> {
        if self.bus.is_alone() {
            return Ok(());
        }
        let kept = Db::outbox_renew(&mut *self.pool.acquire().await?, epoch, self.lease_ms()).await?;
        if kept { Ok(()) } else { Err(Trouble::Lost) }
    }

    async fn advance(&self, lease: &mut Lease) -> Result<Vec<Waiting>, Trouble> {
        let mut db_tx = self.pool.begin_with(Db::BEGIN_WRITE).await?;
        match Db::outbox_next(&mut db_tx, lease, self.lease_ms()).await? {
            Some(rows) => {
                db_tx.commit().await?;
                Ok(rows)
            }
            None => Err(Trouble::Lost),
        }
    }
}

/// These rows of the batch, numbered by their places in it.
fn records(lease: &Lease, rows: Vec<Waiting>) -> Vec<Record> {
    let record = |Waiting { id, at_ms, mut row }: Waiting| {
        let place = lease.batch.partition_point(|before| *before < id);
        let sequence = lease.sequence + i64::try_from(place).unwrap_or(i64::MAX);
        // A dead letter stays as it is: what it would be overwritten with says where it was.
        if row.letter.is_none() {
            let sequence = sequence.unsigned_abs();
            Stamp { source: &lease.source, sequence, occurred_ms: at_ms, only_group: "" }.put_on(&mut row.payload);
        }
        Record {
            topic: row.topic,
            key: row.key,
            source: lease.source.clone(),
            sequence,
            letter: row.letter,
            payload: Bytes::from(row.payload),
        }
    };
    rows.into_iter().map(record).collect()
}

/// Tells how much waits, as long as this process relays it.
async fn look<Db: Store>(service: &'static str, place: usize, pool: Pool<Db>, relaying: watch::Receiver<bool>) {
    let mut told = false;
    loop {
        sleep(LOOK).await;
        let look = if *relaying.borrow() {
            match pool.acquire().await {
                Ok(mut db) => Db::outbox_look(&mut db).await.ok(),
                Err(_) => None,
            }
        } else {
            told.then(Look::default)
        };
        if let Some(look) = look {
            metrics::looked(service, place, &look);
            told = look != Look::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Row;

    #[test]
    fn a_row_keeps_its_number_when_others_of_its_batch_are_gone() {
        let lease = Lease { epoch: 1, source: "s".into(), batch: vec![3, 5, 8], sequence: 100 };
        let row = |id| {
            let (topic, key) = ("coupon".to_owned(), "7".to_owned());
            Waiting { id, at_ms: 1, row: Row { topic, key, at_ms: None, letter: None, payload: Vec::new() } }
        };
        let numbers = |rows: Vec<Waiting>| records(&lease, rows).iter().map(|one| one.sequence).collect::<Vec<_>>();
        assert_eq!(numbers(vec![row(3), row(5), row(8)]), [100, 101, 102]);
        assert_eq!(numbers(vec![row(3), row(8)]), [100, 102]);
    }
}
