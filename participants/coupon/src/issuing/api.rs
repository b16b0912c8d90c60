//! The service over gRPC.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tercet::fence::Dialect;
use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon::v1::issuing_server::Issuing as Rpc;
use tercet_rules::Fault;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Issuing;
use super::limits::BATCH_BYTES_MAX;
use crate::metrics;
use crate::store::batches::Batches;
use crate::store::jobs::Jobs;

/// Answers that a caller who reads slowly leaves lying.
const PROGRESS_WAITING: usize = 4;

pub(super) struct Api<Db: Jobs>(pub(super) Arc<Issuing<Db>>);

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, Fault>) -> Answer<T> {
    result.map(Response::new).map_err(|fault| fault.status())
}

#[tonic::async_trait]
impl<Db: Batches + Jobs + Dialect> Rpc for Api<Db> {
    type IssueStream = Pin<Box<dyn Stream<Item = Result<pb::Batch, Status>> + Send>>;

    async fn claim(&self, request: Request<pb::ClaimRequest>) -> Answer<pb::ClaimResponse> {
        let started = Instant::now();
        let result = self.0.claim(request.get_ref()).await;
        metrics::claimed(result.as_ref().map(|response| response.claimed), started.elapsed());
        answer(result)
    }

    async fn issue(&self, request: Request<pb::IssueRequest>) -> Answer<Self::IssueStream> {
        let (progress, told) = mpsc::channel(PROGRESS_WAITING);
        let issuing = Arc::clone(&self.0);
        let request = request.into_inner();
        tokio::spawn(async move {
            if let Err(fault) = issuing.run_batch(&request, &progress).await {
                // Nobody listens any more only when he has hung up.
                drop(progress.send(Err(fault.status())).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn get_issue(&self, request: Request<pb::GetIssueRequest>) -> Answer<pb::GetIssueResponse> {
        let batch_id = request.into_inner().batch_id;
        if let Err(invalid) = tercet_rules::text("batch_id", &batch_id, BATCH_BYTES_MAX) {
            return answer(Err(invalid.into()));
        }
        answer(self.0.get_batch(&batch_id).await.map(|batch| pb::GetIssueResponse { batch: Some(batch) }))
    }

    async fn list_user_coupons(
        &self,
        request: Request<pb::ListUserCouponsRequest>,
    ) -> Answer<pb::ListUserCouponsResponse> {
        answer(self.0.list_user(request.get_ref()).await)
    }

    async fn get_coupon(&self, request: Request<pb::GetCouponRequest>) -> Answer<pb::GetCouponResponse> {
        let coupon = self.0.get_coupon(request.into_inner()).await;
        answer(coupon.map(|coupon| pb::GetCouponResponse { coupon: Some(coupon) }))
    }

    async fn list_coupons(&self, request: Request<pb::ListCouponsRequest>) -> Answer<pb::ListCouponsResponse> {
        answer(self.0.list(request.get_ref()).await)
    }
}
