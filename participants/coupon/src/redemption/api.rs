//! The service over gRPC. What is more than it can carry is told at once to come again.

use std::sync::Arc;

use tercet::fence::Dialect;
use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon::v1::redemption_server::Redemption as Rpc;
use tercet_rules::Fault;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::Redemption;
use super::limits::DATABASE_SHARE;
use super::trial::{busy, timely};
use crate::store::redemptions::Redemptions;

pub(super) struct Api<Db: sqlx::Database> {
    redemption: Arc<Redemption<Db>>,
    room: Semaphore,
    /// Of each database.
    shares: Vec<Semaphore>,
}

type Answer<T> = Result<Response<T>, Status>;

impl<Db: Redemptions + Dialect> Api<Db> {
    pub(super) fn new(redemption: Arc<Redemption<Db>>) -> Self {
        let (calls, databases) = (redemption.settings.calls_max, redemption.shards.pools().len());
        let share = if databases == 1 { calls } else { calls.div_ceil(DATABASE_SHARE) };
        let room = Semaphore::new(calls as usize);
        let shares = (0..databases).map(|_| Semaphore::new(share as usize)).collect();
        Self { redemption, room, shares }
    }

    /// Does it for this user, if there is room, in all and in his database.
    async fn within<T>(&self, user_id: i64, work: impl Future<Output = Result<T, Fault>>) -> Answer<T> {
        let share = &self.shares[self.redemption.place(user_id)];
        let result = match (share.try_acquire(), self.room.try_acquire()) {
            (Ok(_share), Ok(_permit)) => timely(work).await,
            (Err(_), _) | (_, Err(_)) => Err(busy()),
        };
        result.map(Response::new).map_err(|fault| fault.status())
    }
}

#[tonic::async_trait]
impl<Db: Redemptions + Dialect> Rpc for Api<Db> {
    async fn validate(&self, request: Request<pb::ValidateRequest>) -> Answer<pb::ValidateResponse> {
        let request = request.into_inner();
        self.within(request.user_id, self.redemption.validate(&request)).await
    }

    async fn redeem(&self, request: Request<pb::RedeemRequest>) -> Answer<pb::RedeemResponse> {
        let request = request.into_inner();
        let redeemed = async {
            let view = self.redemption.redeem(&request).await?;
            Ok(pb::RedeemResponse { redemption: Some(view) })
        };
        self.within(request.user_id, redeemed).await
    }

    async fn get_redemption(&self, request: Request<pb::GetRedemptionRequest>) -> Answer<pb::GetRedemptionResponse> {
        let request = request.into_inner();
        let found = async {
            let view = self.redemption.settled(request.user_id, || self.redemption.get(&request)).await?;
            Ok(pb::GetRedemptionResponse { redemption: Some(view) })
        };
        self.within(request.user_id, found).await
    }

    async fn refund(&self, request: Request<pb::RefundRequest>) -> Answer<pb::RefundResponse> {
        let request = request.into_inner();
        let refunded = self.redemption.settled(request.user_id, || self.redemption.refund(&request));
        self.within(request.user_id, refunded).await
    }
}
