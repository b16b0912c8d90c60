//! What operators do with templates.

use tercet_proto::coupon_template::v1 as pb;

use crate::route::{Answer, Call, Operator, Reply};
use crate::schema::{Entries, Id, Nothing};
use crate::services::Told as _;
use crate::wire::common::given;
use crate::wire::template::{
    ChangeFilter, Changed, Changes, NewAudience, NewRules, NewTemplate, Reason, Template, TemplateFilter, TemplateId,
    TemplateStatus, TemplateVersion, Templates, Usage, VersionRules,
};

pub(crate) async fn create(call: Call<Operator, Nothing, NewTemplate>) -> Answer<Changed> {
    let NewTemplate { name, rules, change } = call.body;
    let request = pb::CreateTemplateRequest {
        name,
        rules: Some(rules.wire()?),
        change: change.wire(call.caller.name),
        idempotency_key: call.context.idempotency_key.clone(),
    };
    let request = call.context.request(request);
    let made = Changed::try_from(call.context.services.templates.clone().create_template(request).await.told()?)?;
    let is_new = made.changed;
    Ok(Reply::made(made, is_new))
}

pub(crate) async fn list(call: Call<Operator, TemplateFilter, Nothing>) -> Answer<Templates> {
    let request = pb::ListTemplatesRequest {
        status: call.params.status.map_or(0, TemplateStatus::number),
        claimable_at_ms: call.params.claimable_at_ms.unwrap_or_default(),
        limit: Entries::number(call.params.limit),
        after: call.params.after.unwrap_or_default(),
    };
    let request = call.context.request(request);
    let found = call.context.services.templates.clone().list_templates(request).await.told()?;
    Ok(Reply::ok(found.into()))
}

pub(crate) async fn get(call: Call<Operator, TemplateId, Nothing>) -> Answer<Template> {
    let Id(template_id) = call.params.template_id;
    let request = call.context.request(pb::GetTemplateRequest { template_id });
    let found = call.context.services.templates.clone().get_template(request).await.told()?;
    Ok(Reply::ok(given(found.template)?.into()))
}

pub(crate) async fn rules(call: Call<Operator, TemplateVersion, Nothing>) -> Answer<VersionRules> {
    let TemplateVersion { template_id: Id(template_id), version } = call.params;
    let request = call.context.request(pb::GetRulesRequest { template_id, version });
    let found = call.context.services.templates.clone().get_rules(request).await.told()?;
    Ok(Reply::ok(found.try_into()?))
}

pub(crate) async fn set_rules(call: Call<Operator, TemplateId, NewRules>) -> Answer<Changed> {
    let NewRules { rules, change } = call.body;
    let request = pb::SetRulesRequest {
        template_id: call.params.template_id.0,
        rules: Some(rules.wire()?),
        change: change.wire(call.caller.name),
    };
    let request = call.context.request(request);
    changed(call.context.services.templates.clone().set_rules(request).await.told()?)
}

pub(crate) async fn start_gray(call: Call<Operator, TemplateId, NewAudience>) -> Answer<Changed> {
    let NewAudience { audience, change } = call.body;
    let request = pb::StartGrayRequest {
        template_id: call.params.template_id.0,
        audience: audience.wire(),
        change: change.wire(call.caller.name),
    };
    let request = call.context.request(request);
    changed(call.context.services.templates.clone().start_gray(request).await.told()?)
}

pub(crate) async fn promote(call: Call<Operator, TemplateVersion, Reason>) -> Answer<Changed> {
    let TemplateVersion { template_id: Id(template_id), version } = call.params;
    let change = call.body.change.wire(call.caller.name);
    let request = call.context.request(pb::PromoteRequest { template_id, version, change });
    changed(call.context.services.templates.clone().promote(request).await.told()?)
}

pub(crate) async fn roll_back(call: Call<Operator, TemplateVersion, Reason>) -> Answer<Changed> {
    let TemplateVersion { template_id: Id(template_id), version } = call.params;
    let change = call.body.change.wire(call.caller.name);
    let request = call.context.request(pb::RollBackRequest { template_id, version, change });
    changed(call.context.services.templates.clone().roll_back(request).await.told()?)
}

pub(crate) async fn pause(call: Call<Operator, TemplateId, Reason>) -> Answer<Changed> {
    let (Id(template_id), change) = (call.params.template_id, call.body.change.wire(call.caller.name));
    let request = call.context.request(pb::PauseRequest { template_id, change });
    changed(call.context.services.templates.clone().pause(request).await.told()?)
}

pub(crate) async fn resume(call: Call<Operator, TemplateId, Reason>) -> Answer<Changed> {
    let (Id(template_id), change) = (call.params.template_id, call.body.change.wire(call.caller.name));
    let request = call.context.request(pb::ResumeRequest { template_id, change });
    changed(call.context.services.templates.clone().resume(request).await.told()?)
}

pub(crate) async fn end(call: Call<Operator, TemplateId, Reason>) -> Answer<Changed> {
    let (Id(template_id), change) = (call.params.template_id, call.body.change.wire(call.caller.name));
    let request = call.context.request(pb::EndRequest { template_id, change });
    changed(call.context.services.templates.clone().end(request).await.told()?)
}

pub(crate) async fn usage(call: Call<Operator, TemplateVersion, Nothing>) -> Answer<Usage> {
    let TemplateVersion { template_id: Id(template_id), version } = call.params;
    let request = call.context.request(pb::CompareUsageRequest { template_id, version });
    let found = call.context.services.templates.clone().compare_usage(request).await.told()?;
    Ok(Reply::ok(found.try_into()?))
}

pub(crate) async fn changes(call: Call<Operator, ChangeFilter, Nothing>) -> Answer<Changes> {
    let number = |id: Option<Id>| id.map_or(0, |id| id.0);
    let request = pb::ListChangesRequest {
        template_id: number(call.params.template_id),
        operator: call.params.operator.unwrap_or_default(),
        limit: Entries::number(call.params.limit),
        before: number(call.params.before),
    };
    let request = call.context.request(request);
    let found = call.context.services.templates.clone().list_changes(request).await.told()?;
    Ok(Reply::ok(found.into()))
}

fn changed(wire: pb::ChangeResponse) -> Answer<Changed> {
    Ok(Reply::ok(wire.try_into()?))
}
