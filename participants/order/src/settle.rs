//! The end of a refund: from then on nothing takes it back.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use tercet::participant::{Answer, DbTx, Op, SliceCompensable};
use tercet_proto::order::v1 as pb;

use crate::store::{Key, Standing, Status, Store};

/// [`SETTLE_REFUND`](crate::SETTLE_REFUND). It comes last in a refund, and is never refused where the order's part of
/// that was done.
#[derive(Debug)]
pub struct SettleRefund<Db> {
    database: PhantomData<fn() -> Db>,
}

impl<Db> SettleRefund<Db> {
    /// It tells nothing: that an order is refunded was told with its refund.
    pub const fn new() -> Self {
        Self { database: PhantomData }
    }
}

impl<Db> Default for SettleRefund<Db> {
    fn default() -> Self {
        Self::new()
    }
}

/// Says of each whether its refund is final, which has to be the other before.
async fn settle<Db: Store>(
    db_tx: &mut DbTx<Db>,
    operations: &[Op<pb::SettleRefund>],
    is_final: bool,
) -> sqlx::Result<Vec<Answer>> {
    let key = |op: &Op<pb::SettleRefund>| Key { shop_id: op.request.shop_id, order_id: op.request.order_id };
    let keys: Vec<Key> = operations.iter().map(key).collect::<BTreeSet<Key>>().into_iter().collect();
    let found = Db::standings(db_tx, &keys).await?;
    let found: BTreeMap<Key, Standing> = found.into_iter().map(|order| (order.key, order)).collect();
    let mut settled = BTreeSet::new();
    let mut step = |op: &Op<pb::SettleRefund>| {
        let key = key(op);
        match found.get(&key) {
            None => Answer::refused(format!("{key} does not exist")),
            Some(order) if order.status != Status::Refunded => {
                Answer::refused(format!("{key} is {}", order.status.name()))
            }
            Some(order) if order.is_refunding() == is_final && settled.insert(key) => Answer::done(),
            Some(_) => {
                let stands = if is_final { "final" } else { "not final" };
                Answer::refused(format!("the refund of {key} is {stands}"))
            }
        }
    };
    let answers = operations.iter().map(&mut step).collect();
    let orders: Vec<(Key, bool)> = settled.into_iter().map(|key| (key, is_final)).collect();
    Db::end_refunds(db_tx, &orders).await?;
    Ok(answers)
}

impl<Db: Store> SliceCompensable for SettleRefund<Db> {
    type Db = Db;
    type Request = pb::SettleRefund;

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::SettleRefund>]) -> sqlx::Result<Vec<Answer>> {
        settle::<Db>(db_tx, operations, true).await
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::SettleRefund>]) -> sqlx::Result<Vec<Answer>> {
        settle::<Db>(db_tx, operations, false).await
    }
}
