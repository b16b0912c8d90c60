//! How many coupons there are: for a user, and in all.

use tercet_proto::coupon_template::v1 as pb;

use crate::invalid::{Basis, Invalid, Limit, between};
use crate::limits::{COUPONS_MAX, PER_USER_MAX};

/// How many coupons of a template a user may claim: in all, and in a day of its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    per_user: u32,
    per_user_day: u32,
}

impl Quota {
    /// # Errors
    /// When a user may have none, more than [`PER_USER_MAX`], or more in a day than in all.
    pub fn new(per_user: u32, per_user_day: u32) -> Result<Self, Invalid> {
        between("per_user", per_user, 1, PER_USER_MAX.into())?;
        between("per_user_day", per_user_day, 1, PER_USER_MAX.into())?;
        if per_user_day > per_user {
            return Err(Invalid::new("per_user_day", Limit::AtMost(Basis::Field("per_user"), per_user.into())));
        }
        Ok(Self { per_user, per_user_day })
    }

    /// In all.
    pub const fn per_user(self) -> u32 {
        self.per_user
    }

    /// In a day.
    pub const fn per_user_day(self) -> u32 {
        self.per_user_day
    }
}

/// How many coupons there are in all, and what they cost at most. A template can not cost more than its budget: it is
/// not less than all of its coupons times the most that one takes off, so keeping the count keeps the money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    coupons: i64,
    cents: i64,
}

impl Budget {
    /// # Errors
    /// When there are no coupons, more than [`COUPONS_MAX`], or no money.
    pub fn new(coupons: i64, cents: i64) -> Result<Self, Invalid> {
        let coupons = between("coupons", coupons, 1, COUPONS_MAX)?;
        // Past what an order costs: it is for many of them.
        let cents = between("cents", cents, 1, i64::MAX)?;
        Ok(Self { coupons, cents })
    }

    /// Coupons in all.
    pub const fn coupons(self) -> i64 {
        self.coupons
    }

    /// What they cost at most, in cents.
    pub const fn cents(self) -> i64 {
        self.cents
    }
}

impl TryFrom<&pb::Quota> for Quota {
    type Error = Invalid;

    fn try_from(wire: &pb::Quota) -> Result<Self, Invalid> {
        Self::new(wire.per_user, wire.per_user_day)
    }
}

impl From<Quota> for pb::Quota {
    fn from(quota: Quota) -> Self {
        Self { per_user: quota.per_user, per_user_day: quota.per_user_day }
    }
}

impl TryFrom<&pb::Budget> for Budget {
    type Error = Invalid;

    fn try_from(wire: &pb::Budget) -> Result<Self, Invalid> {
        Self::new(wire.coupons, wire.cents)
    }
}

impl From<Budget> for pb::Budget {
    fn from(budget: Budget) -> Self {
        Self { coupons: budget.coupons, cents: budget.cents }
    }
}
