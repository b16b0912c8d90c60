//! What coupons take off an order, using them for it, and taking it back.

use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon::v1::get_redemption_request::By;
use tercet_rules::{Code, Fault};

use crate::route::{Answer, Call, Operator, Reply, Shop, User};
use crate::schema::{Id, Nothing};
use crate::services::{Context, Told as _};
use crate::wire::redemption::{
    OrderId, OrderLine, Redeem, Redemption, RedemptionKey, RedemptionState, Refund, RefundReason, RefundState, Trial,
    UserOrderId, UserRedeem, UserTrial, Verdict, numbers, wire_lines,
};

pub(crate) async fn validate(call: Call<User, Nothing, Trial>) -> Answer<Verdict> {
    let Trial { lines, coupon_ids } = call.body;
    tried(call.caller.id, &lines, coupon_ids, &call.context).await
}

pub(crate) async fn validate_for(call: Call<Shop, Nothing, UserTrial>) -> Answer<Verdict> {
    let UserTrial { user_id, lines, coupon_ids } = call.body;
    own(&call.caller, &lines)?;
    tried(user_id.0, &lines, coupon_ids, &call.context).await
}

async fn tried(user_id: i64, lines: &[OrderLine], coupon_ids: Option<Vec<Id>>, context: &Context) -> Answer<Verdict> {
    let coupon_ids = numbers(&coupon_ids.unwrap_or_default());
    let request = context.request(pb::ValidateRequest { user_id, lines: wire_lines(lines), coupon_ids });
    let told = context.services.redemption.clone().validate(request).await.told()?;
    Ok(Reply::ok(Verdict::of(told, context.language)))
}

pub(crate) async fn redeem(call: Call<User, Nothing, Redeem>) -> Answer<Redemption> {
    let Redeem { order_id, lines, coupon_ids, discount_cents } = call.body;
    redeemed(UserRedeem { user_id: Id(call.caller.id), order_id, lines, coupon_ids, discount_cents }, &call.context)
        .await
}

pub(crate) async fn redeem_for(call: Call<Shop, Nothing, UserRedeem>) -> Answer<Redemption> {
    own(&call.caller, &call.body.lines)?;
    redeemed(call.body, &call.context).await
}

async fn redeemed(wanted: UserRedeem, context: &Context) -> Answer<Redemption> {
    let request = context.request(pb::RedeemRequest {
        idempotency_key: context.idempotency_key.clone(),
        user_id: wanted.user_id.0,
        order_id: wanted.order_id.0,
        lines: wire_lines(&wanted.lines),
        coupon_ids: numbers(&wanted.coupon_ids),
        discount_cents: wanted.discount_cents,
    });
    let told = context.services.redemption.clone().redeem(request).await.told()?;
    stands(told.redemption, context)
}

/// A shop's orders have nothing but its products.
fn own(shop: &Shop, lines: &[OrderLine]) -> Result<(), Fault> {
    let other = lines.iter().any(|line| line.shop_id.0 != shop.id);
    if other { Err(Code::OtherShop.fault([])) } else { Ok(()) }
}

pub(crate) async fn by_key(call: Call<User, RedemptionKey, Nothing>) -> Answer<Redemption> {
    find(call.caller.id, By::IdempotencyKey(call.params.key), &call.context).await
}

pub(crate) async fn by_order(call: Call<User, OrderId, Nothing>) -> Answer<Redemption> {
    find(call.caller.id, By::OrderId(call.params.order_id.0), &call.context).await
}

pub(crate) async fn by_user_and_order(call: Call<Operator, UserOrderId, Nothing>) -> Answer<Redemption> {
    let UserOrderId { user_id, order_id } = call.params;
    find(user_id.0, By::OrderId(order_id.0), &call.context).await
}

async fn find(user_id: i64, by: By, context: &Context) -> Answer<Redemption> {
    let request = context.request(pb::GetRedemptionRequest { user_id, by: Some(by) });
    let told = context.services.redemption.clone().get_redemption(request).await.told()?;
    stands(told.redemption, context)
}

/// What is not decided yet is accepted.
fn stands(wire: Option<pb::RedemptionView>, context: &Context) -> Answer<Redemption> {
    let redemption = Redemption::of(wire, context.language)?;
    let is_open = matches!(redemption.state, Some(RedemptionState::Kept | RedemptionState::Submitted));
    Ok(if is_open { Reply::accepted(redemption) } else { Reply::ok(redemption) })
}

pub(crate) async fn refund(call: Call<User, OrderId, RefundReason>) -> Answer<Refund> {
    let request = pb::RefundRequest {
        user_id: call.caller.id,
        order_id: call.params.order_id.0,
        reason: call.body.reason,
        ..pb::RefundRequest::default()
    };
    refunded(request, &call.context).await
}

pub(crate) async fn refund_by_shop(call: Call<Shop, UserOrderId, RefundReason>) -> Answer<Refund> {
    let UserOrderId { user_id: Id(user_id), order_id: Id(order_id) } = call.params;
    let (shop_id, operator, reason) = (call.caller.id, call.caller.name, call.body.reason);
    refunded(pb::RefundRequest { user_id, order_id, shop_id, operator, reason }, &call.context).await
}

pub(crate) async fn refund_by_operator(call: Call<Operator, UserOrderId, RefundReason>) -> Answer<Refund> {
    let UserOrderId { user_id: Id(user_id), order_id: Id(order_id) } = call.params;
    let (operator, reason) = (call.caller.name, call.body.reason);
    refunded(pb::RefundRequest { user_id, order_id, shop_id: 0, operator, reason }, &call.context).await
}

async fn refunded(request: pb::RefundRequest, context: &Context) -> Answer<Refund> {
    let request = context.request(request);
    let told = context.services.redemption.clone().refund(request).await.told()?;
    let refund = Refund::from(told);
    let is_open = refund.state == Some(RefundState::Submitted);
    Ok(if is_open { Reply::accepted(refund) } else { Reply::ok(refund) })
}
