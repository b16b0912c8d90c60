//! What users of the platform do, each a plan over the services' actions.
//!
//! | flow | mode | branches |
//! |---|---|---|
//! | [`claim`] | TCC | stock, coupon |
//! | [`checkout`] | TCC | coupon, stock, order |
//! | [`refund`] | saga | order, then stock, then coupon |
//! | [`paid`] | message | from order, to coupon |
//!
//! Each has an idempotency key made of the ids in it: the same claim, order, refund or payment again is the same
//! transaction again, with the same answer.

use tercet::action::{Message, Saga, Sender, Tcc};
use tercet::plan::{self, Branch, Plan};
use tercet_proto::coupon::v1::{Claim, GiveBack, Redeem};
use tercet_proto::order::v1::{Paid, Place, Refund};
use tercet_proto::stock::v1::{Reserve, Restock};

/// Stock counts a template's coupons as an item too; goods have ids below this.
const TEMPLATE_ITEMS: i64 = 1 << 48;

/// The item under which stock counts the coupons of a template.
pub const fn template_item(template_id: i64) -> i64 {
    TEMPLATE_ITEMS + template_id
}

/// A user gets a coupon, if there is one left and the user's limit allows it.
///
/// # Errors
/// None for plain numbers: the plan is within every limit.
pub fn claim(claim: &Claim) -> anyhow::Result<Plan<Tcc>> {
    let coupon = format!("coupon/{}", claim.coupon_id);
    let units = Reserve { item: template_item(claim.template_id), count: 1 };
    let mut plan = plan::tcc().idempotency_key(format!("claim/{}", claim.coupon_id));
    plan.branch(tercet_stock::RESERVE.with(&units)?.business_key(&coupon));
    plan.branch(tercet_coupon::CLAIM.with(claim)?.business_key(&coupon));
    Ok(plan.build()?)
}

/// A user buys: the coupon is used, the units are taken and the order is placed, or none of it.
///
/// # Errors
/// None for plain numbers: the plan is within every limit.
pub fn checkout(order: &Place) -> anyhow::Result<Plan<Tcc>> {
    let &Place { order_id, user_id, item, count, coupon_id, amount_cents, discount_cents } = order;
    let order_key = format!("order/{order_id}");
    let mut plan = plan::tcc().idempotency_key(&order_key);
    if coupon_id != 0 {
        let redeem = Redeem { coupon_id, user_id, order_id, amount_cents, discount_cents: Some(discount_cents) };
        plan.branch(tercet_coupon::REDEEM.with(&redeem)?.business_key(format!("coupon/{coupon_id}")));
    }
    plan.branch(tercet_stock::RESERVE.with(&Reserve { item, count })?.business_key(&order_key));
    plan.branch(tercet_order::PLACE.with(order)?.business_key(&order_key));
    Ok(plan.build()?)
}

/// A user returns what an order bought. The coupon comes last, since nobody waits for a compensation before using it.
///
/// # Errors
/// None for plain numbers: the plan is within every limit.
pub fn refund(order: &Place) -> anyhow::Result<Plan<Saga>> {
    let &Place { order_id, item, count, coupon_id, .. } = order;
    let order_key = format!("order/{order_id}");
    let mut plan = plan::saga().idempotency_key(format!("refund/{order_id}"));
    plan.branch(tercet_order::REFUND.with(&Refund { order_id })?.business_key(&order_key));
    plan.branch(tercet_stock::RESTOCK.with(&Restock { item, count })?.business_key(&order_key));
    if coupon_id != 0 {
        let give_back = GiveBack { coupon_id, order_id };
        plan.branch(tercet_coupon::GIVE_BACK.with(&give_back)?.business_key(format!("coupon/{coupon_id}")));
    }
    Ok(plan.build()?)
}

/// An order was paid: whom to ask whether it is true, and who is told.
///
/// # Errors
/// None for plain numbers: the plan is within every limit.
pub fn paid(paid: &Paid) -> anyhow::Result<(Branch<Sender>, Plan<Message>)> {
    let order_key = format!("order/{}", paid.order_id);
    let mut receivers = plan::message().idempotency_key(format!("paid/{}", paid.order_id));
    receivers.branch(tercet_coupon::PAID.with(paid)?.business_key(&order_key));
    Ok((tercet_order::PAID.with(paid)?.business_key(&order_key), receivers.build()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_is_within_the_limits_and_has_its_branches() {
        let longest = Place {
            order_id: i64::MIN,
            user_id: i64::MIN,
            item: i64::MIN,
            count: u32::MAX,
            coupon_id: i64::MIN,
            amount_cents: i64::MIN,
            discount_cents: i64::MIN,
        };
        let without_coupon = Place { coupon_id: 0, ..longest };
        assert_eq!(checkout(&longest).expect("it is within the limits").branch_count(), 3);
        assert_eq!(checkout(&without_coupon).expect("it is within the limits").branch_count(), 2);
        assert_eq!(refund(&longest).expect("it is within the limits").branch_count(), 3);
        assert_eq!(refund(&without_coupon).expect("it is within the limits").branch_count(), 2);
        let ids = Claim { coupon_id: i64::MIN, template_id: 1, user_id: i64::MIN };
        assert_eq!(claim(&ids).expect("it is within the limits").branch_count(), 2);
        let notice = Paid { order_id: i64::MIN, user_id: i64::MIN, paid_cents: i64::MIN };
        assert_eq!(paid(&notice).expect("it is within the limits").1.branch_count(), 1);
    }
}
