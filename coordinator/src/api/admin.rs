//! `tercet.admin.v1.Admin`: what operators call.

mod change;
mod listing;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use tercet_core::{Timestamp, Xid};
use tercet_proto::admin::v1 as pb;
use tercet_proto::admin::v1::admin_server::Admin;
use tercet_proto::coordinator::v1 as coordinator;
use tercet_proto::coordinator::v1::coordinator_server::Coordinator;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use self::change::{branch, operator, policy};
use super::errors;
use crate::clock::SystemClock;
use crate::driver::{Gauges, Settings};
use crate::limits;
use crate::live::Live;
use crate::operate::Wanted;
use crate::plan::Invalid;
use crate::request::{Error, Input};
use crate::scanner::Looks;
use crate::session::Sessions;
use crate::store::{Record, Store};

/// The service.
pub struct Service<S> {
    /// What initiators ask, for what operators ask too.
    pub coordinator: super::coordinator::Service<S>,
    /// What it reads.
    pub store: Arc<S>,
    /// Who is connected.
    pub sessions: Sessions,
    /// Where orders go.
    pub inbox: mpsc::Sender<Input>,
    /// How the driver is doing.
    pub gauges: Arc<Gauges>,
    /// What the driver was told.
    pub settings: Settings,
    /// When the scanner looks.
    pub looks: Looks,
    /// The store's time.
    pub clock: SystemClock,
    /// When the coordinator started.
    pub started_at: Timestamp,
}

fn page(limit: u32) -> Result<u32, Error> {
    match limit {
        0 => Ok(limits::PAGE_DEFAULT),
        1..=limits::PAGE_MAX => Ok(limit),
        _ => Err(Invalid { field: "limit".into(), limit: format!("1 to {}", limits::PAGE_MAX) }.into()),
    }
}

fn unavailable(error: &crate::store::Error) -> Error {
    Error::Unavailable { reason: error.to_string() }
}

fn decode(record: &Record) -> Result<Live, Error> {
    Live::decode(record).map_err(|error| Error::Unstored { reason: error.to_string() })
}

fn parse_xid(bytes: &[u8]) -> Result<Xid, Error> {
    let invalid = || Invalid { field: "xid".into(), limit: "16 bytes".into() };
    Xid::from_slice(bytes).ok_or_else(|| invalid().into())
}

fn told<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| errors::status(&error))
}

impl<S> Service<S> {
    fn put(&self, input: Input) -> Result<(), Error> {
        self.inbox.try_send(input).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Error::Overloaded { what: "waiting requests", limit: limits::INBOX_MAX }
            }
            mpsc::error::TrySendError::Closed(_) => Error::Stopping,
        })
    }
}

#[tonic::async_trait]
impl<S: Store> Admin for Service<S> {
    async fn get_transaction(
        &self,
        request: Request<pb::GetTransactionRequest>,
    ) -> Result<Response<pb::GetTransactionResponse>, Status> {
        use pb::get_transaction_request::Key as Asked;
        let key = request.into_inner().key.map(|key| match key {
            Asked::Xid(xid) => coordinator::get_request::Key::Xid(xid),
            Asked::IdempotencyKey(key) => coordinator::get_request::Key::IdempotencyKey(key),
        });
        let found = self.coordinator.get(Request::new(coordinator::GetRequest { key })).await?;
        Ok(found.map(|found| pb::GetTransactionResponse { transaction: found.transaction }))
    }

    type WatchTransactionStream = Pin<Box<dyn Stream<Item = Result<pb::WatchTransactionResponse, Status>> + Send>>;

    async fn watch_transaction(
        &self,
        request: Request<pb::WatchTransactionRequest>,
    ) -> Result<Response<Self::WatchTransactionStream>, Status> {
        let xid = request.into_inner().xid;
        let changes = self.coordinator.watch(Request::new(coordinator::WatchRequest { xid })).await?.into_inner();
        let changes =
            changes.map(|change| change.map(|change| pb::WatchTransactionResponse { transaction: change.transaction }));
        Ok(Response::new(Box::pin(changes)))
    }

    async fn list_transactions(
        &self,
        request: Request<pb::ListTransactionsRequest>,
    ) -> Result<Response<pb::ListTransactionsResponse>, Status> {
        told(self.list(request.into_inner()).await)
    }

    async fn list_compensations(
        &self,
        request: Request<pb::ListCompensationsRequest>,
    ) -> Result<Response<pb::ListCompensationsResponse>, Status> {
        told(self.compensations(request.into_inner()).await)
    }

    async fn get_statistics(
        &self,
        request: Request<pb::GetStatisticsRequest>,
    ) -> Result<Response<pb::GetStatisticsResponse>, Status> {
        let mut statistics = self.statistics();
        if request.into_inner().unfinished {
            self.unfinished(&mut statistics).await.map_err(|error| errors::status(&error))?;
        }
        Ok(Response::new(statistics))
    }

