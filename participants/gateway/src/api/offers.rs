//! What users can have.

use tercet_proto::coupon_template::v1 as pb;
use tercet_rules::{Code, Offer};

use crate::route::{Answer, Call, Reply, User};
use crate::schema::{Entries, Id, Nothing};
use crate::services::Told as _;
use crate::wire::common::{Page, given};
use crate::wire::template::{OfferedTemplates, TemplateId, UserOffer};

/// What the user could claim now, in the version that he gets.
pub(crate) async fn list(call: Call<User, Page, Nothing>) -> Answer<OfferedTemplates> {
    let now_ms = i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap_or(i64::MAX).saturating_mul(1_000);
    let request = pb::ListOffersRequest {
        user_id: call.caller.id,
        groups: call.caller.groups,
        claimable_at_ms: now_ms,
        limit: Entries::number(call.params.limit),
        after: call.params.after.unwrap_or_default(),
    };
    let request = call.context.request(request);
    let found = call.context.services.templates.clone().list_offers(request).await.told()?;
    Ok(Reply::ok(found.try_into()?))
}

/// The version that this user gets.
pub(crate) async fn get(call: Call<User, TemplateId, Nothing>) -> Answer<UserOffer> {
    let Id(template_id) = call.params.template_id;
    let request = call.context.request(pb::GetOfferRequest { template_id });
    let offer = given(call.context.services.templates.clone().get_offer(request).await.told()?.offer)?;
    let offer = Offer::try_from(&offer).map_err(|error| {
        tracing::error!(%error, template_id, "an offer is not sound");
        Code::Internal.fault([])
    })?;
    let release = offer.choose(call.caller.id, &call.caller.groups)?;
    let rules = pb::Rules::from(&release.rules).into();
    Ok(Reply::ok(UserOffer { template_id: Id(template_id), version: release.version, rules }))
}
