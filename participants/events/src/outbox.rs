//! Events are written in the local transaction of what they tell, so that either both happened or neither.

use std::sync::Arc;

use sqlx::Pool;
use tercet::participant::DbTx;
use tercet::tables;
use tokio::sync::watch;

use crate::event::Event;
use crate::limits::{APPEND_BYTES_MAX, EVENT_BYTES_MAX};
use crate::store::{Row, Store};

/// Where a service writes its events.
///
/// Append after the statements that change the rows which the event is about: then two events of one user are in the
/// order of their changes, since the second change waits for the commit of the first, and ids only rise. Events of
/// transactions that do not wait for each other have no order of their own.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    written: Option<Arc<watch::Sender<()>>>,
}

impl Outbox {
    /// Of a service without a bus: nothing is written, and no event is even made.
    pub const fn off() -> Self {
        Self { written: None }
    }

    /// Whether anything is written: what is read for events alone need not be read without.
    pub const fn is_on(&self) -> bool {
        self.written.is_some()
    }

    /// Over the databases of a service, in which its tables are made where they are missing. What is written is
    /// published by a [`Relay`](crate::relay::Relay) for each of them.
    ///
    /// # Errors
    /// Those of [`tables::Error`].
    pub async fn open<Db: Store>(pools: &[Pool<Db>]) -> Result<Self, tables::Error> {
        for pool in pools {
            Db::migrate_events(pool).await?;
        }
        Ok(Self { written: Some(Arc::default()) })
    }

    /// Writes events in this order, in the caller's local transaction: one statement for all of them, unless they are
    /// larger than 2 MiB. Without a bus the iterator is not touched.
    ///
    /// # Errors
    /// The database's, and [`sqlx::Error::Encode`] for an event of more than 512 KiB.
    pub async fn append<Db: Store>(
        &self,
        db_tx: &mut DbTx<Db>,
        events: impl IntoIterator<Item = Event, IntoIter: Send> + Send,
    ) -> sqlx::Result<()> {
        let Some(written) = &self.written else { return Ok(()) };
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for event in events {
            let (topic, key) = event.place();
            let payload = event.encode();
            if payload.len() > EVENT_BYTES_MAX {
                let text = format!("an event has {} bytes: at most {EVENT_BYTES_MAX}", payload.len());
                return Err(sqlx::Error::Encode(text.into()));
            }
            bytes += payload.len();
            let (topic, key) = (topic.name().to_owned(), key.to_string());
            rows.push(Row { topic, key, at_ms: None, letter: None, payload });
            if bytes > APPEND_BYTES_MAX {
                Db::outbox_append(db_tx, &rows).await?;
                rows.clear();
                bytes = 0;
            }
        }
        if !rows.is_empty() {
            Db::outbox_append(db_tx, &rows).await?;
        }
        // The relay looks a little later, when the transaction has most likely been committed.
        written.send_replace(());
        Ok(())
    }

    /// Is told whenever something was written here.
    pub(crate) fn written(&self) -> Option<watch::Receiver<()>> {
        self.written.as_ref().map(|written| written.subscribe())
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use sqlx::Sqlite;
    use sqlx::sqlite::SqlitePoolOptions;
    use tercet_proto::events::v1 as pb;

    use super::*;
    use crate::event::Payload;

    #[tokio::test]
    async fn the_relay_is_told_at_once_of_what_is_written_and_of_nothing_that_is_not() {
        let options = SqlitePoolOptions::new().max_connections(1);
        let pool: Pool<Sqlite> = options.connect("sqlite::memory:").await.unwrap();
        let outbox = Outbox::open(std::slice::from_ref(&pool)).await.unwrap();
        let told = outbox.written().unwrap();
        let of = |operator: &str| {
            let used = pb::CouponUsed { operator: operator.to_owned(), ..pb::CouponUsed::default() };
            Event::new(1, Payload::CouponUsed(used))
        };
        let mut db = pool.acquire().await.unwrap();
        outbox.append::<Sqlite>(&mut db, [of(&"x".repeat(EVENT_BYTES_MAX))]).await.unwrap_err();
        assert!(!told.has_changed().unwrap());
        outbox.append::<Sqlite>(&mut db, [of("ann")]).await.unwrap();
        assert!(told.has_changed().unwrap());
    }
}
