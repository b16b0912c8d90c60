//! What requests say, checked field by field, and coupons as they are shown.

use tercet_proto::coupon::v1 as pb;
use tercet_rules::{Invalid, Limit, text};

use super::claims::seen;
use super::limits::{
    BATCH_BYTES_MAX, BATCH_COUPONS_MAX, BATCH_PER_USER_MAX, BATCH_USERS_MAX, BATCHES_MAX, EVENT_USERS_MAX, GROUPS_MAX,
    KEY_BYTES_MAX, OCCASION_BATCH, OCCASION_PER_USER_MAX, OPERATOR_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX, REASON_BYTES_MAX,
};
use crate::store::batches::State;
use crate::store::occasions::On;
use crate::store::{Coupon, Status};

pub(crate) fn id(field: &str, id: i64) -> Result<i64, Invalid> {
    if id >= 1 { Ok(id) } else { Err(Invalid::new(field, Limit::Between(1, i64::MAX))) }
}

pub(super) fn claim(request: &pb::ClaimRequest) -> Result<(), Invalid> {
    id("user_id", request.user_id)?;
    id("template_id", request.template_id)?;
    if !request.idempotency_key.is_empty() {
        text("idempotency_key", &request.idempotency_key, KEY_BYTES_MAX)?;
    }
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
    let users = user_ids(&request.user_ids, BATCH_USERS_MAX)?;
    let most = (BATCH_COUPONS_MAX / users.len() as u64).min(BATCH_PER_USER_MAX.into());
    if !(1..=most).contains(&request.coupons_per_user.into()) {
        return Err(Invalid::new("coupons_per_user", Limit::Between(1, most.cast_signed())));
    }
    Ok(())
}

/// The id of a batch.
pub(super) fn named_batch(batch_id: &str) -> Result<(), Invalid> {
    text("batch_id", batch_id, BATCH_BYTES_MAX).map(drop)
}

/// How many batches a page has.
pub(super) fn batches(limit: u32) -> Result<u32, Invalid> {
    match limit {
        0 => Ok(BATCHES_MAX),
        1..=BATCHES_MAX => Ok(limit),
        _ => Err(Invalid::new("limit", Limit::Between(1, BATCHES_MAX.into()))),
    }
}

/// Where batches stand that are wanted; none where all are.
pub(super) fn batch_state(number: i32) -> Result<Option<State>, Invalid> {
    let state = pb::BatchState::try_from(number).map_err(|_| Invalid::new("state", Limit::Listed))?;
    Ok(match state {
        pb::BatchState::Unspecified => None,
        pb::BatchState::Running => Some(State::Running),
        pb::BatchState::Done => Some(State::Done),
        pb::BatchState::Stopped => Some(State::Stopped),
        pb::BatchState::Ending => Some(State::Ending),
        pb::BatchState::Ended => Some(State::Ended),
    })
}

/// The id of a batch that somebody asks for himself.
pub(super) fn own_batch(batch_id: &str) -> Result<(), Invalid> {
    match batch_id.starts_with(OCCASION_BATCH) {
        true => Err(Invalid::new("batch_id", Limit::NotBegun(OCCASION_BATCH))),
        false => Ok(()),
    }
}

/// As many users as there may be, each of them once.
pub(super) fn user_ids(user_ids: &[i64], most: usize) -> Result<&[i64], Invalid> {
    if !(1..=most).contains(&user_ids.len()) {
        return Err(Invalid::new("user_ids", Limit::Entries(1, most)));
    }
    let mut seen = std::collections::HashSet::with_capacity(user_ids.len());
    for (at, user_id) in user_ids.iter().enumerate() {
        // The name is made only where it is needed.
        let field = || format!("user_ids[{at}]");
        if *user_id < 1 {
            return Err(Invalid::new(&field(), Limit::Between(1, i64::MAX)));
        }
        if !seen.insert(user_id) {
            return Err(Invalid::new(&field(), Limit::Unique));
        }
    }
    Ok(user_ids)
}

/// What has to happen for an occasion that is to be made.
pub(super) fn occasion(request: &pb::CreateOccasionRequest) -> Result<On, Invalid> {
    use pb::create_occasion_request::On as Wire;
    let on = match &request.on {
        None => return Err(Invalid::new("on", Limit::OneOf)),
        Some(Wire::Registered(pb::OnRegistered { group })) if group.is_empty() => On::Registered(String::new()),
        Some(Wire::Registered(pb::OnRegistered { group })) => {
            On::Registered(tercet_rules::group("on.registered.group", group)?.to_owned())
        }
        Some(Wire::Campaign(pb::OnCampaign { campaign_id })) => {
            On::Campaign(id("on.campaign.campaign_id", *campaign_id)?)
        }
    };
    id("template_id", request.template_id)?;
    if !(1..=OCCASION_PER_USER_MAX).contains(&request.coupons_per_user) {
        return Err(Invalid::new("coupons_per_user", Limit::Between(1, OCCASION_PER_USER_MAX.into())));
    }
    by(&request.operator, &request.reason)?;
    text("idempotency_key", &request.idempotency_key, KEY_BYTES_MAX)?;
    Ok(on)
}

/// Who changes something, and why.
pub(super) fn by(operator: &str, reason: &str) -> Result<(), Invalid> {
    text("operator", operator, OPERATOR_BYTES_MAX)?;
    text("reason", reason, REASON_BYTES_MAX).map(drop)
}

/// A user who has registered, with his groups.
pub(super) fn registered(user_id: i64, groups: &[String]) -> Result<(), Invalid> {
    id("user_id", user_id)?;
    if groups.len() > GROUPS_MAX {
        return Err(Invalid::new("groups", Limit::Entries(0, GROUPS_MAX)));
    }
    for (at, group) in groups.iter().enumerate() {
        tercet_rules::group(&format!("groups[{at}]"), group)?;
    }
    Ok(())
}

/// A campaign that has started, with its users.
pub(super) fn campaign(campaign_id: i64, of: &[i64]) -> Result<(), Invalid> {
    id("campaign_id", campaign_id)?;
    user_ids(of, EVENT_USERS_MAX).map(drop)
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
        shop_id: coupon.order.map_or(0, |order| order.shop_id),
        order_id: coupon.order.map_or(0, |order| order.order_id),
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
        shop_id: 0,
        order_id: 0,
        valid_from_ms: claim.valid_from_ms,
        valid_until_ms: claim.valid_until_ms,
        claimed_ms: claim.claimed_ms,
        used_ms: 0,
    }
}
