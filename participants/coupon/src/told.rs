//! What happens to coupons, as others are told it.

use tercet::participant::DbTx;
use tercet_events::event::{Event, Payload};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::events::v1::{CouponExpired, CouponGivenBack, CouponIssued, CouponUsed};
use tercet_shards::ShardMap;

use crate::store::{self, Store};

/// An operator who issued coupons, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct By<'a> {
    pub(crate) operator: &'a str,
    pub(crate) reason: &'a str,
}

/// What an order has used.
pub(crate) struct Use {
    coupon_id: i64,
    order_id: i64,
    discount_cents: i64,
}

impl From<&pb::Redeem> for Use {
    fn from(&pb::Redeem { coupon_id, order_id, discount_cents, .. }: &pb::Redeem) -> Self {
        Self { coupon_id, order_id, discount_cents }
    }
}

impl From<&pb::GiveBack> for Use {
    fn from(&pb::GiveBack { coupon_id, order_id, discount_cents }: &pb::GiveBack) -> Self {
        Self { coupon_id, order_id, discount_cents }
    }
}

/// A coupon was issued to whoever claimed it.
pub(crate) fn issued(claim: &pb::Claim) -> Event {
    issued_by(claim, By { operator: "", reason: "" })
}

/// A coupon was issued by an operator.
pub(crate) fn issued_by(claim: &pb::Claim, by: By<'_>) -> Event {
    let &pb::Claim { coupon_id, template_id, user_id, version: template_version, .. } = claim;
    let (operator, reason) = (by.operator.to_owned(), by.reason.to_owned());
    Event::new(
        user_id,
        Payload::CouponIssued(CouponIssued { coupon_id, template_id, template_version, operator, reason }),
    )
}

/// An order has used a coupon.
pub(crate) fn used(user_id: i64, &Use { coupon_id, order_id, discount_cents }: &Use) -> Event {
    Event::new(user_id, Payload::CouponUsed(CouponUsed { coupon_id, order_id, discount_cents }))
}

/// A refund has given a coupon back.
pub(crate) fn given_back(user_id: i64, back: &pb::GiveBack) -> Event {
    let &pb::GiveBack { coupon_id, order_id, .. } = back;
    Event::new(user_id, Payload::CouponGivenBack(CouponGivenBack { coupon_id, order_id }))
}

/// A coupon's time has ended.
pub(crate) fn expired(coupon_id: i64, user_id: i64, template_id: i64) -> Event {
    Event::new(user_id, Payload::CouponExpired(CouponExpired { coupon_id, template_id }))
}

/// Of these coupons, which were moved to issued just now, those that are expired instead.
pub(crate) async fn expired_instead<Db: Store>(
    db_tx: &mut DbTx<Db>,
    map: &ShardMap,
    coupon_ids: &[i64],
) -> sqlx::Result<Vec<Event>> {
    if coupon_ids.is_empty() {
        return Ok(Vec::new());
    }
    let found = store::expired_instead::<Db>(db_tx, map, coupon_ids).await?;
    Ok(found.iter().map(|coupon| expired(coupon.coupon_id, coupon.user_id, coupon.template_id)).collect())
}
