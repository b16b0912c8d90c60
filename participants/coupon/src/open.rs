//! A batch that is opened with its stock: the part of the transaction that is the coupon service's.

use std::marker::PhantomData;

use tercet::fence::Dialect;
use tercet::participant::{Answer, DbTx, Participant};
use tercet_proto::coupon::v1 as pb;
use tercet_rules::Code;

use crate::store::batches::{Batch, Batches, State};

/// [`OPEN`](crate::OPEN). Batches are in the first database.
#[derive(Debug)]
pub struct Open<Db>(pub PhantomData<fn() -> Db>);

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
        if opened { Ok(Answer::done()) } else { Err(sqlx::Error::RowNotFound) }
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, request: pb::OpenBatch) -> sqlx::Result<Answer> {
        Db::drop_open(db_tx, request.batch).await?;
        Ok(Answer::done())
    }
}
