//! An order that is taken back: a saga over the order, its redemption, its units and its coupons; then it is
//! final.

use tercet::action::Saga;
use tercet::client::{Outcome, Wait};
use tercet::fence::Dialect;
use tercet::plan::{self, Plan};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::order::v1::{Refund, SettleRefund};
use tercet_proto::stock::v1::Restock;
use tercet_rules::{Code, Fault};
use tracing::{error, warn};

use super::limits::REFUND_DEADLINE;
use super::redeem::content;
use super::trial::{busy, database};
use super::{Redemption, fields};
use crate::store::redemptions::{Redemption as Row, Redemptions, State};
use crate::store::{self, Coupon, Status};
use crate::{GIVE_BACK, TAKE_BACK, order, stock};

impl<Db: Redemptions + Dialect> Redemption<Db> {
    /// Takes an order back. It is what it was, or all of it is taken back.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::NotRefundable`] where it does not stand where it could be;
    /// [`Code::SystemBusy`] where nothing is known: the same again finds it.
    pub(super) async fn refund(&self, request: &pb::RefundRequest) -> Result<pb::RefundResponse, Fault> {
        fields::refund(request)?;
        let &pb::RefundRequest { user_id, order_id, shop_id, .. } = request;
        let missing = || Code::NotFound.fault([("what", "order".to_owned()), ("id", order_id.to_string())]);
        let refused = || Code::NotRefundable.fault([("order_id", order_id.to_string())]);
        let row = self.by_order(user_id, (shop_id, order_id)).await?.ok_or_else(missing)?;
        let kept = content(&row)?;
        let deductions = kept.combination.unwrap_or_default().deductions;
        match row.state {
            State::Refunded => return self.refunded(&row, &deductions).await,
            State::Done => {}
            // Whoever was told that it is done may be quicker than what notes it.
            State::Kept | State::Submitted => return Err(busy()),
            State::Refused | State::GivenUp => return Err(refused()),
        }
        let plan = plan(&row, request, &kept.lines, &deductions).map_err(|error| {
            error!(%error, "a refund is no plan");
            busy()
        })?;
        let view = match self.client.submit(plan, Wait::Ended).await {
            Ok(view) => view,
            Err(error) => {
                warn!(%error, "a refund of which it is not known whether it has ended");
                return match self.by_order(user_id, (shop_id, order_id)).await? {
                    Some(now) if now.state == State::Refunded => self.refunded(&now, &deductions).await,
                    Some(_) | None => Err(busy()),
                };
            }
        };
        match view.outcome() {
            Some(Outcome::Confirmed) => self.refunded(&row, &deductions).await,
            // Out of time, or stopped by a person: nobody has said no.
            Some(Outcome::Cancelled) if view.refusal().is_none() => Err(busy()),
            // Another one may have been quicker.
            Some(Outcome::Cancelled) => match self.by_order(user_id, (shop_id, order_id)).await? {
                Some(now) if now.state == State::Refunded => self.refunded(&now, &deductions).await,
                Some(_) | None => Err(refused()),
            },
            None => Ok(submitted()),
        }
    }

    /// Which of the coupons are their user's again. They come last: while the order has one of them, the refund may
    /// come to nothing yet.
    async fn refunded(&self, row: &Row, deductions: &[pb::Deduction]) -> Result<pb::RefundResponse, Fault> {
        let key = (row.shop_id, row.order_id);
        let ids: Vec<i64> = deductions.iter().map(|own| own.coupon_id).collect();
        let mut connection = self.connection(row.user_id).await?;
        let found = store::look::<Db>(&mut connection, self.shards.map(), row.user_id, &ids).await.map_err(database)?;
        let has = |coupon: &Coupon| coupon.order.is_some_and(|own| (own.shop_id, own.order_id) == key);
        if found.iter().any(|(coupon, _)| has(coupon)) {
            return Ok(submitted());
        }
        let back = found.iter().map(|(coupon, _)| coupon).filter(|coupon| coupon.status != Status::Expired);
        Ok(pb::RefundResponse {
            state: pb::RefundState::Done.into(),
            returned_coupon_ids: back.map(|coupon| coupon.coupon_id).collect(),
        })
    }
}

/// It is under way.
fn submitted() -> pb::RefundResponse {
    pb::RefundResponse { state: pb::RefundState::Submitted.into(), returned_coupon_ids: Vec::new() }
}

fn plan(
    row: &Row,
    request: &pb::RefundRequest,
    lines: &[pb::OrderLine],
    deductions: &[pb::Deduction],
) -> anyhow::Result<Plan<Saga>> {
    let &Row { redemption_id, shop_id, order_id, .. } = row;
    let take_back =
        pb::TakeBack { redemption_id, order_id, operator: request.operator.clone(), reason: request.reason.clone() };
    let mut plan = plan::saga().deadline(REFUND_DEADLINE);
    let order_key = format!("order/{shop_id}/{order_id}");
    let (operator, reason) = (request.operator.clone(), request.reason.clone());
    let refund = Refund { order_id, operator, reason, shop_id, only_unpaid: request.only_unpaid };
    // What decides comes first: where somebody has paid, nothing else was done yet.
    plan.branch(order::REFUND.with(&refund)?.business_key(&order_key));
    plan.branch(TAKE_BACK.with(&take_back)?.business_key(format!("redemption/{redemption_id}")));
    for (item, count) in fields::units(lines) {
        plan.branch(stock::RESTOCK.with(&Restock { item, count })?.business_key(&order_key));
    }
    for &pb::Deduction { coupon_id, discount_cents } in deductions {
        let give_back = pb::GiveBack { coupon_id, order_id, discount_cents, shop_id };
        plan.branch(GIVE_BACK.with(&give_back)?.business_key(format!("coupon/{coupon_id}")));
    }
    // Whoever pays is told that it is too late from here on.
    let settle = SettleRefund { order_id, shop_id };
    plan.branch(order::SETTLE_REFUND.with(&settle)?.business_key(&order_key));
    Ok(plan.build()?)
}
