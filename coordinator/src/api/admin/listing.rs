//! What operators look at: transactions, compensations, participants, numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tercet_core::{Progress, Timestamp, Xid};
use tercet_proto::admin::v1 as pb;
use tercet_proto::admin::v1::service_health;
use tokio::sync::oneshot;

use super::{Service, decode, page, parse_xid, unavailable};
use crate::clock::Clock as _;
use crate::explain::{Facts, explain};
use crate::live::Live;
use crate::plan::Invalid;
use crate::request::{Error, Input};
use crate::session::{Health, State};
use crate::store::{AuditQuery, Backlog, CompensationQuery, CompensationStatus, ListQuery, Lookup, Store};
use crate::{limits, names};

/// Most unfinished transactions that one call looks at.
const UNFINISHED_MAX: u64 = 10_000;

impl<S: Store> Service<S> {
    pub(super) async fn list(
        &self,
        request: pb::ListTransactionsRequest,
    ) -> Result<pb::ListTransactionsResponse, Error> {
        let limit = page(request.limit)?;
        let mut before = match &*request.before {
            [] => None,
            bytes => {
                let invalid = || Invalid { field: "before".into(), limit: "16 bytes".into() };
                Some(Xid::from_slice(bytes).ok_or_else(invalid)?)
            }
        };
        if request.status != 0 && names::status_from(request.status as u32).is_none() {
            return Err(Invalid { field: "status".into(), limit: "a status".into() }.into());
        }
        let created_before = (request.created_before_ms > 0).then(|| first_of(request.created_before_ms));
        before = before.into_iter().chain(created_before).min();
        let given = |text: String| (!text.is_empty()).then_some(text);
        let by_service = !request.service.is_empty();
        let query = ListQuery {
            status: (request.status != 0).then_some(request.status as u8),
            unfinished: request.unfinished,
            label: given(request.label),
            business_key: given(request.business_key),
            parked: request.parked,
            before: None,
            from: (request.created_from_ms > 0).then(|| first_of(request.created_from_ms)),
            limit: if by_service { limits::PAGE_MAX } else { limit },
        };
        let mut response = pb::ListTransactionsResponse::default();
        let mut looked_at = 0;
        loop {
            let records = self.store.list(ListQuery { before, ..query.clone() }).await;
            let records = records.map_err(|error| unavailable(&error))?;
            for record in &records {
                let live = decode(record)?;
                before = Some(record.xid);
                if !by_service || live.plan.branches.iter().any(|branch| branch.service == request.service) {
                    response.transactions.push(live.view());
                    if response.transactions.len() == limit as usize {
                        break;
                    }
                }
            }
            looked_at += records.len() as u32;
            let last = (records.len() as u32) < query.limit && response.transactions.len() < limit as usize;
            if last || response.transactions.len() == limit as usize || looked_at >= limits::LOOKED_AT_MAX {
                // Where a page was cut short the next one goes on.
                let next = before.filter(|_| !last);
                response.next = next.map_or_else(Bytes::new, |xid| Bytes::copy_from_slice(&xid.0));
                return Ok(response);
            }
        }
    }

    pub(super) async fn compensations(
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

    pub(super) fn statistics(&self) -> pb::GetStatisticsResponse {
        let participants = self.sessions.instances().into_iter().map(shown_instance);
        let sent = self.sessions.sent();
        let backlogs = self.backlogs();
        pb::GetStatisticsResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            now_ms: self.clock.now().0,
            epoch: self.settings.owner.epoch,
            live: self.gauges.live.load(Ordering::Relaxed),
            live_max: self.gauges.controls.live_max() as u64,
            participants: participants.collect(),
            store_commits: self.gauges.commits.load(Ordering::Relaxed),
            store_rows: self.gauges.rows.load(Ordering::Relaxed),
            ended: self.gauges.ended.load(Ordering::Relaxed),
            batches: sent.batches,
            calls: sent.calls,
            invariants: self.sessions.invariants(),
            idle_ms: self.gauges.idle_ms.load(Ordering::Relaxed),
            silent_ms: self.gauges.silent_ms.load(Ordering::Relaxed),
            draining: self.gauges.controls.draining(),
            disk_full: self.gauges.disk_full.load(Ordering::Relaxed),
            started_at_ms: self.started_at.0,
            compensations_pending: backlogs.iter().map(|backlog| backlog.pending).sum(),
            compensations_failed: backlogs.iter().map(|backlog| backlog.failed).sum(),
            ..pb::GetStatisticsResponse::default()
        }
    }

