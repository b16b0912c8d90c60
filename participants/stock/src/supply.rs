//! How many units of an item there are in all.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use tercet::conserve::Change as Moved;
use tercet::fence::Dialect;
use tercet::participant::{Answer, DbTx, Op, SliceCompensable};
use tercet_proto::stock::v1 as pb;

use crate::store::Store;
use crate::{UNITS_MAX, units};

/// [`SUPPLY`](crate::SUPPLY). Units come from outside and go there, which the book is told here: what a supply brings
/// hangs on what there is, so it is not to be read from the request.
#[derive(Debug)]
pub struct Supply<Db>(pub PhantomData<fn() -> Db>);

fn fault(request: &pb::Supply) -> Option<String> {
    let &pb::Supply { item, units, sequence } = request;
    if item < 1 || sequence < 1 {
        let (name, value) = if item < 1 { ("item", item) } else { ("sequence", sequence) };
        return Some(format!("{name} is {value}: it is at least 1"));
    }
    (!(0..=UNITS_MAX).contains(&units)).then(|| format!("units is {units}: it is 0 to {UNITS_MAX}"))
}

impl<Db: Store + Dialect> SliceCompensable for Supply<Db> {
    type Db = Db;
    type Request = pb::Supply;

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Supply>]) -> sqlx::Result<Vec<Answer>> {
        // Of several for one item the latest counts, in whatever order they come.
        let mut latest = BTreeMap::<i64, (i64, i64)>::new();
        let mut take = |request: &pb::Supply| {
            if let Some(fault) = fault(request) {
                return Answer::refused(fault);
            }
            let wanted = latest.entry(request.item).or_default();
            *wanted = (*wanted).max((request.sequence, request.units));
            Answer::done()
        };
        let answers = operations.iter().map(|op| take(&op.request)).collect();
        if latest.is_empty() {
            return Ok(answers);
        }
        // An item that does not exist can not be locked.
        let items: Vec<i64> = latest.keys().copied().collect();
        Db::add(db_tx, &items.iter().map(|item| (*item, 0)).collect::<Vec<_>>()).await?;
        let (mut supplies, mut moved) = (Vec::new(), Vec::new());
        for level in Db::levels(db_tx, &items).await? {
            let (sequence, wanted) = latest[&level.item];
            // The same again takes what has been given back since, of what it did not want.
            let gone = level.excess.min(level.free);
            if sequence == level.sequence && gone > 0 {
                supplies.push((level.item, -gone, sequence, level.excess - gone));
                moved.push((level.item, Moved { free: -gone, ..Moved::default() }));
            }
            if sequence > level.sequence {
                let units = (wanted - level.total()).max(-level.free);
                supplies.push((level.item, units, sequence, level.total() + units - wanted));
                moved.push((level.item, Moved { free: units, ..Moved::default() }));
            }
        }
        if !supplies.is_empty() {
            Db::supply(db_tx, &supplies).await?;
            units().enter(db_tx, None, &moved).await?;
        }
        Ok(answers)
    }

    async fn cancel(&self, _: &mut DbTx<Db>, operations: &[Op<pb::Supply>]) -> sqlx::Result<Vec<Answer>> {
        Ok(vec![Answer::done(); operations.len()])
    }
}
