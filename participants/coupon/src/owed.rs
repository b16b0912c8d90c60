//! A redemption that was promised and came to nothing: somebody has to make it good.
//!
//! Its row waits, given up, until the coordinator has taken this transaction; the try notes that in the row's own
//! commit, so each is taken once. The confirm is done when another redemption of the same order is; until then it says
//! not now, which puts the branch into the coordinator's `compensation_log`: first for the scanner, which asks again,
//! and in the end for a person.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tercet::fence::Dialect;
use tercet::participant::{Answer, DbTx, Op, Place, SliceParticipant};
use tercet_proto::coupon::v1 as pb;
use tercet_shards::Slot;

use crate::honour::standings;
use crate::slots::Slots;
use crate::store::redemptions::{Redemptions, State, Step};

/// Between two looks, at least.
const LOOK: Duration = Duration::from_secs(1);

/// [`OWED`](crate::OWED).
#[derive(Debug)]
pub struct Owed<Db> {
    slots: Arc<Slots>,
    db: PhantomData<fn() -> Db>,
}

impl<Db> Owed<Db> {
    /// With rows where these slots are.
    pub fn new(slots: &Arc<Slots>) -> Self {
        Self { slots: Arc::clone(slots), db: PhantomData }
    }
}

fn step(request: &pb::Owed, from: State, to: State) -> Step<'static> {
    Step { redemption_id: request.redemption_id, from, to, attempt: None, refund: None }
}

impl<Db: Redemptions + Dialect> SliceParticipant for Owed<Db> {
    type Db = Db;
    type Request = pb::Owed;

    fn place(&self, request: &pb::Owed) -> Option<Place> {
        self.slots.place(Slot::of_id(request.redemption_id))
    }

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Owed>]) -> sqlx::Result<Vec<Answer>> {
        let ids = operations.iter().map(|op| op.request.redemption_id);
        let mut standings = standings::<Db>(db_tx, ids).await?;
        let mut steps = Vec::with_capacity(operations.len());
        let mut take = |request: &pb::Owed| match standings.get_mut(&request.redemption_id) {
            Some((state @ State::GivenUp, _)) => {
                *state = State::Refused;
                steps.push(step(request, State::GivenUp, State::Refused));
                Answer::done()
            }
            Some(_) | None => Answer::refused(format!("redemption {} is not given up", request.redemption_id)),
        };
        let answers = operations.iter().map(|op| take(&op.request)).collect();
        Db::step(db_tx, &steps).await?;
        Ok(answers)
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Owed>]) -> sqlx::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(operations.len());
        for Op { request, .. } in operations {
            let now = Db::by_order(db_tx, request.user_id, (request.shop_id, request.order_id)).await?;
            answers.push(match now.map(|now| now.state) {
                Some(State::Done | State::Refunding | State::Refunded) => Answer::done(),
                Some(State::Kept | State::Submitted | State::Refused | State::GivenUp) | None => Answer::not_now(LOOK),
            });
        }
        Ok(answers)
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Owed>]) -> sqlx::Result<Vec<Answer>> {
        let steps = operations.iter().map(|op| step(&op.request, State::Refused, State::GivenUp));
        Db::step(db_tx, &steps.collect::<Vec<_>>()).await?;
        Ok(vec![Answer::done(); operations.len()])
    }
}
