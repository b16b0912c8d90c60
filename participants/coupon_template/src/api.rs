//! The service over gRPC: requests become values or an error that names the field, errors become those of the
//! catalogue.

use std::collections::HashSet;

use tercet_proto::coupon_template::v1 as pb;
use tercet_proto::coupon_template::v1::coupon_templates_server::CouponTemplates;
use tercet_rules::limits::TIME_MS_MAX;
use tercet_rules::{Audience, Code, Fault, Invalid, Limit, Rules, opened, sealed, text};
use tonic::{Request, Response, Status};

use crate::lifecycle;
use crate::limits::{
    GROUPS_MAX, NAME_BYTES_MAX, OPERATOR_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX, REASON_BYTES_MAX, USAGE_MAX, VERSIONS_MAX,
};
use crate::store::{Place, Store};
use crate::templates::{Change, Changed, Command, Error, Templates, UserOffer};

/// The list of offers, in what says where its pages begin.
const OFFERS: &str = "offers";

/// The service's routes.
#[derive(Debug)]
pub struct Api<Db: Store> {
    templates: Templates<Db>,
}

type Answer<T> = Result<Response<T>, Status>;

impl<Db: Store> Api<Db> {
    /// Over these templates.
    pub const fn new(templates: Templates<Db>) -> Self {
        Self { templates }
    }

    /// A change that expects a revision.
    async fn expecting(
        &self,
        template_id: i64,
        wire: Option<pb::Change>,
        command: Command,
    ) -> Answer<pb::ChangeResponse> {
        let change = change(wire).map_err(invalid)?;
        if change.expected_revision.is_none() {
            return Err(invalid(Invalid::new("change.expected_revision", Limit::Given)));
        }
        self.change(template_id, change, command).await
    }

    async fn change(&self, template_id: i64, change: Change, command: Command) -> Answer<pb::ChangeResponse> {
        self.templates.change(template_id, &change, command).await.map(changed).map_err(status)
    }
}

#[tonic::async_trait]
impl<Db: Store> CouponTemplates for Api<Db> {
    async fn create_template(&self, request: Request<pb::CreateTemplateRequest>) -> Answer<pb::ChangeResponse> {
        let request = request.into_inner();
        let name = text("name", &request.name, NAME_BYTES_MAX).map_err(invalid)?;
        let key = text("idempotency_key", &request.idempotency_key, NAME_BYTES_MAX).map_err(invalid)?;
        let rules = rules(request.rules.as_ref()).map_err(invalid)?;
        let change = change(request.change).map_err(invalid)?;
        self.templates.create(name, &rules, &change, key).await.map(changed).map_err(status)
    }

    async fn set_rules(&self, request: Request<pb::SetRulesRequest>) -> Answer<pb::ChangeResponse> {
        let request = request.into_inner();
        let rules = rules(request.rules.as_ref()).map_err(invalid)?;
        self.expecting(request.template_id, request.change, Command::SetRules(rules)).await
    }

    async fn start_gray(&self, request: Request<pb::StartGrayRequest>) -> Answer<pb::ChangeResponse> {
        let request = request.into_inner();
        let wire = request.audience.ok_or_else(|| invalid(Invalid::new("audience", Limit::Given)))?;
        let audience = Audience::try_from(&wire).map_err(|error| invalid(error.within("audience")))?;
        self.expecting(request.template_id, request.change, Command::StartGray(audience)).await
    }

    async fn promote(&self, request: Request<pb::PromoteRequest>) -> Answer<pb::ChangeResponse> {
        let pb::PromoteRequest { template_id, version, change: wire } = request.into_inner();
        let change = change(wire).map_err(invalid)?;
        self.change(template_id, change, Command::Promote(version)).await
    }

    async fn roll_back(&self, request: Request<pb::RollBackRequest>) -> Answer<pb::ChangeResponse> {
        let pb::RollBackRequest { template_id, version, change: wire } = request.into_inner();
        let change = change(wire).map_err(invalid)?;
        self.change(template_id, change, Command::RollBack(version)).await
    }

    async fn pause(&self, request: Request<pb::PauseRequest>) -> Answer<pb::ChangeResponse> {
        let request = request.into_inner();
        self.expecting(request.template_id, request.change, Command::Pause).await
    }

    async fn resume(&self, request: Request<pb::ResumeRequest>) -> Answer<pb::ChangeResponse> {
        let request = request.into_inner();
        self.expecting(request.template_id, request.change, Command::Resume).await
    }

