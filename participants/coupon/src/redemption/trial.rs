//! Coupons tried on an order: each by itself, and together.
//!
//! All of a user's coupons are in one table, so they are one statement, whatever their number; one whose id carries
//! another user's slot is not his without a look.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::try_join_all;
use tercet::fence::Dialect;
use tercet_proto::coupon::v1 as pb;
use tercet_rules::{Basket, Candidate, Cents, Code, Fault, Order, Rules, Set};
use tercet_shards::Slot;
use tracing::{error, warn};

use super::limits::{ANSWER_MAX, LOOKED_MAX};
use super::{Redemption, fields};
use crate::redeem::unusable;
use crate::store::redemptions::Redemptions;
use crate::store::{self, Coupon};

/// A coupon, tried on an order.
pub(super) struct Tried {
    pub(super) coupon_id: i64,
    /// What it takes off alone, by which rules; or why nothing.
    pub(super) verdict: Result<(Arc<Rules>, Cents), Fault>,
}

pub(super) fn busy() -> Fault {
    Code::SystemBusy.fault([])
}

/// What takes no longer than a caller waits; else it is given up, as when he hangs up.
///
/// # Errors
/// [`Code::SystemBusy`], besides its own.
pub(super) async fn timely<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let done = tokio::time::timeout(ANSWER_MAX, work).await;
    done.unwrap_or_else(|_| {
        warn!("a database, or whoever else is asked, does not answer in time");
        Err(busy())
    })
}

pub(super) fn database(error: sqlx::Error) -> Fault {
    error!(%error, "the database of redemptions");
    busy()
}

/// Those of them that apply, to be looked at together.
pub(super) fn basket<'a>(order: &Order, tried: &'a [Tried]) -> Basket<'a> {
    let candidate = |tried: &'a Tried| {
        let (rules, off) = tried.verdict.as_ref().ok()?;
        Some(Candidate { coupon_id: tried.coupon_id, rules, off: *off })
    };
    Basket::new(order, tried.iter().filter_map(candidate).collect())
}

/// What these take off, as it is shown and kept.
pub(super) fn combination(order: &Order, basket: &Basket<'_>, set: Set) -> pb::Combination {
    let deduction = |(at, off): (usize, Cents)| pb::Deduction {
        coupon_id: basket.candidates()[at].coupon_id,
        discount_cents: off.get(),
    };
    let deductions: Vec<pb::Deduction> = basket.deductions(set).into_iter().map(deduction).collect();
    let discount_cents = deductions.iter().map(|own| own.discount_cents).sum();
    pb::Combination { deductions, amount_cents: order.amount().get(), discount_cents }
}

/// A fault that says of which coupon.
pub(super) fn of_coupon(code: Code, coupon_id: i64) -> Fault {
    code.fault([("coupon_id", coupon_id.to_string())])
}

impl<Db: Redemptions + Dialect> Redemption<Db> {
    pub(super) async fn validate(&self, request: &pb::ValidateRequest) -> Result<pb::ValidateResponse, Fault> {
        let user_id = fields::id("user_id", request.user_id)?;
        fields::coupons(&request.coupon_ids)?;
        let order = fields::order(&request.lines)?;
        if request.shop_id != 0 {
            fields::of_shop(request.shop_id, &request.lines)?;
        }
        let mut tried = self.try_on(&order, user_id, &request.coupon_ids).await?;
        let more = tried.len() > LOOKED_MAX;
        tried.truncate(LOOKED_MAX);
        let basket = basket(&order, &tried);
        let best = basket.best();
        let taken = |coupon_id: i64| {
            let at = basket.candidates().iter().position(|own| own.coupon_id == coupon_id);
            at.is_some_and(|at| best.has(at))
        };
        let validation = |tried: &Tried| match &tried.verdict {
            Ok((rules, off)) => {
                let left_out = (!taken(tried.coupon_id)).then(|| {
                    let stacks = basket.has_room(best, rules);
                    of_coupon(if stacks { Code::NoGain } else { Code::NotStackable }, tried.coupon_id)
                });
                pb::Validation {
                    coupon_id: tried.coupon_id,
                    discount_cents: off.get(),
                    refusal: None,
                    left_out: left_out.as_ref().map(fields::refusal),
                }
            }
            Err(fault) => pb::Validation {
                coupon_id: tried.coupon_id,
                refusal: Some(fields::refusal(fault)),
                ..pb::Validation::default()
            },
        };
        let coupons = tried.iter().map(validation).collect();
        Ok(pb::ValidateResponse { coupons, best: Some(combination(&order, &basket, best)), more })
    }

    /// Each of these, in their order. Where none is named, those that the user could use and that end first: one more
    /// than are looked at, if there are.
    ///
    /// # Errors
    /// [`Code::SystemBusy`] where a coupon or its rules can not be read.
    pub(super) async fn try_on(&self, order: &Order, user_id: i64, coupon_ids: &[i64]) -> Result<Vec<Tried>, Fault> {
        let looked = self.look(user_id, coupon_ids).await?;
        let versions = looked.iter().filter_map(|(_, found)| found.as_ref());
        let mut versions: Vec<_> = versions.map(|(coupon, _)| (coupon.template_id, coupon.version)).collect();
        versions.sort_unstable();
        versions.dedup();
        let known = versions.iter().map(async |version| Ok::<_, Fault>((*version, self.terms.get(*version).await?)));
        let known: HashMap<_, _> = try_join_all(known).await?.into_iter().collect();
        let verdict = |coupon_id: i64, found: Option<(Coupon, i64)>| {
            let missing = || Code::NotFound.fault([("what", "coupon".to_owned()), ("id", coupon_id.to_string())]);
            let (coupon, now_ms) = found.filter(|(coupon, _)| coupon.user_id == user_id).ok_or_else(missing)?;
            if let Some(fault) = unusable(&coupon, now_ms) {
                return Err(fault);
            }
            let rules = known.get(&(coupon.template_id, coupon.version)).ok_or_else(busy)?;
            let off = rules.evaluate(order, coupon.claimed_ms, now_ms)?;
            Ok((Arc::clone(rules), off))
        };
        let tried = |(coupon_id, found)| Tried { coupon_id, verdict: verdict(coupon_id, found) };
        Ok(looked.into_iter().map(tried).collect())
    }

    async fn look(&self, user_id: i64, coupon_ids: &[i64]) -> Result<Vec<(i64, Option<(Coupon, i64)>)>, Fault> {
        let (slot, map) = (Slot::of_user(user_id), self.shards.map());
        let own: Vec<i64> = coupon_ids.iter().copied().filter(|id| Slot::of_id(*id) == slot).collect();
        if own.is_empty() && !coupon_ids.is_empty() {
            return Ok(coupon_ids.iter().map(|id| (*id, None)).collect());
        }
        let mut reader = self.shards.reader(slot).await.map_err(database)?;
        let found = if coupon_ids.is_empty() {
            store::usable::<Db>(&mut reader, map, user_id, LOOKED_MAX + 1).await
        } else {
            store::look::<Db>(&mut reader, map, user_id, &own).await
        };
        let found = reader.done(found).map_err(database)?;
        if coupon_ids.is_empty() {
            return Ok(found.into_iter().map(|(coupon, now)| (coupon.coupon_id, Some((coupon, now)))).collect());
        }
        let found: HashMap<i64, (Coupon, i64)> =
            found.into_iter().map(|(coupon, now_ms)| (coupon.coupon_id, (coupon, now_ms))).collect();
        Ok(coupon_ids.iter().map(|id| (*id, found.get(id).copied())).collect())
    }
}
