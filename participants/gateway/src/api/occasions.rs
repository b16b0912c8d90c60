//! Occasions to give coupons, and what they are told.

use tercet_proto::coupon::v1 as pb;

use crate::route::{Answer, Call, Operator, Reply};
use crate::schema::{Entries, Id, Nothing};
use crate::services::Told as _;
use crate::wire::common::given;
use crate::wire::occasion::{
    CampaignId, CampaignStart, NewOccasion, Notice, Occasion, OccasionFilter, OccasionId, OccasionReason, OccasionRun,
    OccasionRuns, OccasionState, Occasions, Registered, Registration, RunFilter, RunState,
};

pub(crate) async fn create(call: Call<Operator, Nothing, NewOccasion>) -> Answer<Occasion> {
    let NewOccasion { on, template_id: Id(template_id), coupons_per_user, reason } = call.body;
    let request = pb::CreateOccasionRequest {
        on: Some(on.wire()?),
        template_id,
        coupons_per_user,
        operator: call.caller.name,
        reason,
        idempotency_key: call.context.idempotency_key.clone(),
    };
    let request = call.context.request(request);
    let made = call.context.services.issuing.clone().create_occasion(request).await.told()?;
    Ok(Reply::made(given(made.occasion)?.into(), made.changed))
}

pub(crate) async fn list(call: Call<Operator, OccasionFilter, Nothing>) -> Answer<Occasions> {
    let request = pb::ListOccasionsRequest {
        state: call.params.state.map_or(0, OccasionState::number),
        limit: Entries::number(call.params.limit),
        before: call.params.before.map_or(0, |id| id.0),
    };
    let request = call.context.request(request);
    let found = call.context.services.issuing.clone().list_occasions(request).await.told()?;
    let next = (found.next > 0).then_some(Id(found.next));
    Ok(Reply::ok(Occasions { items: found.occasions.into_iter().map(Into::into).collect(), next }))
}

pub(crate) async fn get(call: Call<Operator, OccasionId, Nothing>) -> Answer<Occasion> {
    let Id(occasion_id) = call.params.occasion_id;
    let request = call.context.request(pb::GetOccasionRequest { occasion_id });
    let found = call.context.services.issuing.clone().get_occasion(request).await.told()?;
    Ok(Reply::ok(given(found.occasion)?.into()))
}

pub(crate) async fn stop(call: Call<Operator, OccasionId, OccasionReason>) -> Answer<Occasion> {
    let (Id(occasion_id), operator, reason) = (call.params.occasion_id, call.caller.name, call.body.reason);
    let request = call.context.request(pb::StopOccasionRequest { occasion_id, operator, reason });
    let changed = call.context.services.issuing.clone().stop_occasion(request).await.told()?;
    Ok(Reply::ok(given(changed.occasion)?.into()))
}

pub(crate) async fn retry(call: Call<Operator, OccasionId, OccasionReason>) -> Answer<Occasion> {
    let (Id(occasion_id), operator, reason) = (call.params.occasion_id, call.caller.name, call.body.reason);
    let request = call.context.request(pb::RetryOccasionRequest { occasion_id, operator, reason });
    let changed = call.context.services.issuing.clone().retry_occasion(request).await.told()?;
    Ok(Reply::ok(given(changed.occasion)?.into()))
}

pub(crate) async fn runs(call: Call<Operator, RunFilter, Nothing>) -> Answer<OccasionRuns> {
    let request = pb::ListOccasionRunsRequest {
        occasion_id: call.params.occasion_id.0,
        state: call.params.state.map_or(0, RunState::number),
        limit: Entries::number(call.params.limit),
        before: call.params.before.map_or(0, |id| id.0),
    };
    let request = call.context.request(request);
    let found = call.context.services.issuing.clone().list_occasion_runs(request).await.told()?;
    let (language, next) = (call.context.language, (found.next > 0).then_some(Id(found.next)));
    let items = found.runs.into_iter().map(|run| OccasionRun::of(run, language)).collect();
    Ok(Reply::ok(OccasionRuns { items, next }))
}

pub(crate) async fn registered(call: Call<Operator, Registered, Registration>) -> Answer<Notice> {
    let request = pb::TellRegisteredRequest {
        user_id: call.params.user_id.0,
        groups: call.body.groups.unwrap_or_default(),
        operator: call.caller.name,
    };
    let request = call.context.request(request);
    call.context.services.issuing.clone().tell_registered(request).await.told()?;
    Ok(Reply::accepted(Notice { users: 1 }))
}

pub(crate) async fn start(call: Call<Operator, CampaignId, CampaignStart>) -> Answer<Notice> {
    let CampaignStart { user_ids, reason } = call.body;
    let user_ids: Vec<i64> = user_ids.into_iter().map(|id| id.0).collect();
    let users = user_ids.len() as u64;
    let (campaign_id, operator) = (call.params.campaign_id.0, call.caller.name);
    let request = call.context.request(pb::StartCampaignRequest { campaign_id, user_ids, operator, reason });
    call.context.services.issuing.clone().start_campaign(request).await.told()?;
    Ok(Reply::accepted(Notice { users }))
}