    async fn explain(&self, request: Request<pb::ExplainRequest>) -> Result<Response<pb::ExplainResponse>, Status> {
        told(self.explain(request.into_inner()).await)
    }

    async fn retry(&self, request: Request<pb::RetryRequest>) -> Result<Response<pb::RetryResponse>, Status> {
        let who = operator(request.metadata()).map_err(|error| errors::status(&error))?;
        let request = request.into_inner();
        let changed = async {
            self.order(&request.xid, Wanted::Retry(branch(request.branch)?), who, request.change, false).await
        }
        .await;
        told(changed.map(|changed| pb::RetryResponse { changed: Some(changed) }))
    }

    async fn park(&self, request: Request<pb::ParkRequest>) -> Result<Response<pb::ParkResponse>, Status> {
        let who = operator(request.metadata()).map_err(|error| errors::status(&error))?;
        let request = request.into_inner();
        let changed =
            async { self.order(&request.xid, Wanted::Park(branch(request.branch)?), who, request.change, false).await }
                .await;
        told(changed.map(|changed| pb::ParkResponse { changed: Some(changed) }))
    }

    async fn resume(&self, request: Request<pb::ResumeRequest>) -> Result<Response<pb::ResumeResponse>, Status> {
        let who = operator(request.metadata()).map_err(|error| errors::status(&error))?;
        let request = request.into_inner();
        let changed = async {
            self.order(&request.xid, Wanted::Resume(branch(request.branch)?), who, request.change, false).await
        }
        .await;
        told(changed.map(|changed| pb::ResumeResponse { changed: Some(changed) }))
    }

    async fn set_retry_policy(
        &self,
        request: Request<pb::SetRetryPolicyRequest>,
    ) -> Result<Response<pb::SetRetryPolicyResponse>, Status> {
        let who = operator(request.metadata()).map_err(|error| errors::status(&error))?;
        let request = request.into_inner();
        let changed = async {
            self.order(&request.xid, policy(request.branch, request.retry)?, who, request.change, false).await
        }
        .await;
        told(changed.map(|changed| pb::SetRetryPolicyResponse { changed: Some(changed) }))
    }

    async fn force_confirm(
        &self,
        request: Request<pb::ForceConfirmRequest>,
    ) -> Result<Response<pb::ForceConfirmResponse>, Status> {
        let who = operator(request.metadata()).map_err(|error| errors::status(&error))?;
        let request = request.into_inner();
        let changed = async { self.order(&request.xid, Wanted::ForceConfirm, who, request.change, true).await }.await;
        told(changed.map(|changed| pb::ForceConfirmResponse { changed: Some(changed) }))
    }

    async fn force_cancel(
        &self,
        request: Request<pb::ForceCancelRequest>,
    ) -> Result<Response<pb::ForceCancelResponse>, Status> {
        let who = operator(request.metadata()).map_err(|error| errors::status(&error))?;
        let request = request.into_inner();
        let changed = async { self.order(&request.xid, Wanted::ForceCancel, who, request.change, true).await }.await;
        told(changed.map(|changed| pb::ForceCancelResponse { changed: Some(changed) }))
    }

    async fn retry_compensations(
        &self,
        request: Request<pb::RetryCompensationsRequest>,
    ) -> Result<Response<pb::RetryCompensationsResponse>, Status> {
        let who = operator(request.metadata()).map_err(|error| errors::status(&error))?;
        told(self.retry_rows(request.into_inner(), who).await)
    }

    async fn resolve_compensation(
        &self,
        request: Request<pb::ResolveCompensationRequest>,
    ) -> Result<Response<pb::ResolveCompensationResponse>, Status> {
        let who = operator(request.metadata()).map_err(|error| errors::status(&error))?;
        told(self.resolve_row(request.into_inner(), who).await)
    }

    async fn list_participants(
        &self,
        _request: Request<pb::ListParticipantsRequest>,
    ) -> Result<Response<pb::ListParticipantsResponse>, Status> {
        Ok(Response::new(self.participants()))
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Result<Response<pb::DrainResponse>, Status> {
        let who = operator(request.metadata()).map_err(|error| errors::status(&error))?;
        told(self.drain(request.into_inner(), who).await)
    }

    async fn list_limits(
        &self,
        _request: Request<pb::ListLimitsRequest>,
    ) -> Result<Response<pb::ListLimitsResponse>, Status> {
        Ok(Response::new(self.limits()))
    }

    async fn set_limit(&self, request: Request<pb::SetLimitRequest>) -> Result<Response<pb::SetLimitResponse>, Status> {
        let who = operator(request.metadata()).map_err(|error| errors::status(&error))?;
        told(self.set_limit(request.into_inner(), who).await)
    }

    async fn list_audit(
        &self,
        request: Request<pb::ListAuditRequest>,
    ) -> Result<Response<pb::ListAuditResponse>, Status> {
        told(self.audit(request.into_inner()).await)
    }
}
