//! All rules of a version of a template, which fit together.

use tercet_proto::coupon_template::v1 as pb;

use crate::discount::{DiscountRule, Outcome};
use crate::invalid::{Basis, Invalid, Limit, given};
use crate::money::Cents;
use crate::order::Order;
use crate::quota::{Budget, Quota};
use crate::scope::Scope;
use crate::stacking::Stacking;
use crate::validity::{Period, ValidityPeriod};

/// The rules of a version of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    discount: DiscountRule,
    validity: ValidityPeriod,
    scope: Scope,
    quota: Quota,
    stacking: Stacking,
    budget: Budget,
    claim: Period,
}

/// Why a user does not get a coupon, or an order gets nothing from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This user is offered nothing: neither published, nor is he in the audience.
    NotOffered,
    /// Nobody can claim it for now.
    Paused,
    /// Nobody can claim it any more.
    Ended,
    /// Claims begin then.
    NotStarted(i64),
    /// No claims any more since then.
    Over(i64),
    /// The user has claimed so many, all that he may.
    PerUser(u32),
    /// The user has claimed so many today, all that he may.
    PerUserDay(u32),
    /// The coupon is valid from then on.
    NotYetValid(i64),
    /// The coupon was valid until then.
    Expired(i64),
    /// No line of the order is what the coupon is for.
    OutOfScope,
    /// So much is missing.
    BelowThreshold(Cents),
}

impl Rules {
    /// What it takes off.
    pub const fn discount(&self) -> &DiscountRule {
        &self.discount
    }

    /// When a coupon may be used.
    pub const fn validity(&self) -> &ValidityPeriod {
        &self.validity
    }

    /// Which lines of an order count.
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// How many a user may claim.
    pub const fn quota(&self) -> Quota {
        self.quota
    }

    /// What else may be used in the same order; see [`Stacking::agree`].
    pub const fn stacking(&self) -> &Stacking {
        &self.stacking
    }

    /// How many there are.
    pub const fn budget(&self) -> Budget {
        self.budget
    }

    /// When coupons may be claimed.
    pub const fn claim(&self) -> Period {
        self.claim
    }

    /// Whether a user who has claimed so many, and so many of them today, may claim one more now. Today is
    /// [`UtcOffset::day`](crate::UtcOffset::day) of the validity's zone.
    ///
    /// # Errors
    /// The first reason why not.
    pub const fn may_claim(&self, now_ms: i64, claimed: u32, claimed_today: u32) -> Result<(), Refusal> {
        if now_ms < self.claim.start_ms() {
            return Err(Refusal::NotStarted(self.claim.start_ms()));
        }
        if now_ms >= self.claim.end_ms() {
            return Err(Refusal::Over(self.claim.end_ms()));
        }
        if claimed >= self.quota.per_user() {
            return Err(Refusal::PerUser(self.quota.per_user()));
        }
        if claimed_today >= self.quota.per_user_day() {
            return Err(Refusal::PerUserDay(self.quota.per_user_day()));
        }
        Ok(())
    }

    /// What a coupon that was claimed then takes off an order now. At least nothing, and at most what the lines cost
    /// that it is for.
    ///
    /// # Errors
    /// The first reason why it does not apply.
    pub fn evaluate(&self, order: &Order, claimed_ms: i64, now_ms: i64) -> Result<Cents, Refusal> {
        let period = self.validity.period(claimed_ms);
        if now_ms < period.start_ms() {
            return Err(Refusal::NotYetValid(period.start_ms()));
        }
        if now_ms >= period.end_ms() {
            return Err(Refusal::Expired(period.end_ms()));
        }
        let amount = order.amount_within(&self.scope).ok_or(Refusal::OutOfScope)?;
        match self.discount.evaluate(amount) {
            Outcome::Off(off) => Ok(off),
            Outcome::Short(missing) => Err(Refusal::BelowThreshold(missing)),
        }
    }

    /// What no field can say alone.
    fn fit(self) -> Result<Self, Invalid> {
        if i64::from(self.quota.per_user()) > self.budget.coupons() {
            let limit = Limit::AtMost(Basis::Field("budget.coupons"), self.budget.coupons());
            return Err(Invalid::new("quota.per_user", limit));
        }
        let least = self.discount.most().times(self.budget.coupons()).get();
        if self.budget.cents() < least {
            return Err(Invalid::new("budget.cents", Limit::AtLeast(Basis::BudgetAndDiscount, least)));
        }
        // Nobody may get a coupon that has expired already.
        match self.validity.fixed_period() {
            Some(period) if period.end_ms() < self.claim.end_ms() => {
                let limit = Limit::AtLeast(Basis::Field("claim.end_ms"), self.claim.end_ms());
                Err(Invalid::new("validity.fixed.end_ms", limit))
            }
            Some(_) | None => Ok(self),
        }
    }
}

impl TryFrom<&pb::Rules> for Rules {
    type Error = Invalid;

    fn try_from(wire: &pb::Rules) -> Result<Self, Invalid> {
        fn part<'a, W, T: TryFrom<&'a W, Error = Invalid>>(field: &str, wire: Option<&'a W>) -> Result<T, Invalid> {
            T::try_from(given(field, wire)?).map_err(|error| error.within(field))
        }
        let rules = Self {
            discount: part("discount", wire.discount.as_ref())?,
            validity: part("validity", wire.validity.as_ref())?,
            scope: part("scope", wire.scope.as_ref())?,
            quota: part("quota", wire.quota.as_ref())?,
            stacking: part("stacking", wire.stacking.as_ref())?,
            budget: part("budget", wire.budget.as_ref())?,
            claim: part("claim", wire.claim.as_ref())?,
        };
        rules.fit()
    }
}

impl From<&Rules> for pb::Rules {
    fn from(rules: &Rules) -> Self {
        Self {
            discount: Some((&rules.discount).into()),
            validity: Some((&rules.validity).into()),
            scope: Some((&rules.scope).into()),
            quota: Some(rules.quota.into()),
            stacking: Some((&rules.stacking).into()),
            budget: Some(rules.budget.into()),
            claim: Some(rules.claim.into()),
        }
    }
}
