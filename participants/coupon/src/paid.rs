//! Being told that an order was paid.

use std::marker::PhantomData;
use std::sync::Arc;

use tercet::fence::Dialect;
use tercet::participant::{Answer, DbTx, Op, Place, SliceReceiver};
use tercet_proto::order::v1::Paid as PaidNotice;
use tercet_shards::Slot;

use crate::fault;
use crate::slots::Slots;
use crate::store::{Notice, Store};

/// [`PAID`](crate::PAID).
#[derive(Debug)]
pub struct Paid<Db> {
    slots: Arc<Slots>,
    db: PhantomData<fn() -> Db>,
}

impl<Db> Paid<Db> {
    /// With rows where these slots are.
    pub fn new(slots: &Arc<Slots>) -> Self {
        Self { slots: Arc::clone(slots), db: PhantomData }
    }
}

impl<Db: Store + Dialect> SliceReceiver for Paid<Db> {
    type Db = Db;
    type Request = PaidNotice;

    fn place(&self, request: &PaidNotice) -> Option<Place> {
        self.slots.place(Slot::of_user(request.user_id))
    }

    async fn deliver(&self, db_tx: &mut DbTx<Db>, operations: &[Op<PaidNotice>]) -> sqlx::Result<Vec<Answer>> {
        let (mut notices, mut answers) = (Vec::new(), Vec::with_capacity(operations.len()));
        for op in operations {
            let PaidNotice { order_id, user_id, paid_cents, shop_id } = op.request;
            let fault = fault([
                ("order_id", order_id, 1),
                ("user_id", user_id, 1),
                ("paid_cents", paid_cents, 0),
                ("shop_id", shop_id, 0),
            ]);
            if fault.is_none() {
                let slot = Slot::of_user(user_id).number();
                notices.push(Notice { order_id, shop_id, user_id, paid_cents, slot });
            }
            answers.push(fault.map_or_else(Answer::done, Answer::refused));
        }
        notices.sort_unstable();
        Db::note_paid(db_tx, &notices).await?;
        Ok(answers)
    }
}
