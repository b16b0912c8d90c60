//! What users of the platform do, each a plan over the services' actions.
//!
//! | flow | mode | branches |
//! |---|---|---|
//! | [`claim`] | TCC | stock, coupon |
//! | [`checkout`] | TCC | coupon, stock, order |
//! | [`refund`] | saga | order, then stock, then coupon |
//! | [`paid`] | message | from order, to coupon |
//!
//! A claim and a checkout create what their ids name, so these are their idempotency keys: the same again is the same
//! transaction again, with the same answer. A refund or a payment may be refused today and granted tomorrow, so each is
//! a transaction of its own, and the order's status lets one of them through.

use std::time::Duration;

use sqlx::{Sqlite, SqlitePool};
use tercet::action::{Message, Saga, Sender, Tcc};
use tercet::client::{Client, View, Wait};
use tercet::fence;
use tercet::plan::{self, Branch, Plan};
use tercet_events::outbox::Outbox;
use tercet_proto::coupon::v1::{Claim, GiveBack, Redeem};
use tercet_proto::order::v1::{Paid, Place, Refund, SettleRefund};
use tercet_proto::stock::v1::{Reserve, Restock};
pub use tercet_stock::template_item;

/// A payment that was prepared and then heard of no more is asked about after this.
const QUERY_AFTER: Duration = Duration::from_secs(5);

/// How long a claim may take until it is decided.
pub const CLAIM_DEADLINE: Duration = Duration::from_secs(10);

/// A user gets a coupon, if there is one left and the user's limit allows it.
///
/// # Errors
/// None for plain numbers: the plan is within every limit.
pub fn claim(claim: &Claim) -> anyhow::Result<Plan<Tcc>> {
    claim_within(claim, CLAIM_DEADLINE)
}

/// The same for a user who waits no longer than `deadline`.
///
/// # Errors
/// When `deadline` is outside its limits.
pub fn claim_within(claim: &Claim, deadline: Duration) -> anyhow::Result<Plan<Tcc>> {
    let coupon = format!("coupon/{}", claim.coupon_id);
    let units = Reserve { item: template_item(claim.template_id), count: 1 };
    let mut plan = plan::tcc().idempotency_key(format!("claim/{}", claim.coupon_id)).deadline(deadline);
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
        let redeem = Redeem { coupon_id, user_id, order_id, amount_cents, discount_cents, ..Redeem::default() };
        plan.branch(tercet_coupon::REDEEM.with(&redeem)?.business_key(format!("coupon/{coupon_id}")));
    }
    plan.branch(tercet_stock::RESERVE.with(&Reserve { item, count })?.business_key(&order_key));
    plan.branch(tercet_order::PLACE.with(order)?.business_key(&order_key));
    Ok(plan.build()?)
}

/// A user returns what an order bought. The coupon comes after what may be refused, since nobody waits for a
/// compensation before using it; then the order says that its refund is final.
///
/// # Errors
/// None for plain numbers: the plan is within every limit.
pub fn refund(order: &Place) -> anyhow::Result<Plan<Saga>> {
    let &Place { order_id, item, count, coupon_id, amount_cents, discount_cents, .. } = order;
    let order_key = format!("order/{order_id}");
    let mut plan = plan::saga();
    plan.branch(tercet_order::REFUND.with(&Refund { order_id, ..Refund::default() })?.business_key(&order_key));
    plan.branch(tercet_stock::RESTOCK.with(&Restock { item, count })?.business_key(&order_key));
    if coupon_id != 0 {
        let give_back = GiveBack { coupon_id, order_id, discount_cents, shop_id: 0, amount_cents };
        plan.branch(tercet_coupon::GIVE_BACK.with(&give_back)?.business_key(format!("coupon/{coupon_id}")));
    }
    let settle = SettleRefund { order_id, ..SettleRefund::default() };
    plan.branch(tercet_order::SETTLE_REFUND.with(&settle)?.business_key(&order_key));
    Ok(plan.build()?)
}

/// An order was paid: whom to ask whether it is true, and who is told.
///
/// # Errors
/// None for plain numbers: the plan is within every limit.
pub fn paid(paid: &Paid) -> anyhow::Result<(Branch<Sender>, Plan<Message>)> {
    let order_key = format!("order/{}", paid.order_id);
    let mut receivers = plan::message();
    receivers.branch(tercet_coupon::PAID.with(paid)?.business_key(&order_key));
    Ok((tercet_order::PAID.with(paid)?.business_key(&order_key), receivers.build()?))
}

/// Marks an order as paid in its own database, to whose outbox it is told, and tells those who have to know: all of it,
/// or nothing.
///
/// # Errors
/// When the order can not be paid, or it is not known whether it was. The same call again is safe.
pub async fn pay(client: &Client, orders: &SqlitePool, outbox: &Outbox, payment: &Paid) -> anyhow::Result<View> {
    let (sender, receivers) = paid(payment)?;
    let prepared = client.prepare(sender, receivers, QUERY_AFTER).await?;
    let mut db_tx = orders.begin_with("BEGIN IMMEDIATE").await?;
    let marked = async {
        if !tercet_order::pay::<Sqlite>(&mut db_tx, outbox, payment).await?.is_new {
            anyhow::bail!("order {} is paid", payment.order_id);
        }
        fence::commit_sender(&mut *db_tx, &prepared.context()).await?;
        anyhow::Ok(())
    };
    if let Err(error) = marked.await {
        db_tx.rollback().await?;
        prepared.rollback(&error.to_string(), Wait::Decided).await?;
        return Err(error);
    }
    // Where it is not known how this ended, the coordinator asks the fence.
    db_tx.commit().await?;
    Ok(prepared.commit(Wait::Ended).await?)
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
        assert_eq!(refund(&longest).expect("it is within the limits").branch_count(), 4);
        assert_eq!(refund(&without_coupon).expect("it is within the limits").branch_count(), 3);
        let ids = Claim { coupon_id: i64::MIN, template_id: 1, user_id: i64::MIN, ..Claim::default() };
        assert_eq!(claim(&ids).expect("it is within the limits").branch_count(), 2);
        let notice = Paid { order_id: i64::MIN, user_id: i64::MIN, paid_cents: i64::MIN, shop_id: i64::MIN };
        assert_eq!(paid(&notice).expect("it is within the limits").1.branch_count(), 1);
    }
}
