//! When coupons are valid, and whose days count.

use tercet_proto::coupon_template::v1 as pb;

use crate::invalid::{Invalid, Limit, between, given};
use crate::limits::{DAYS_MAX, TIME_MS_MAX};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

/// A time from its start to before its end, in milliseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    start_ms: i64,
    end_ms: i64,
}

impl Period {
    /// # Errors
    /// When the end is not after the start, or one of them is not between 1970 and the year 9999.
    pub fn new(start_ms: i64, end_ms: i64) -> Result<Self, Invalid> {
        between("start_ms", start_ms, 0, TIME_MS_MAX)?;
        between("end_ms", end_ms, 0, TIME_MS_MAX)?;
        if end_ms <= start_ms {
            return Err(Invalid::new("end_ms", Limit::After("start_ms")));
        }
        Ok(Self { start_ms, end_ms })
    }

    /// Its first moment.
    pub const fn start_ms(self) -> i64 {
        self.start_ms
    }

    /// The first moment after it.
    pub const fn end_ms(self) -> i64 {
        self.end_ms
    }

    /// Whether it is this moment.
    pub const fn contains(self, at_ms: i64) -> bool {
        self.start_ms <= at_ms && at_ms < self.end_ms
    }
}

/// A time zone without summer time: minutes east of UTC, a multiple of 15 from -720 to 840.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UtcOffset(i32);

impl UtcOffset {
    /// # Errors
    /// When no place on earth has it.
    pub fn new(field: &str, minutes: i32) -> Result<Self, Invalid> {
        if between(field, minutes, -720, 840)? % 15 != 0 {
            return Err(Invalid::new(field, Limit::MultipleOf(15)));
        }
        Ok(Self(minutes))
    }

    /// Minutes east of UTC.
    pub const fn minutes(self) -> i32 {
        self.0
    }

    /// The number of the day in this zone; the first of 1970 is 0. Limits per day count by it.
    pub fn day(self, at_ms: i64) -> i64 {
        (at_ms + self.ahead_ms()).div_euclid(DAY_MS)
    }

    /// When this day begins.
    fn midnight_ms(self, day: i64) -> i64 {
        day * DAY_MS - self.ahead_ms()
    }

    fn ahead_ms(self) -> i64 {
        i64::from(self.0) * MINUTE_MS
    }
}

/// When a coupon may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidityPeriod {
    zone: UtcOffset,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fixed(Period),
    DaysFromClaim(u32),
}

impl ValidityPeriod {
    /// The same period for every coupon.
    pub const fn fixed(zone: UtcOffset, period: Period) -> Self {
        Self { zone, kind: Kind::Fixed(period) }
    }

    /// From the claim to the midnight after so many whole days: a coupon of one day that is claimed on Monday, early or
    /// late, is valid through Tuesday.
    ///
    /// # Errors
    /// When it is not 1 to [`DAYS_MAX`].
    pub fn days_from_claim(zone: UtcOffset, days: u32) -> Result<Self, Invalid> {
        let days = between("days_from_claim", days, 1, DAYS_MAX.into())?;
        Ok(Self { zone, kind: Kind::DaysFromClaim(days) })
    }

    /// Whose days count.
    pub const fn zone(&self) -> UtcOffset {
        self.zone
    }

    /// The period of every coupon, where it does not hang on the claim.
    pub const fn fixed_period(&self) -> Option<Period> {
        match self.kind {
            Kind::Fixed(period) => Some(period),
            Kind::DaysFromClaim(_) => None,
        }
    }

    /// When a coupon that was claimed then may be used.
    pub fn period(&self, claimed_ms: i64) -> Period {
        match self.kind {
            Kind::Fixed(period) => period,
            Kind::DaysFromClaim(days) => {
                let end_ms = self.zone.midnight_ms(self.zone.day(claimed_ms) + i64::from(days) + 1);
                Period { start_ms: claimed_ms, end_ms }
            }
        }
    }
}

impl TryFrom<&pb::Period> for Period {
    type Error = Invalid;

    fn try_from(wire: &pb::Period) -> Result<Self, Invalid> {
        Self::new(wire.start_ms, wire.end_ms)
    }
}

impl From<Period> for pb::Period {
    fn from(period: Period) -> Self {
        Self { start_ms: period.start_ms, end_ms: period.end_ms }
    }
}

impl TryFrom<&pb::Validity> for ValidityPeriod {
    type Error = Invalid;

    fn try_from(wire: &pb::Validity) -> Result<Self, Invalid> {
        let zone = UtcOffset::new("utc_offset_minutes", wire.utc_offset_minutes)?;
        match given("kind", wire.kind.as_ref())? {
            pb::validity::Kind::Fixed(period) => {
                let period = Period::try_from(period).map_err(|error| error.within("fixed"))?;
                Ok(Self::fixed(zone, period))
            }
            pb::validity::Kind::DaysFromClaim(days) => Self::days_from_claim(zone, *days),
        }
    }
}

impl From<&ValidityPeriod> for pb::Validity {
    fn from(validity: &ValidityPeriod) -> Self {
        let kind = match validity.kind {
            Kind::Fixed(period) => pb::validity::Kind::Fixed(period.into()),
            Kind::DaysFromClaim(days) => pb::validity::Kind::DaysFromClaim(days),
        };
        Self { utc_offset_minutes: validity.zone.minutes(), kind: Some(kind) }
    }
}
