//! A redemption that is kept, carried out by a transaction or taken back by one.
//!
//! Its row moves in the commits of the branches that use its coupons, so how it stands is known where it is kept,
//! whoever asked for it is gone by then or not. A row that was given up, or has another transaction by now, refuses.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use tercet::fence::Dialect;
use tercet::participant::{Answer, DbTx, Op, Place, SliceCompensable, SliceParticipant};
use tercet_proto::coupon::v1 as pb;
use tercet_rules::Code;
use tercet_shards::Slot;

use crate::slots::Slots;
use crate::store::redemptions::{Redemptions, Refund, State, Step};

/// [`HONOUR`](crate::HONOUR).
#[derive(Debug)]
pub struct HonourIt<Db> {
    slots: Arc<Slots>,
    db: PhantomData<fn() -> Db>,
}

impl<Db> HonourIt<Db> {
    /// With rows where these slots are.
    pub fn new(slots: &Arc<Slots>) -> Self {
        Self { slots: Arc::clone(slots), db: PhantomData }
    }
}

fn step(request: &pb::Honour, from: State, to: State) -> Step<'static> {
    let &pb::Honour { redemption_id, attempt } = request;
    Step { redemption_id, from, to, attempt: Some(attempt), refund: None }
}

impl<Db: Redemptions + Dialect> SliceParticipant for HonourIt<Db> {
    type Db = Db;
    type Request = pb::Honour;

    fn place(&self, request: &pb::Honour) -> Option<Place> {
        self.slots.place(Slot::of_id(request.redemption_id))
    }

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Honour>]) -> sqlx::Result<Vec<Answer>> {
        let ids = operations.iter().map(|op| op.request.redemption_id);
        let mut standings = standings::<Db>(db_tx, ids).await?;
        let mut steps = Vec::with_capacity(operations.len());
        let mut begin = |request: &pb::Honour| {
            let wanted = (State::Kept, request.attempt);
            match standings.get_mut(&request.redemption_id) {
                Some(standing) if *standing == wanted => {
                    standing.0 = State::Submitted;
                    steps.push(step(request, State::Kept, State::Submitted));
                    Answer::done()
                }
                Some(_) | None => Answer::refused(Code::SystemBusy.fault([]).reason()),
            }
        };
        let answers = operations.iter().map(|op| begin(&op.request)).collect();
        advance::<Db>(db_tx, &steps).await?;
        Ok(answers)
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Honour>]) -> sqlx::Result<Vec<Answer>> {
        let steps = operations.iter().map(|op| step(&op.request, State::Submitted, State::Done));
        advance::<Db>(db_tx, &steps.collect::<Vec<_>>()).await?;
        Ok(vec![Answer::done(); operations.len()])
    }

    /// Whoever waited for the outcome may have written it down already.
    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Honour>]) -> sqlx::Result<Vec<Answer>> {
        let steps = operations.iter().map(|op| step(&op.request, State::Submitted, State::Kept));
        Db::step(db_tx, &steps.collect::<Vec<_>>()).await?;
        Ok(vec![Answer::done(); operations.len()])
    }
}

/// [`TAKE_BACK`](crate::TAKE_BACK).
#[derive(Debug)]
pub struct TakeItBack<Db> {
    slots: Arc<Slots>,
    db: PhantomData<fn() -> Db>,
}

impl<Db> TakeItBack<Db> {
    /// With rows where these slots are.
    pub fn new(slots: &Arc<Slots>) -> Self {
        Self { slots: Arc::clone(slots), db: PhantomData }
    }

    async fn each(
        &self,
        db_tx: &mut DbTx<Db>,
        operations: &[Op<pb::TakeBack>],
        (from, to): (State, State),
    ) -> sqlx::Result<Vec<Answer>>
    where
        Db: Redemptions,
    {
        let ids = operations.iter().map(|op| op.request.redemption_id);
        let mut standings = standings::<Db>(db_tx, ids).await?;
        let mut steps = Vec::with_capacity(operations.len());
        for op in operations {
            let request = &op.request;
            if let Some((state, _)) = standings.get_mut(&request.redemption_id)
                && *state == from
            {
                *state = to;
                let pb::TakeBack { redemption_id, operator, reason, .. } = request;
                let refund = Refund { xid: op.context.xid, operator, reason };
                let refund = (to == State::Refunding).then_some(refund);
                steps.push((op.context, Step { redemption_id: *redemption_id, from, to, attempt: None, refund }));
            }
        }
        let moved: Vec<_> = steps.iter().map(|(_, step)| *step).collect();
        advance::<Db>(db_tx, &moved).await?;
        let answer = |op: &Op<pb::TakeBack>| {
            if steps.iter().any(|(context, _)| *context == op.context) {
                return Answer::done();
            }
            let order_id = op.request.order_id.to_string();
            Answer::refused(Code::NotRefundable.fault([("order_id", order_id)]).reason())
        };
        Ok(operations.iter().map(answer).collect())
    }
}

impl<Db: Redemptions + Dialect> SliceCompensable for TakeItBack<Db> {
    type Db = Db;
    type Request = pb::TakeBack;

    fn place(&self, request: &pb::TakeBack) -> Option<Place> {
        self.slots.place(Slot::of_id(request.redemption_id))
    }

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::TakeBack>]) -> sqlx::Result<Vec<Answer>> {
        self.each(db_tx, operations, (State::Done, State::Refunding)).await
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::TakeBack>]) -> sqlx::Result<Vec<Answer>> {
        self.each(db_tx, operations, (State::Refunding, State::Done)).await
    }
}

/// Where each stands, locked: its state, and which of its transactions it waits for.
pub(crate) async fn standings<Db: Redemptions>(
    db_tx: &mut DbTx<Db>,
    ids: impl Iterator<Item = i64> + Send,
) -> sqlx::Result<BTreeMap<i64, (State, i64)>> {
    let mut ids: Vec<i64> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    let found = Db::standings(db_tx, &ids).await?;
    Ok(found.into_iter().map(|(id, state, attempt)| (id, (state, attempt))).collect())
}

/// # Errors
/// Besides the database's own: `RowNotFound` when one of them does not stand where it has to.
async fn advance<Db: Redemptions>(db_tx: &mut DbTx<Db>, steps: &[Step<'_>]) -> sqlx::Result<()> {
    if Db::step(db_tx, steps).await? == steps.len() as u64 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
}
