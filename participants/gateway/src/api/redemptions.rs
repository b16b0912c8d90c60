//! What coupons take off an order, using them for it, and taking it back.

use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon::v1::get_redemption_request::By;

use crate::route::{Answer, Call, Operator, Reply, Shop, ShopForUser, User};
use crate::schema::{Id, Nothing};
use crate::services::{Context, Told as _};
use crate::wire::redemption::{
    OrderId, Redeem, Redemption, RedemptionKey, RedemptionState, Refund, RefundReason, RefundState, ShopTrial,
    ShopUserOrderId, Trial, UserOrderId, Verdict, numbers, wire_lines,
};

pub(crate) async fn validate(call: Call<User, Nothing, Trial>) -> Answer<Verdict> {
    tried(call.caller.id, 0, call.body, &call.context).await
}

pub(crate) async fn validate_for(call: Call<ShopForUser, Nothing, ShopTrial>) -> Answer<Verdict> {
    let ShopTrial { order_id, lines, coupon_ids } = call.body;
    let user_id = call.caller.user_for(order_id.map(|id| id.0))?;
    tried(user_id, call.caller.shop.id, Trial { lines, coupon_ids }, &call.context).await
}

async fn tried(user_id: i64, shop_id: i64, trial: Trial, context: &Context) -> Answer<Verdict> {
    let (lines, coupon_ids) = (wire_lines(&trial.lines), numbers(&trial.coupon_ids.unwrap_or_default()));
    let request = context.request(pb::ValidateRequest { user_id, lines, coupon_ids, shop_id });
    let told = context.services.redemption.clone().validate(request).await.told()?;
    Ok(Reply::ok(Verdict::of(told, context.language)))
}

pub(crate) async fn redeem(call: Call<ShopForUser, Nothing, Redeem>) -> Answer<Redemption> {
    let Call { caller, body: wanted, context, .. } = call;
    let user_id = caller.user_for(Some(wanted.order_id.0))?;
    let request = context.request(pb::RedeemRequest {
        idempotency_key: context.idempotency_key.clone(),
        user_id,
        order_id: wanted.order_id.0,
        lines: wire_lines(&wanted.lines),
        coupon_ids: numbers(&wanted.coupon_ids.unwrap_or_default()),
        discount_cents: wanted.discount_cents,
        shop_id: caller.shop.id,
        operator: caller.shop.name,
        pay_within_s: wanted.pay_within_s,
    });
    let told = context.services.redemption.clone().redeem(request).await.told()?;
    stands(told.redemption, &context)
}

pub(crate) async fn by_key(call: Call<Shop, RedemptionKey, Nothing>) -> Answer<Redemption> {
    let RedemptionKey { user_id, key } = call.params;
    find(user_id.0, call.caller.id, By::IdempotencyKey(key), &call.context).await
}

pub(crate) async fn by_order(call: Call<User, OrderId, Nothing>) -> Answer<Redemption> {
    let OrderId { shop_id, order_id } = call.params;
    find(call.caller.id, shop_id.0, By::OrderId(order_id.0), &call.context).await
}

pub(crate) async fn of_shop(call: Call<Shop, UserOrderId, Nothing>) -> Answer<Redemption> {
    let UserOrderId { user_id, order_id } = call.params;
    find(user_id.0, call.caller.id, By::OrderId(order_id.0), &call.context).await
}

pub(crate) async fn by_user_and_order(call: Call<Operator, ShopUserOrderId, Nothing>) -> Answer<Redemption> {
    let ShopUserOrderId { shop_id, user_id, order_id } = call.params;
    find(user_id.0, shop_id.0, By::OrderId(order_id.0), &call.context).await
}

async fn find(user_id: i64, shop_id: i64, by: By, context: &Context) -> Answer<Redemption> {
    let request = context.request(pb::GetRedemptionRequest { user_id, by: Some(by), shop_id });
    let told = context.services.redemption.clone().get_redemption(request).await.told()?;
    stands(told.redemption, context)
}

/// What is not decided yet is accepted.
fn stands(wire: Option<pb::RedemptionView>, context: &Context) -> Answer<Redemption> {
    let redemption = Redemption::of(wire, context.language)?;
    let is_open = matches!(redemption.state, Some(RedemptionState::Kept | RedemptionState::Submitted));
    Ok(if is_open { Reply::accepted(redemption) } else { Reply::ok(redemption) })
}

pub(crate) async fn refund_by_shop(call: Call<Shop, UserOrderId, RefundReason>) -> Answer<Refund> {
    let UserOrderId { user_id: Id(user_id), order_id: Id(order_id) } = call.params;
    let (shop_id, operator, reason, only_unpaid) = (call.caller.id, call.caller.name, call.body.reason, false);
    refunded(pb::RefundRequest { user_id, order_id, shop_id, operator, reason, only_unpaid }, &call.context).await
}

pub(crate) async fn refund_by_operator(call: Call<Operator, ShopUserOrderId, RefundReason>) -> Answer<Refund> {
    let ShopUserOrderId { shop_id: Id(shop_id), user_id: Id(user_id), order_id: Id(order_id) } = call.params;
    let (operator, reason, only_unpaid) = (call.caller.name, call.body.reason, false);
    refunded(pb::RefundRequest { user_id, order_id, shop_id, operator, reason, only_unpaid }, &call.context).await
}

async fn refunded(request: pb::RefundRequest, context: &Context) -> Answer<Refund> {
    let request = context.request(request);
    let told = context.services.redemption.clone().refund(request).await.told()?;
    let refund = Refund::from(told);
    let is_open = refund.state == Some(RefundState::Submitted);
    Ok(if is_open { Reply::accepted(refund) } else { Reply::ok(refund) })
}
