//! What operators change: transactions, compensations, and the coordinator itself. Who, why and what is always audited.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tercet_proto::admin::v1 as pb;
use tercet_proto::coordinator::v1 as coordinator;
use tokio::sync::oneshot;
use tonic::metadata::MetadataMap;

use super::{Service, decode, page, parse_xid, unavailable};
use crate::api::errors;
use crate::audit::{AuditRow, AuditWrite};
use crate::controls::Knob;
use crate::operate::{Order, Wanted, told};
use crate::plan::Invalid;
use crate::request::{Error, Input};
use crate::store::{AuditQuery, Compensation, CompensationQuery, CompensationStatus, Lookup, Store, Write};
use crate::{limits, names};

/// Times that a transaction is read and handed to the driver before an operator is told to come again.
const ATTEMPTS_MAX: usize = 5;

/// The metadata in which an operator says who they are.
const OPERATOR: &str = "x-tercet-operator";

fn invalid(field: &str, limit: impl Into<String>) -> Error {
    Invalid { field: field.into(), limit: limit.into() }.into()
}

/// Who calls: the one place where an operator's name comes from.
pub(super) fn operator(metadata: &MetadataMap) -> Result<String, Error> {
    let limit = || format!("1 to {} visible characters", limits::OPERATOR_BYTES_MAX);
    let Some(value) = metadata.get(OPERATOR) else { return Ok("unknown".into()) };
    let name = value.to_str().ok().filter(|name| (1..=limits::OPERATOR_BYTES_MAX).contains(&name.len()));
    name.map(str::to_owned).ok_or_else(|| invalid(OPERATOR, limit()))
}

/// A branch's index, which the driver compares with how many there are.
pub(super) fn branch(index: Option<u32>) -> Result<Option<u8>, Error> {
    let limit = || format!("at most {}", limits::BRANCHES_MAX - 1);
    index.map(|index| u8::try_from(index).map_err(|_| invalid("branch", limit()))).transpose()
}

pub(super) fn policy(index: Option<u32>, retry: Option<coordinator::RetryPolicy>) -> Result<Wanted, Error> {
    let retry = retry.filter(|retry| *retry != coordinator::RetryPolicy::default());
    Ok(Wanted::SetRetry(branch(index)?, retry.ok_or_else(|| invalid("retry", "at least one field that is not 0"))?))
}

/// Checks why something is to be changed, and whether it is.
fn checked(change: Option<pb::Change>, needs_reason: bool) -> Result<pb::Change, Error> {
    let change = change.unwrap_or_default();
    if change.reason.len() > limits::REASON_BYTES_MAX || change.reason.chars().any(char::is_control) {
        let limit = format!("at most {} bytes, without control characters", limits::REASON_BYTES_MAX);
        return Err(invalid("change.reason", limit));
    }
    if needs_reason && change.reason.trim().is_empty() {
        return Err(invalid("change.reason", "required: say why"));
    }
    Ok(change)
}

impl<S: Store> Service<S> {
    /// Gives an order to the driver, wherever the transaction is, and answers once what it changed is durable.
    pub(super) async fn order(
        &self,
        xid: &[u8],
        wanted: Wanted,
        who: String,
        change: Option<pb::Change>,
        needs_reason: bool,
    ) -> Result<pb::Changed, Error> {
        let xid = parse_xid(xid)?;
        let pb::Change { reason, dry_run } = checked(change, needs_reason)?;
        let order = Order { wanted, who, why: reason, dry_run };
        let mut live = None;
        for _ in 0..ATTEMPTS_MAX {
            let (answer, answered) = oneshot::channel();
            self.put(Input::Operate { xid, live: live.take(), order: Box::new(order.clone()), answer })?;
            match answered.await.unwrap_or(Err(Error::Stopping)) {
                Err(Error::NotHere) => {}
                told => return told,
            }
            let record = self.store.get(Lookup::Xid(xid)).await.map_err(|error| unavailable(&error))?;
            live = Some(Box::new(decode(&record.ok_or(Error::NotFound)?)?));
        }
        Err(Error::Unavailable { reason: "the transaction keeps moving between coordinators".into() })
    }

