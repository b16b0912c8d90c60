//! A batch that is opened with its stock: the part of the transaction that is the coupon service's.

use std::marker::PhantomData;

use tercet::fence::Dialect;
use tercet::participant::{Answer, Compensable, DbTx, Participant};
use tercet_events::event::{Event, Payload};
use tercet_events::outbox::Outbox;
use tercet_proto::coupon::v1 as pb;
use tercet_proto::events::v1::OperatorChange;
use tercet_rules::Code;

use crate::issuing::limits::OCCASION_BATCH;
use crate::store::batches::{Batch, Batches, State};

/// [`OPEN`](crate::OPEN). Batches are in the first database. One that an operator asks for is told as his change.
#[derive(Debug)]
pub struct Open<Db> {
    outbox: Outbox,
    db: PhantomData<fn() -> Db>,
}

impl<Db> Open<Db> {
    /// Tells there what it does.
    pub const fn telling(outbox: Outbox) -> Self {
        Self { outbox, db: PhantomData }
    }
}

/// For the business log. A batch that an occasion leads to is none of an operator's.
fn opened(request: &pb::OpenBatch) -> Option<Event> {
    if request.batch_id.starts_with(OCCASION_BATCH) {
        return None;
    }
    let after = serde_json::json!({
        "batch_id": request.batch_id,
        "template_id": request.template_id,
        "version": request.version,
        "coupons": request.coupons,
    });
    let change = OperatorChange {
        what: "batch".to_owned(),
        id: request.batch,
        operator: request.operator.clone(),
        action: "issue".to_owned(),
        reason: request.reason.clone(),
        after: after.to_string(),
        ..OperatorChange::default()
    };
    Some(Event::new(0, Payload::OperatorChange(change)))
}

/// [`CLOSE`](crate::CLOSE).
#[derive(Debug)]
pub struct Close<Db>(pub PhantomData<fn() -> Db>);

impl<Db: Batches + Dialect> Compensable for Close<Db> {
    type Db = Db;
    type Request = pb::CloseBatch;

    async fn try_(&self, db_tx: &mut DbTx<Db>, request: pb::CloseBatch) -> sqlx::Result<Answer> {
        let closed = Db::step(db_tx, request.batch, (State::Ending, State::Ended), "").await?;
        Ok(if closed { Answer::done() } else { Answer::refused("the batch is not being ended") })
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, request: pb::CloseBatch) -> sqlx::Result<Answer> {
        let opened = Db::step(db_tx, request.batch, (State::Ended, State::Ending), "").await?;
        if opened { Ok(Answer::done()) } else { Err(sqlx::Error::RowNotFound) }
    }
}

impl<Db: Batches + Dialect> Participant for Open<Db> {
    type Db = Db;
    type Request = pb::OpenBatch;

    async fn try_(&self, db_tx: &mut DbTx<Db>, request: pb::OpenBatch) -> sqlx::Result<Answer> {
        let batch = Batch {
            batch: request.batch,
            batch_id: request.batch_id,
            digest: request.digest,
            template_id: request.template_id,
            version: request.version.into(),
            claimed_ms: request.claimed_ms,
            valid_from_ms: request.valid_from_ms,
            valid_until_ms: request.valid_until_ms,
            coupons: request.coupons,
            state: State::Opening,
            refusal: String::new(),
            operator: request.operator,
            reason: request.reason,
            started_ms: 0,
            ended_ms: None,
        };
        let opened = Db::open_batch(db_tx, &batch).await?;
        Ok(if opened { Answer::done() } else { Answer::refused(Code::KeyReused.fault([]).reason()) })
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, request: pb::OpenBatch) -> sqlx::Result<Answer> {
        let opened = Db::step(db_tx, request.batch, (State::Opening, State::Running), "").await?;
        if !opened {
            return Err(sqlx::Error::RowNotFound);
        }
        if self.outbox.is_on() {
            self.outbox.append::<Db>(db_tx, self::opened(&request)).await?;
        }
        Ok(Answer::done())
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, request: pb::OpenBatch) -> sqlx::Result<Answer> {
        Db::drop_open(db_tx, request.batch).await?;
        Ok(Answer::done())
    }
}
