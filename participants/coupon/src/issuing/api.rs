//! The service over gRPC.

use std::pin::Pin;
use std::sync::Arc;

use tercet::fence::Dialect;
use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon::v1::issuing_server::Issuing as Rpc;
use tercet_rules::{Code, Fault};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::claims::plain;
use super::limits::BATCH_BYTES_MAX;
use super::{Issuing, fields};
use crate::metrics;
use crate::store::jobs::Jobs;
use crate::store::occasions::Occasions;

/// Answers that a caller who reads slowly leaves lying.
const PROGRESS_WAITING: usize = 4;

pub(super) struct Api<Db: Jobs>(pub(super) Arc<Issuing<Db>>);

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, Fault>) -> Answer<T> {
    result.map(Response::new).map_err(|fault| fault.status())
}

#[tonic::async_trait]
impl<Db: Occasions + Dialect> Rpc for Api<Db> {
    type IssueStream = Pin<Box<dyn Stream<Item = Result<pb::Batch, Status>> + Send>>;

    async fn claim(&self, request: Request<pb::ClaimRequest>) -> Answer<pb::ClaimResponse> {
        let result = self.0.claim(request.get_ref()).await;
        metrics::claimed(result.as_ref().map(|response| response.claimed));
        answer(result)
    }

    async fn issue(&self, request: Request<pb::IssueRequest>) -> Answer<Self::IssueStream> {
        let (progress, told) = mpsc::channel(PROGRESS_WAITING);
        let issuing = Arc::clone(&self.0);
        let request = request.into_inner();
        if let Err(invalid) = fields::own_batch(&request.batch_id) {
            return answer(Err(invalid.into()));
        }
        tokio::spawn(async move {
            if let Err(fault) = issuing.run_batch(&request, Some(&progress)).await {
                let fault = if fault.code == Code::SoldOut { plain(&fault) } else { fault };
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

    async fn list_issues(&self, request: Request<pb::ListIssuesRequest>) -> Answer<pb::ListIssuesResponse> {
        answer(self.0.list_batches(request.get_ref()).await)
    }

    async fn end_issue(&self, request: Request<pb::EndIssueRequest>) -> Answer<pb::EndIssueResponse> {
        let batch = self.0.end_batch(request.get_ref()).await;
        answer(batch.map(|batch| pb::EndIssueResponse { batch: Some(batch) }))
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

    async fn void_coupon(&self, request: Request<pb::VoidCouponRequest>) -> Answer<pb::VoidCouponResponse> {
        let coupon = self.0.void_coupon(request.get_ref()).await;
        answer(coupon.map(|coupon| pb::VoidCouponResponse { coupon: Some(coupon) }))
    }

    async fn list_coupons(&self, request: Request<pb::ListCouponsRequest>) -> Answer<pb::ListCouponsResponse> {
        answer(self.0.list(request.get_ref()).await)
    }

    async fn create_occasion(&self, request: Request<pb::CreateOccasionRequest>) -> Answer<pb::ChangeOccasionResponse> {
        answer(self.0.create_occasion(request.into_inner()).await)
    }

    async fn stop_occasion(&self, request: Request<pb::StopOccasionRequest>) -> Answer<pb::ChangeOccasionResponse> {
        answer(self.0.stop_occasion(request.get_ref()).await)
    }

    async fn retry_occasion(&self, request: Request<pb::RetryOccasionRequest>) -> Answer<pb::ChangeOccasionResponse> {
        answer(self.0.retry_occasion(request.get_ref()).await)
    }

    async fn get_occasion(&self, request: Request<pb::GetOccasionRequest>) -> Answer<pb::GetOccasionResponse> {
        let occasion = self.0.get_occasion(request.get_ref().occasion_id).await;
        answer(occasion.map(|occasion| pb::GetOccasionResponse { occasion: Some(occasion) }))
    }

    async fn list_occasions(&self, request: Request<pb::ListOccasionsRequest>) -> Answer<pb::ListOccasionsResponse> {
        answer(self.0.list_occasions(request.get_ref()).await)
    }

    async fn list_occasion_runs(
        &self,
        request: Request<pb::ListOccasionRunsRequest>,
    ) -> Answer<pb::ListOccasionRunsResponse> {
        answer(self.0.list_occasion_runs(request.get_ref()).await)
    }

    async fn tell_registered(&self, request: Request<pb::TellRegisteredRequest>) -> Answer<pb::TellRegisteredResponse> {
        answer(self.0.tell_registered(request.into_inner()).await)
    }

    async fn start_campaign(&self, request: Request<pb::StartCampaignRequest>) -> Answer<pb::StartCampaignResponse> {
        answer(self.0.start_campaign(request.into_inner()).await)
    }
}
