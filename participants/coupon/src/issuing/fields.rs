//! What requests say, checked field by field, and coupons as they are shown.

use tercet_proto::coupon::v1 as pb;
use tercet_rules::{Invalid, Limit, text};

use super::claims::seen;
use super::limits::{
    BATCH_BYTES_MAX, BATCH_COUPONS_MAX, BATCH_PER_USER_MAX, BATCH_USERS_MAX, GROUPS_MAX, KEY_BYTES_MAX,
    OPERATOR_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX, REASON_BYTES_MAX,
};
use crate::store::{Coupon, Status};

pub(crate) fn id(field: &str, id: i64) -> Result<i64, Invalid> {
    if id >= 1 { Ok(id) } else { Err(Invalid::new(field, Limit::Between(1, i64::MAX))) }
}

pub(super) fn claim(request: &pb::ClaimRequest) -> Result<(), Invalid> {
    id("user_id", request.user_id)?;
    id("template_id", request.template_id)?;
    text("idempotency_key", &request.idempotency_key, KEY_BYTES_MAX)?;
    if request.groups.len() > GROUPS_MAX {
        return Err(Invalid::new("groups", Limit::Entries(0, GROUPS_MAX)));
    }
    Ok(())
}

pub(super) fn issue(request: &pb::IssueRequest) -> Result<(), Invalid> {
    text("batch_id", &request.batch_id, BATCH_BYTES_MAX)?;
    id("template_id", request.template_id)?;
    text("operator", &request.operator, OPERATOR_BYTES_MAX)?;
    text("reason", &request.reason, REASON_BYTES_MAX)?;
    let users = &request.user_ids;
    if !(1..=BATCH_USERS_MAX).contains(&users.len()) {
        return Err(Invalid::new("user_ids", Limit::Entries(1, BATCH_USERS_MAX)));
    }
    let mut seen = std::collections::HashSet::with_capacity(users.len());
    for (at, user_id) in users.iter().enumerate() {
        let field = format!("user_ids[{at}]");
        id(&field, *user_id)?;
        if !seen.insert(user_id) {
            return Err(Invalid::new(&field, Limit::Unique));
        }
    }
    let most = (BATCH_COUPONS_MAX / users.len() as u64).min(BATCH_PER_USER_MAX.into());
    if !(1..=most).contains(&request.coupons_per_user.into()) {
        return Err(Invalid::new("coupons_per_user", Limit::Between(1, most.cast_signed())));
    }
    Ok(())
}

pub(super) fn page(limit: u32) -> Result<u32, Invalid> {
    match limit {
        0 => Ok(PAGE_DEFAULT),
        1..=PAGE_MAX => Ok(limit),
        _ => Err(Invalid::new("limit", Limit::Between(1, PAGE_MAX.into()))),
    }
}

/// All statuses where none is wanted.
pub(super) fn statuses(number: i32) -> Result<Vec<Status>, Invalid> {
    let listed = |wanted: &pb::CouponStatus| {
        Status::ALL.into_iter().filter(|status| seen(*status) == *wanted).collect::<Vec<_>>()
    };
    match pb::CouponStatus::try_from(number).ok() {
        Some(pb::CouponStatus::Unspecified) => Ok(Status::ALL.to_vec()),
        Some(wanted) => Ok(listed(&wanted)),
        None => Err(Invalid::new("status", Limit::Listed)),
    }
}

/// A coupon as it is.
pub(super) fn shown(coupon: &Coupon) -> pb::UserCoupon {
    pb::UserCoupon {
        coupon_id: coupon.coupon_id,
        template_id: coupon.template_id,
        version: coupon.version,
        user_id: coupon.user_id,
        status: seen(coupon.status).into(),
        order_id: coupon.order_id.unwrap_or(0),
        valid_from_ms: coupon.valid_from_ms,
        valid_until_ms: coupon.valid_until_ms,
        claimed_ms: coupon.claimed_ms,
        used_ms: coupon.used_ms.unwrap_or(0),
    }
}

/// A coupon that has just been claimed.
pub(super) fn claimed(claim: &pb::Claim) -> pb::UserCoupon {
    pb::UserCoupon {
        coupon_id: claim.coupon_id,
        template_id: claim.template_id,
        version: claim.version,
        user_id: claim.user_id,
        status: pb::CouponStatus::Available.into(),
        order_id: 0,
        valid_from_ms: claim.valid_from_ms,
        valid_until_ms: claim.valid_until_ms,
        claimed_ms: claim.claimed_ms,
        used_ms: 0,
    }
}
