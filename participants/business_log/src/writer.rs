//! The consumer that writes the log: one statement for each batch of events.

use std::marker::PhantomData;

use tercet::participant::DbTx;
use tercet_events::bus::Group;
use tercet_events::consumer::{Consumer, Trouble};
use tercet_events::event::Topic;
use tercet_proto::events::v1 as pb;

use crate::entry::{Entry, entries};
use crate::store::Store;

/// This consumer.
pub const GROUP: Group = Group { name: "business_log", topics: &[Topic::Coupon, Topic::Order, Topic::Operator] };

/// Writes events to the log of this kind of database.
#[derive(Debug)]
pub struct Writer<Db>(PhantomData<fn() -> Db>);

impl<Db> Default for Writer<Db> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Db: Store> Consumer for Writer<Db> {
    type Db = Db;
    const GROUP: Group = GROUP;

    async fn consume(&self, db_tx: &mut DbTx<Db>, events: &[pb::Event]) -> Result<(), Trouble> {
        let rows: Vec<Entry> = events.iter().flat_map(entries).collect();
        Ok(Db::write(db_tx, &rows).await?)
    }
}