    /// Adds what only the store knows.
    pub(super) async fn unfinished(&self, statistics: &mut pb::GetStatisticsResponse) -> Result<(), Error> {
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
                let live = decode(record)?;
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

    /// Explains a transaction as memory knows it, or else as it is stored.
    pub(super) async fn explain(&self, request: pb::ExplainRequest) -> Result<pb::ExplainResponse, Error> {
        let xid = parse_xid(&request.xid)?;
        let (answer, shown) = oneshot::channel();
        self.put(Input::Look { xid, answer })?;
        let live = match shown.await.map_err(|_| Error::Stopping)? {
            Some(live) => *live,
            None => {
                let record = self.store.get(Lookup::Xid(xid)).await.map_err(|error| unavailable(&error))?;
                decode(&record.ok_or(Error::NotFound)?)?
            }
        };
        let limit = 2 * limits::BRANCHES_MAX as u32;
        let rows = self.store.list(CompensationQuery { xid: Some(xid), limit, ..CompensationQuery::default() }).await;
        let rows = rows.map_err(|error| unavailable(&error))?;
        let (before_id, limit) = (Some(u64::MAX), limits::EXPLAINED_ACTS_MAX);
        let acts = self.store.list(AuditQuery { xid: Some(xid), before_id, limit, after_id: 0 }).await;
        let acts = acts.map_err(|error| unavailable(&error))?;
        let services = self.sessions.health();
        let (now, looks) = (self.clock.now(), &|from| self.looks.next(from));
        Ok(explain(Facts { live, rows: &rows, acts: &acts, services: &services, now, looks }))
    }

    /// What waited in `compensation_log` at the last beat.
    fn backlogs(&self) -> Vec<Backlog> {
        self.gauges.backlogs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every service that is known, with how it is doing: connected since the start, or with work in the log.
    pub(super) fn participants(&self) -> pb::ListParticipantsResponse {
        let mut instances = BTreeMap::<String, Vec<pb::Participant>>::new();
        for instance in self.sessions.instances() {
            instances.entry(instance.service.clone()).or_default().push(shown_instance(instance));
        }
        let mut backlogs = self.backlogs();
        let mut services: Vec<_> = self.sessions.health().into_iter().map(shown_health).collect();
        for service in &mut services {
            service.instances = instances.remove(&service.service).unwrap_or_default();
        }
        backlogs.retain(|backlog| backlog.pending + backlog.failed > 0);
        let now = self.clock.now();
        for backlog in backlogs {
            let at = services.iter().position(|service| service.service == backlog.service).unwrap_or_else(|| {
                let state = service_health::State::Absent.into();
                services.push(pb::ServiceHealth { service: backlog.service.clone(), state, ..Default::default() });
                services.len() - 1
            });
            let since_ms = |at: Option<Timestamp>| at.map_or(0, |at| now.ms_since(at));
            services[at].pending = backlog.pending;
            services[at].parked = backlog.failed;
            services[at].oldest_pending_ms = since_ms(backlog.oldest);
            services[at].overdue_ms = since_ms(backlog.due);
        }
        services.sort_by(|a, b| a.service.cmp(&b.service));
        pb::ListParticipantsResponse { services }
    }
}

fn shown_health(health: Health) -> pb::ServiceHealth {
    let state = match health.state {
        State::Healthy => service_health::State::Healthy,
        State::Slow => service_health::State::Slow,
        State::Behind => service_health::State::Behind,
        State::Stuck => service_health::State::Stuck,
        State::Absent => service_health::State::Absent,
    };
    let (last_error_at_ms, last_error) = health.failure.map(|failure| (failure.at.0, failure.text)).unwrap_or_default();
    let [done, refused, not_now, unknown] = health.replies;
    pb::ServiceHealth {
        service: health.service,
        state: state.into(),
        queued: health.queued as u32,
        in_flight: health.in_flight as u32,
        oldest_batch_ms: health.oldest_batch.as_millis() as u64,
        done,
        refused,
        not_now,
        unknown,
        last_error,
        last_error_at_ms,
        ..pb::ServiceHealth::default()
    }
}

fn shown_instance(instance: crate::session::Instance) -> pb::Participant {
    pb::Participant {
        service: instance.service,
        instance: instance.instance,
        version: instance.version,
        queued: instance.queued as u32,
        in_flight: instance.in_flight as u32,
        canary_age_ms: instance.canary_age.as_millis() as u64,
    }
}

/// The first xid that could have been made at this time.
fn first_of(at_ms: u64) -> Xid {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&at_ms.min((1 << 48) - 1).to_be_bytes()[2..]);
    Xid(bytes)
}

/// The services that have to act before a transaction can go on, each once. A parked branch waits for a person instead.
fn waited_for(live: &Live) -> BTreeSet<&str> {
    let branches = live.tx.branches.iter().zip(&live.plan.branches);
    let waiting = branches.filter(|(branch, _)| !branch.finished() && !matches!(branch.progress, Progress::Parked(_)));
    waiting.map(|(_, plan)| plan.service.as_str()).collect()
}
