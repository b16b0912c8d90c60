//! How users get coupons, and what they have; how operators give and see them.

use futures_util::StreamExt as _;
use tercet_proto::coupon::v1 as pb;
use tercet_rules::Fault;

use crate::route::{Answer, Call, Lines, Operator, Reply, User};
use crate::schema::{Entries, Id, Nothing};
use crate::services::{Context, Told as _, fault};
use crate::wire::common::{given, next};
use crate::wire::coupon::{
    AllCoupons, Batch, BatchFilter, BatchId, BatchReason, BatchState, Batches, Claim, Coupon, CouponId, CouponStatus,
    Coupons, NewBatch, OwnCoupons, VoidReason,
};

pub(crate) async fn claim(call: Call<User, Nothing, Claim>) -> Answer<Coupon> {
    let request = pb::ClaimRequest {
        user_id: call.caller.id,
        groups: call.caller.groups,
        template_id: call.body.template_id.0,
        idempotency_key: call.context.idempotency_key.clone(),
    };
    let request = call.context.request(request);
    let made = call.context.services.issuing.clone().claim(request).await.told()?;
    Ok(Reply::made(whole(given(made.coupon)?, &call.context).await, made.claimed))
}

pub(crate) async fn own(call: Call<User, OwnCoupons, Nothing>) -> Answer<Coupons> {
    let OwnCoupons { status, limit, after } = call.params;
    let found = of_user(call.caller.id, status, Entries::number(limit), after, &call.context).await?;
    Ok(Reply::ok(page(found.coupons, found.next, &call.context).await))
}

async fn of_user(
    user_id: i64,
    status: Option<CouponStatus>,
    limit: u32,
    after: Option<String>,
    context: &Context,
) -> Result<pb::ListUserCouponsResponse, Fault> {
    let (status, after) = (status.map_or(0, CouponStatus::number), after.unwrap_or_default());
    let request = context.request(pb::ListUserCouponsRequest { user_id, status, limit, after });
    context.services.issuing.clone().list_user_coupons(request).await.told()
}

pub(crate) async fn get(call: Call<User, CouponId, Nothing>) -> Answer<Coupon> {
    // That of another user is not found: nobody learns which there are.
    find(call.params.coupon_id, call.caller.id, &call.context).await
}

pub(crate) async fn get_any(call: Call<Operator, CouponId, Nothing>) -> Answer<Coupon> {
    find(call.params.coupon_id, 0, &call.context).await
}

async fn find(Id(coupon_id): Id, user_id: i64, context: &Context) -> Answer<Coupon> {
    let request = context.request(pb::GetCouponRequest { coupon_id, user_id });
    let found = context.services.issuing.clone().get_coupon(request).await.told()?;
    Ok(Reply::ok(whole(given(found.coupon)?, context).await))
}

pub(crate) async fn void(call: Call<Operator, CouponId, VoidReason>) -> Answer<Coupon> {
    let (Id(coupon_id), operator, reason) = (call.params.coupon_id, call.caller.name, call.body.reason);
    let request = call.context.request(pb::VoidCouponRequest { coupon_id, operator, reason });
    let voided = call.context.services.issuing.clone().void_coupon(request).await.told()?;
    Ok(Reply::ok(whole(given(voided.coupon)?, &call.context).await))
}

pub(crate) async fn list(call: Call<Operator, AllCoupons, Nothing>) -> Answer<Coupons> {
    let AllCoupons { user_id, template_id, status, limit, after } = call.params;
    let limit = Entries::number(limit);
    if let Some(Id(user_id)) = user_id {
        let mut found = of_user(user_id, status, limit, after, &call.context).await?;
        // He has few: what is left of a page is enough of an answer.
        found.coupons.retain(|coupon| template_id.is_none_or(|Id(wanted)| coupon.template_id == wanted));
        return Ok(Reply::ok(page(found.coupons, found.next, &call.context).await));
    }
    let request = pb::ListCouponsRequest {
        template_id: template_id.map_or(0, |id| id.0),
        status: status.map_or(0, CouponStatus::number),
        limit,
        after: after.unwrap_or_default(),
    };
    let request = call.context.request(request);
    let found = call.context.services.issuing.clone().list_coupons(request).await.told()?;
    Ok(Reply::ok(page(found.coupons, found.next, &call.context).await))
}

/// A coupon with all that it is good for.
async fn whole(wire: pb::UserCoupon, context: &Context) -> Coupon {
    let key = (wire.template_id, wire.version);
    let named = context.services.terms.find(std::iter::once(key), context).await.remove(&key);
    let (name, terms) = named.map(|named| (named.name.clone(), named.whole.clone())).unzip();
    Coupon::of(wire, name, terms)
}

/// A page of coupons, with what each is good for.
async fn page(items: Vec<pb::UserCoupon>, after: String, context: &Context) -> Coupons {
    let keys = items.iter().map(|coupon| (coupon.template_id, coupon.version));
    let known = context.services.terms.find(keys, context).await;
    let shown = |wire: pb::UserCoupon| {
        let named = known.get(&(wire.template_id, wire.version));
        let (name, terms) = named.map(|named| (named.name.clone(), named.short.clone())).unzip();
        Coupon::of(wire, name, terms)
    };
    Coupons { items: items.into_iter().map(shown).collect(), next: next(after) }
}

/// Each line tells how far it is, the last one how it ended.
pub(crate) async fn issue(call: Call<Operator, Nothing, NewBatch>) -> Lines<Batch> {
    let language = call.context.language;
    let request = pb::IssueRequest {
        batch_id: call.body.batch_id,
        template_id: call.body.template_id.0,
        user_ids: call.body.user_ids.into_iter().map(|id| id.0).collect(),
        coupons_per_user: call.body.coupons_per_user,
        operator: call.caller.name,
        reason: call.body.reason,
    };
    // It lasts as long as it does.
    let request = call.context.unhurried(request);
    let told = call.context.services.issuing.clone().issue(request).await.told()?;
    Ok(told.map(move |told| Ok(Batch::of(told.map_err(|status| fault(&status))?, language))).boxed())
}

pub(crate) async fn progress(call: Call<Operator, BatchId, Nothing>) -> Answer<Batch> {
    let request = call.context.request(pb::GetIssueRequest { batch_id: call.params.batch_id });
    let found = call.context.services.issuing.clone().get_issue(request).await.told()?;
    Ok(Reply::ok(Batch::of(given(found.batch)?, call.context.language)))
}

pub(crate) async fn batches(call: Call<Operator, BatchFilter, Nothing>) -> Answer<Batches> {
    let request = pb::ListIssuesRequest {
        state: call.params.state.map_or(0, BatchState::number),
        limit: Entries::number(call.params.limit),
        before: call.params.before.map_or(0, |id| id.0),
    };
    let request = call.context.request(request);
    let found = call.context.services.issuing.clone().list_issues(request).await.told()?;
    let (language, next) = (call.context.language, (found.next > 0).then_some(Id(found.next)));
    Ok(Reply::ok(Batches { items: found.batches.into_iter().map(|batch| Batch::of(batch, language)).collect(), next }))
}

pub(crate) async fn end(call: Call<Operator, BatchId, BatchReason>) -> Answer<Batch> {
    let (batch_id, operator, reason) = (call.params.batch_id, call.caller.name, call.body.reason);
    let request = call.context.request(pb::EndIssueRequest { batch_id, operator, reason });
    let ended = call.context.services.issuing.clone().end_issue(request).await.told()?;
    Ok(Reply::ok(Batch::of(given(ended.batch)?, call.context.language)))
}