    async fn end(&self, request: Request<pb::EndRequest>) -> Answer<pb::ChangeResponse> {
        let request = request.into_inner();
        self.expecting(request.template_id, request.change, Command::End).await
    }

    async fn get_template(&self, request: Request<pb::GetTemplateRequest>) -> Answer<pb::GetTemplateResponse> {
        let template = self.templates.template(request.into_inner().template_id).await.map_err(status)?;
        Ok(Response::new(pb::GetTemplateResponse { template: Some((&template).into()) }))
    }

    async fn get_rules(&self, request: Request<pb::GetRulesRequest>) -> Answer<pb::GetRulesResponse> {
        let pb::GetRulesRequest { template_id, version } = request.into_inner();
        let found = self.templates.version(template_id, version).await.map_err(status)?;
        let published_ms = found.published_ms.unwrap_or_default();
        Ok(Response::new(pb::GetRulesResponse { rules: Some((&found.rules).into()), published_ms }))
    }

    async fn get_offer(&self, request: Request<pb::GetOfferRequest>) -> Answer<pb::GetOfferResponse> {
        let offer = self.templates.offer(request.into_inner().template_id).await.map_err(status)?;
        Ok(Response::new(pb::GetOfferResponse { offer: Some((&*offer).into()) }))
    }

    async fn list_offers(&self, request: Request<pb::ListOffersRequest>) -> Answer<pb::ListOffersResponse> {
        let pb::ListOffersRequest { user_id, groups, claimable_at_ms, limit, after } = request.into_inner();
        let (limit, after) = (page(limit).map_err(invalid)?, place(OFFERS, &after).map_err(invalid)?);
        if groups.len() > GROUPS_MAX {
            return Err(invalid(Invalid::new("groups", Limit::Entries(0, GROUPS_MAX))));
        }
        let found = self.templates.offers((user_id, &groups), claimable_at_ms, after, limit).await;
        let (offers, next) = found.map_err(status)?;
        let offers = offers.into_iter().map(|UserOffer { template, release }| pb::UserOffer {
            template_id: template.template_id,
            name: template.name,
            release: Some((&release).into()),
        });
        Ok(Response::new(pb::ListOffersResponse {
            offers: offers.collect(),
            next: next.map(|next| said(OFFERS, next)).unwrap_or_default(),
        }))
    }

    async fn get_versions(&self, request: Request<pb::GetVersionsRequest>) -> Answer<pb::GetVersionsResponse> {
        let pb::GetVersionsRequest { versions } = request.into_inner();
        if !(1..=VERSIONS_MAX).contains(&versions.len()) {
            return Err(invalid(Invalid::new("versions", Limit::Entries(1, VERSIONS_MAX))));
        }
        let mut known = HashSet::new();
        if let Some(at) = versions.iter().position(|key| !known.insert((key.template_id, key.version))) {
            return Err(invalid(Invalid::new(&format!("versions[{at}]"), Limit::Unique)));
        }
        let versions = self.templates.named(&versions).await.map_err(status)?;
        Ok(Response::new(pb::GetVersionsResponse { versions }))
    }

    async fn list_templates(&self, request: Request<pb::ListTemplatesRequest>) -> Answer<pb::ListTemplatesResponse> {
        let request = request.into_inner();
        let limit = page(request.limit).map_err(invalid)?;
        let list = format!("templates {}", request.status);
        let after = place(&list, &request.after).map_err(invalid)?;
        let at_ms = (request.claimable_at_ms > 0).then_some(request.claimable_at_ms);
        let found = match (request.status, at_ms) {
            (0, None) => self.templates.list_all(after.2, limit).await,
            (0, Some(_)) => return Err(invalid(Invalid::new("status", Limit::Given))),
            (number, at_ms) => {
                let wanted = lifecycle::Status::from_number(number.into());
                let wanted = wanted.ok_or_else(|| invalid(Invalid::new("status", Limit::Listed)))?;
                self.templates.list_status(wanted, at_ms, after, limit).await
            }
        };
        let found = found.map_err(status)?;
        let next = found.last().filter(|_| found.len() == limit as usize).map(|last| said(&list, last.place()));
        let next = next.unwrap_or_default();
        let templates = found.iter().map(Into::into).collect();
        Ok(Response::new(pb::ListTemplatesResponse { templates, next }))
    }

    async fn list_changes(&self, request: Request<pb::ListChangesRequest>) -> Answer<pb::ListChangesResponse> {
        let request = request.into_inner();
        let limit = page(request.limit).map_err(invalid)?;
        let before = if request.before > 0 { request.before } else { i64::MAX };
        let changes = self.templates.changes(request.template_id, &request.operator, before, limit).await;
        let changes = changes.map_err(status)?;
        let next = changes.last().filter(|_| changes.len() == limit as usize).map_or(0, |last| last.change_id);
        Ok(Response::new(pb::ListChangesResponse { changes, next }))
    }

