//! `tercet.admin.v1.Admin`: what operators call.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tercet_core::{Progress, Xid};
use tercet_proto::admin::v1 as pb;
use tercet_proto::admin::v1::admin_server::Admin;
use tercet_proto::coordinator::v1 as coordinator;
use tercet_proto::coordinator::v1::coordinator_server::Coordinator;
use tonic::{Request, Response, Status};

use super::errors;
use crate::clock::{Clock, SystemClock};
use crate::driver::{Gauges, Settings};
use crate::live::Live;
use crate::plan::Invalid;
use crate::request::Error;
use crate::session::Sessions;
use crate::store::{CompensationQuery, CompensationStatus, ListQuery, Store};
use crate::{limits, names};

/// Most unfinished transactions that one call looks at.
const UNFINISHED_MAX: u64 = 10_000;

/// The service.
pub struct Service<S> {
    /// What initiators ask, for what operators ask too.
    pub coordinator: super::coordinator::Service<S>,
    /// What it reads.
    pub store: Arc<S>,
    /// Who is connected.
    pub sessions: Sessions,
    /// How the driver is doing.
    pub gauges: Arc<Gauges>,
    /// What the driver was told.
    pub settings: Settings,
    /// The store's time.
    pub clock: SystemClock,
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

impl<S: Store> Service<S> {
    async fn list(&self, request: pb::ListTransactionsRequest) -> Result<pb::ListTransactionsResponse, Error> {
        let limit = page(request.limit)?;
        let before = match &*request.before {
            [] => None,
            bytes => {
                let invalid = || Invalid { field: "before".into(), limit: "16 bytes".into() };
                Some(Xid::from_slice(bytes).ok_or_else(invalid)?)
            }
        };
        let given = |text: String| (!text.is_empty()).then_some(text);
        let query = ListQuery {
            status: (request.status != 0).then_some(request.status as u8),
            unfinished: request.unfinished,
            label: given(request.label),
            business_key: given(request.business_key),
            before,
            limit,
        };
        let records = self.store.list(query).await.map_err(|error| unavailable(&error))?;
        let full = records.len() == limit as usize;
        let next = records.last().filter(|_| full).map_or_else(Bytes::new, |last| Bytes::copy_from_slice(&last.xid.0));
        let views = records.iter().map(|record| Live::decode(record).map(|live| live.view()));
        let transactions = views.collect::<Result<_, _>>();
        let transactions = transactions.map_err(|error| Error::Unstored { reason: error.to_string() })?;
        Ok(pb::ListTransactionsResponse { transactions, next })
    }

    async fn compensations(
        &self,
        request: pb::ListCompensationsRequest,
    ) -> Result<pb::ListCompensationsResponse, Error> {
        let status = request.status.map(|number| {
            let invalid = || Invalid { field: "status".into(), limit: "0 pending, 1 done, 2 failed".into() };
            CompensationStatus::from_number(number).ok_or_else(invalid)
        });
        let query = CompensationQuery {
            status: status.transpose()?,
            service: (!request.service.is_empty()).then_some(request.service),
            xid: None,
            after_id: request.after_id,
            limit: page(request.limit)?,
        };
        let rows = self.store.list(query).await.map_err(|error| unavailable(&error))?;
        let compensations = rows.into_iter().map(|row| pb::Compensation {
            id: row.id,
            xid: Bytes::copy_from_slice(&row.xid.0),
            branch: row.branch.into(),
            service: row.service,
            operation: names::operation_from(row.operation).map_or("?", names::operation_name).into(),
            coupon_id: row.coupon_id,
            status: row.status as u32,
            retry_count: row.retry_count,
            create_time_ms: row.create_time.0,
            next_retry_time_ms: row.next_retry_time.0,
            last_error: row.last_error,
        });
        Ok(pb::ListCompensationsResponse { compensations: compensations.collect() })
    }

    fn statistics(&self) -> pb::GetStatisticsResponse {
        let participants = self.sessions.instances().into_iter().map(|instance| pb::Participant {
            service: instance.service,
            instance: instance.instance,
            version: instance.version,
            queued: instance.queued as u32,
            in_flight: instance.in_flight as u32,
        });
        let sent = self.sessions.sent();
        pb::GetStatisticsResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            now_ms: self.clock.now().0,
            epoch: self.settings.owner.epoch,
            live: self.gauges.live.load(Ordering::Relaxed),
            live_max: self.settings.live_max as u64,
            participants: participants.collect(),
            store_commits: self.gauges.commits.load(Ordering::Relaxed),
            store_rows: self.gauges.rows.load(Ordering::Relaxed),
            ended: self.gauges.ended.load(Ordering::Relaxed),
            batches: sent.batches,
            calls: sent.calls,
            ..pb::GetStatisticsResponse::default()
        }
    }

    /// Adds what only the store knows.
    async fn unfinished(&self, statistics: &mut pb::GetStatisticsResponse) -> Result<(), Error> {
        let parked = CompensationQuery {
            status: Some(CompensationStatus::Failed),
            limit: limits::PAGE_MAX,
            ..CompensationQuery::default()
        };
        let parked = self.store.list(parked).await.map_err(|error| unavailable(&error))?;
        statistics.parked = parked.len() as u64;

        let connected = self.sessions.connected();
        let mut waiting = BTreeMap::<String, pb::Waiting>::new();
        let mut before = None;
        while statistics.looked_at < UNFINISHED_MAX {
            let query = ListQuery { unfinished: true, before, limit: limits::PAGE_MAX, ..ListQuery::default() };
            let records = self.store.list(query).await.map_err(|error| unavailable(&error))?;
            statistics.looked_at += records.len() as u64;
            for record in &records {
                let live = Live::decode(record).map_err(|error| Error::Unstored { reason: error.to_string() })?;
                for service in waited_for(&live) {
                    // Newest first: the last one seen is the oldest.
                    let entry = waiting.entry(service.to_owned()).or_default();
                    entry.transactions += 1;
                    entry.oldest_ms = record.xid.created_at().0;
                }
            }
            before = records.last().map(|last| last.xid);
            if records.len() < limits::PAGE_MAX as usize {
                break;
            }
        }
        let named = waiting.into_iter();
        let named =
            named.map(|(service, entry)| pb::Waiting { connected: connected.contains(&service), service, ..entry });
        statistics.waiting = named.collect();
        Ok(())
    }
}

/// The services that have to act before a transaction can go on, each once. A parked branch waits for a person instead.
fn waited_for(live: &Live) -> BTreeSet<&str> {
    let branches = live.tx.branches.iter().zip(&live.plan.branches);
    let waiting = branches.filter(|(branch, _)| !branch.finished() && !matches!(branch.progress, Progress::Parked(_)));
    waiting.map(|(_, plan)| plan.service.as_str()).collect()
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
        self.list(request.into_inner()).await.map(Response::new).map_err(|error| errors::status(&error))
    }

    async fn list_compensations(
        &self,
        request: Request<pb::ListCompensationsRequest>,
    ) -> Result<Response<pb::ListCompensationsResponse>, Status> {
        self.compensations(request.into_inner()).await.map(Response::new).map_err(|error| errors::status(&error))
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
}