    /// Retries rows of `compensation_log`, each on its own.
    pub(super) async fn retry_rows(
        &self,
        request: pb::RetryCompensationsRequest,
        who: String,
    ) -> Result<pb::RetryCompensationsResponse, Error> {
        let change = checked(request.change, false)?;
        let (mut rows, mut changed) = (Vec::new(), Vec::new());
        let mut next_id = 0;
        if request.ids.is_empty() {
            (rows, next_id) =
                self.waiting_rows(request.status, request.service, request.limit, request.after_id).await?;
        } else {
            if request.ids.len() > limits::PAGE_MAX as usize {
                return Err(invalid("ids", format!("at most {}", limits::PAGE_MAX)));
            }
            for id in request.ids {
                match self.row(id).await {
                    Ok(row) => rows.push(row),
                    // The others are called all the same.
                    Err(Error::NotFound) => {
                        let result = pb::compensation_changed::Result::Error(errors::entry(&Error::NotFound));
                        changed.push(pb::CompensationChanged { id, result: Some(result), ..Default::default() });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        for row in rows {
            let xid = Bytes::copy_from_slice(&row.xid.0);
            let wanted = Wanted::Retry(Some(row.branch as u8));
            let told = self.order(&xid, wanted, who.clone(), Some(change.clone()), false).await;
            let result = match told {
                Ok(told) => pb::compensation_changed::Result::Difference(told.difference.unwrap_or_default()),
                Err(error) => pb::compensation_changed::Result::Error(errors::entry(&error)),
            };
            let branch = row.branch.into();
            changed.push(pb::CompensationChanged { id: row.id, xid, branch, result: Some(result) });
        }
        Ok(pb::RetryCompensationsResponse { changed, next_id })
    }

    /// Rows that are pending or failed, and after which id there are more of them.
    async fn waiting_rows(
        &self,
        status: Option<u32>,
        service: String,
        limit: u32,
        after_id: u64,
    ) -> Result<(Vec<Compensation>, u64), Error> {
        let limit = page(limit)?;
        let status = match status {
            None => None,
            Some(0) => Some(CompensationStatus::Pending),
            Some(2) => Some(CompensationStatus::Failed),
            Some(_) => return Err(invalid("status", "0 pending, 2 failed")),
        };
        let service = (!service.is_empty()).then_some(service);
        let rows = self.store.list(CompensationQuery { status, service, xid: None, after_id, limit }).await;
        let mut rows = rows.map_err(|error| unavailable(&error))?;
        let next_id = rows.last().filter(|_| rows.len() == limit as usize).map_or(0, |row| row.id);
        rows.retain(|row| row.status != CompensationStatus::Done);
        Ok((rows, next_id))
    }

    async fn row(&self, id: u64) -> Result<Compensation, Error> {
        let query = CompensationQuery { after_id: id.saturating_sub(1), limit: 1, ..CompensationQuery::default() };
        let found = self.store.list(query).await.map_err(|error| unavailable(&error))?;
        found.into_iter().find(|row| row.id == id).ok_or(Error::NotFound)
    }

    pub(super) async fn resolve_row(
        &self,
        request: pb::ResolveCompensationRequest,
        who: String,
    ) -> Result<pb::ResolveCompensationResponse, Error> {
        let row = self.row(request.id).await?;
        let operation = names::operation_from(row.operation).ok_or(Error::NotFound)?;
        let wanted = Wanted::Resolve(row.branch as u8, operation);
        let changed = self.order(&row.xid.0, wanted, who, request.change, true).await?;
        Ok(pb::ResolveCompensationResponse { changed: Some(changed) })
    }

    /// Makes a change of the coordinator's own settings known to the log before it is in force.
    async fn witness(
        &self,
        act: &str,
        who: String,
        change: pb::Change,
        setting: pb::SettingDifference,
    ) -> Result<pb::Difference, Error> {
        let difference = pb::Difference { settings: vec![setting], ..pb::Difference::default() };
        if change.dry_run {
            return Ok(difference);
        }
        let (before, after) = told(&difference);
        let audit = AuditWrite { who, act: act.to_owned(), xid: None, why: change.reason, before, after };
        self.store.write(vec![Write::Audit(audit)]).await.map_err(|error| unavailable(&error))?;
        Ok(difference)
    }

    pub(super) async fn drain(&self, request: pb::DrainRequest, who: String) -> Result<pb::DrainResponse, Error> {
        let change = checked(request.change, false)?;
        let controls = &self.gauges.controls;
        let (before, after) = (controls.draining(), !request.undo);
        if before == after {
            let why = if after { "it drains already" } else { "it does not drain" };
            return Err(Error::NothingToDo { why: why.into() });
        }
        let dry_run = change.dry_run;
        let (before, after_text) = (before.to_string(), after.to_string());
        let setting = pb::SettingDifference { name: "draining".into(), before, after: after_text };
        let difference = self.witness(if after { "drain" } else { "undo-drain" }, who, change, setting).await?;
        if !dry_run {
            controls.drain(after);
        }
        Ok(pb::DrainResponse { difference: Some(difference), live: self.gauges.live.load(Ordering::Relaxed) })
    }

    pub(super) fn limits(&self) -> pb::ListLimitsResponse {
        let controls = &self.gauges.controls;
        let limits = Knob::ALL.map(|knob| {
            let (least, most) = knob.bounds();
            pb::Limit {
                name: knob.name().into(),
                value: controls.get(knob),
                least,
                most,
                configured: controls.configured(knob),
                text: knob.text().into(),
            }
        });
        pb::ListLimitsResponse { limits: limits.into() }
    }

    pub(super) async fn set_limit(
        &self,
        request: pb::SetLimitRequest,
        who: String,
    ) -> Result<pb::SetLimitResponse, Error> {
        let change = checked(request.change, false)?;
        let knob = Knob::parse(&request.name, request.value)?;
        let controls = &self.gauges.controls;
        if controls.get(knob) == request.value {
            return Err(Error::NothingToDo { why: format!("{} is {} already", knob.name(), request.value) });
        }
        let dry_run = change.dry_run;
        let (before, after) = (controls.get(knob).to_string(), request.value.to_string());
        let setting = pb::SettingDifference { name: knob.name().into(), before, after };
        let difference = self.witness("set-limit", who, change, setting).await?;
        if !dry_run {
            controls.set(knob, request.value);
        }
        Ok(pb::SetLimitResponse { difference: Some(difference) })
    }

    pub(super) async fn audit(&self, request: pb::ListAuditRequest) -> Result<pb::ListAuditResponse, Error> {
        let xid = (!request.xid.is_empty()).then(|| parse_xid(&request.xid)).transpose()?;
        let query = AuditQuery {
            xid,
            after_id: request.after_id,
            before_id: (request.before_id > 0).then_some(request.before_id),
            limit: page(request.limit)?,
        };
        let last = AuditQuery { before_id: Some(u64::MAX), limit: 1, ..AuditQuery::default() };
        let last = self.store.list(last).await.map_err(|error| unavailable(&error))?;
        let rows = self.store.list(query).await.map_err(|error| unavailable(&error))?;
        let (count, head) = last.last().map_or((0, Vec::new()), |last| (last.id, last.hash.clone()));
        Ok(pb::ListAuditResponse { rows: rows.into_iter().map(shown).collect(), count, head: head.into() })
    }
}

fn shown(row: AuditRow) -> pb::AuditRow {
    let AuditWrite { who, act, xid, why, before, after } = row.write;
    pb::AuditRow {
        id: row.id,
        at_ms: row.at.0,
        who,
        act,
        xid: xid.map_or_else(Bytes::new, |xid| Bytes::copy_from_slice(&xid.0)),
        why,
        before,
        after,
        previous: row.previous.into(),
        hash: row.hash.into(),
    }
}
