//! The service over gRPC. What is more than it can carry is told at once to come again.

use std::sync::Arc;

use tercet::fence::Dialect;
use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon::v1::redemption_server::Redemption as Rpc;
use tercet_rules::Fault;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::Redemption;
use super::trial::busy;
use crate::store::redemptions::Redemptions;

pub(super) struct Api<Db: sqlx::Database> {
    redemption: Arc<Redemption<Db>>,
    room: Semaphore,
}

type Answer<T> = Result<Response<T>, Status>;

impl<Db: Redemptions + Dialect> Api<Db> {
    pub(super) fn new(redemption: Arc<Redemption<Db>>) -> Self {
        let room = Semaphore::new(redemption.settings.calls_max as usize);
        Self { redemption, room }
    }

    /// Does it, if there is room.
    async fn within<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Answer<T> {
        let result = match self.room.try_acquire() {
            Ok(_permit) => work.await,
            Err(_) => Err(busy()),
        };
        result.map(Response::new).map_err(|fault| fault.status())
    }
}

#[tonic::async_trait]
impl<Db: Redemptions + Dialect> Rpc for Api<Db> {
    async fn validate(&self, request: Request<pb::ValidateRequest>) -> Answer<pb::ValidateResponse> {
        self.within(self.redemption.validate(request.get_ref())).await
    }

    async fn redeem(&self, request: Request<pb::RedeemRequest>) -> Answer<pb::RedeemResponse> {
        let redeemed = async {
            let view = self.redemption.redeem(request.get_ref()).await?;
            Ok(pb::RedeemResponse { redemption: Some(view) })
        };
        self.within(redeemed).await
    }

    async fn get_redemption(&self, request: Request<pb::GetRedemptionRequest>) -> Answer<pb::GetRedemptionResponse> {
        let found = async {
            let view = self.redemption.get(request.get_ref()).await?;
            Ok(pb::GetRedemptionResponse { redemption: Some(view) })
        };
        self.within(found).await
    }

    async fn refund(&self, request: Request<pb::RefundRequest>) -> Answer<pb::RefundResponse> {
        self.within(self.redemption.refund(request.get_ref())).await
    }
}