    async fn record_usage(&self, request: Request<pb::RecordUsageRequest>) -> Answer<pb::RecordUsageResponse> {
        let request = request.into_inner();
        let source = text("source", &request.source, OPERATOR_BYTES_MAX).map_err(invalid)?;
        let sequence = i64::try_from(request.sequence).ok().filter(|sequence| *sequence > 0);
        let sequence = sequence.ok_or_else(|| invalid(Invalid::new("sequence", Limit::Between(1, i64::MAX))))?;
        usage(&request.usage).map_err(invalid)?;
        let counted = self.templates.record_usage(source, sequence, &request.usage).await.map_err(status)?;
        Ok(Response::new(pb::RecordUsageResponse { counted }))
    }

    async fn compare_usage(&self, request: Request<pb::CompareUsageRequest>) -> Answer<pb::CompareUsageResponse> {
        let pb::CompareUsageRequest { template_id, version } = request.into_inner();
        let [gray, rest] = self.templates.compare_usage(template_id, version).await.map_err(status)?;
        Ok(Response::new(pb::CompareUsageResponse { gray: Some(gray), rest: Some(rest) }))
    }
}

fn invalid(error: Invalid) -> Status {
    Fault::from(error).status()
}

fn status(error: Error) -> Status {
    match error {
        Error::Fault(fault) => fault.status(),
        Error::Database(error) => {
            tracing::error!(%error, "the database of templates");
            Code::SystemBusy.fault([]).status()
        }
    }
}

fn changed(done: Changed) -> Response<pb::ChangeResponse> {
    Response::new(pb::ChangeResponse { template: Some((&done.template).into()), changed: done.changed })
}

fn rules(wire: Option<&pb::Rules>) -> Result<Rules, Invalid> {
    let wire = wire.ok_or_else(|| Invalid::new("rules", Limit::Given))?;
    Rules::try_from(wire).map_err(|error| error.within("rules"))
}

fn change(wire: Option<pb::Change>) -> Result<Change, Invalid> {
    let wire = wire.ok_or_else(|| Invalid::new("change", Limit::Given))?;
    text("change.operator", &wire.operator, OPERATOR_BYTES_MAX)?;
    text("change.reason", &wire.reason, REASON_BYTES_MAX)?;
    let expected_revision = (wire.expected_revision > 0).then_some(wire.expected_revision);
    Ok(Change { expected_revision, operator: wire.operator, reason: wire.reason })
}

fn page(limit: u32) -> Result<u32, Invalid> {
    match limit {
        0 => Ok(PAGE_DEFAULT),
        1..=PAGE_MAX => Ok(limit),
        _ => Err(Invalid::new("limit", Limit::Between(1, PAGE_MAX.into()))),
    }
}

/// Where the page of a list after this place begins.
fn said(list: &str, (start_ms, end_ms, template_id): Place) -> String {
    sealed(list, &format!("{start_ms}:{end_ms}:{template_id}"))
}

/// What [`said`] says of this list; the beginning where nothing is said.
fn place(list: &str, text: &str) -> Result<Place, Invalid> {
    let text = opened("after", list, text)?;
    if text.is_empty() {
        return Ok((0, 0, 0));
    }
    let numbers: Option<Vec<i64>> = text.split(':').map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[start_ms, end_ms, template_id]) => Ok((start_ms, end_ms, template_id)),
        Some(_) | None => Err(Invalid::new("after", Limit::Page)),
    }
}

fn usage(usage: &[pb::Usage]) -> Result<(), Invalid> {
    if !(1..=USAGE_MAX).contains(&usage.len()) {
        return Err(Invalid::new("usage", Limit::Entries(1, USAGE_MAX)));
    }
    let mut keys = std::collections::BTreeSet::new();
    if let Some(at) = usage.iter().position(|one| !(1..=TIME_MS_MAX).contains(&one.claimed_ms)) {
        return Err(Invalid::new(&format!("usage[{at}].claimed_ms"), Limit::Between(1, TIME_MS_MAX)));
    }
    let twice = usage.iter().position(|one| !keys.insert((one.template_id, one.version, one.claimed_ms)));
    let named = |at| Invalid::new(&format!("usage[{at}]"), Limit::Unique);
    twice.map_or(Ok(()), |at| Err(named(at)))
}
