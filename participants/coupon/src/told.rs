//! What happens to coupons, as others are told it.

use tercet::participant::DbTx;
use tercet_events::event::{Event, Payload};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::events::v1::{CouponExpired, CouponGivenBack, CouponIssued, CouponUsed, CouponVoided};
use tercet_shards::ShardMap;

use crate::store::{self, Coupon, Store};

/// An operator who issued coupons, why, and by which batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct By<'a> {
    pub(crate) operator: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) batch_id: &'a str,
}

/// A coupon was issued to whoever claimed it.
pub(crate) fn issued(claim: &pb::Claim) -> Event {
    issued_by(claim, By { operator: "", reason: "", batch_id: "" })
}

/// A coupon was issued by an operator.
pub(crate) fn issued_by(claim: &pb::Claim, by: By<'_>) -> Event {
    let &pb::Claim { coupon_id, template_id, user_id, version: template_version, claimed_ms, .. } = claim;
    let (operator, reason, batch_id) = (by.operator.to_owned(), by.reason.to_owned(), by.batch_id.to_owned());
    let issued = CouponIssued { coupon_id, template_id, template_version, operator, reason, claimed_ms, batch_id };
    Event::new(user_id, Payload::CouponIssued(issued))
}

/// An order has used a coupon, which is given as it is since.
pub(crate) fn used(coupon: &Coupon, redeem: &pb::Redeem) -> Event {
    let &Coupon { coupon_id, user_id, template_id, version: template_version, claimed_ms, step, .. } = coupon;
    let &pb::Redeem { order_id, discount_cents, amount_cents, shop_id, .. } = redeem;
    let operator = redeem.operator.clone();
    let used = CouponUsed {
        coupon_id,
        order_id,
        discount_cents,
        shop_id,
        operator,
        template_id,
        template_version,
        amount_cents,
        claimed_ms,
        step,
    };
    Event::new(user_id, Payload::CouponUsed(used))
}

/// An order has a coupon again, since its refund came to nothing; the coupon is given as it was before.
pub(crate) fn used_again(coupon: &Coupon, back: &pb::GiveBack) -> Event {
    let &Coupon { coupon_id, user_id, template_id, version: template_version, claimed_ms, .. } = coupon;
    let &pb::GiveBack { order_id, discount_cents, shop_id, amount_cents, .. } = back;
    let used = CouponUsed {
        coupon_id,
        order_id,
        discount_cents,
        shop_id,
        template_id,
        template_version,
        amount_cents,
        claimed_ms,
        step: coupon.step + 1,
        operator: String::new(),
    };
    Event::new(user_id, Payload::CouponUsed(used))
}

/// A refund has given a coupon back, which is given as it was before. Where its time has ended meanwhile, that is told
/// after it.
pub(crate) fn given_back(coupon: &Coupon, back: &pb::GiveBack) -> Event {
    let &Coupon { coupon_id, user_id, template_id, version: template_version, claimed_ms, .. } = coupon;
    let &pb::GiveBack { order_id, discount_cents, shop_id, amount_cents, .. } = back;
    let back = CouponGivenBack {
        coupon_id,
        order_id,
        template_id,
        template_version,
        discount_cents,
        shop_id,
        amount_cents,
        claimed_ms,
        step: coupon.step + 1,
    };
    Event::new(user_id, Payload::CouponGivenBack(back))
}

/// A coupon's time has ended, at this step of it.
pub(crate) fn expired(coupon_id: i64, user_id: i64, template_id: i64, step: i64) -> Event {
    Event::new(user_id, Payload::CouponExpired(CouponExpired { coupon_id, template_id, step }))
}

/// An operator has voided a coupon, which is given as it was before.
pub(crate) fn voided(coupon: &Coupon, operator: &str, reason: &str) -> Event {
    let &Coupon { coupon_id, user_id, template_id, step, .. } = coupon;
    let (operator, reason) = (operator.to_owned(), reason.to_owned());
    Event::new(
        user_id,
        Payload::CouponVoided(CouponVoided { coupon_id, template_id, step: step + 1, operator, reason }),
    )
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
    Ok(found.iter().map(|coupon| expired(coupon.coupon_id, coupon.user_id, coupon.template_id, coupon.step)).collect())
}
