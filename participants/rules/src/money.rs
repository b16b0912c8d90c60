//! Money: whole cents, never below zero, never past what a sum can hold.

use std::fmt;
use std::iter::Sum;

use crate::invalid::{Invalid, between};
use crate::limits::{CENTS_MAX, WHOLE};

/// An amount of money in cents, at least 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cents(i64);

impl Cents {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An amount from 0 to [`CENTS_MAX`].
    ///
    /// # Errors
    /// When it is not; `field` is the one that is named.
    pub fn new(field: &str, cents: i64) -> Result<Self, Invalid> {
        between(field, cents, 0, CENTS_MAX).map(Self)
    }

    /// The same, and not nothing.
    ///
    /// # Errors
    /// When it is not; `field` is the one that is named.
    pub fn positive(field: &str, cents: i64) -> Result<Self, Invalid> {
        between(field, cents, 1, CENTS_MAX).map(Self)
    }

    /// As a number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// What is left; nothing where more is taken than is there.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self((self.0 - other.0).max(0))
    }

    /// So many times this, at most what a number holds.
    #[must_use]
    pub const fn times(self, count: i64) -> Self {
        Self(self.0.saturating_mul(count))
    }

    /// A part of it, rounded down to the cent. At most all of it.
    #[must_use]
    pub fn part(self, basis_points: u32) -> Self {
        let part = i128::from(self.0) * i128::from(basis_points.min(WHOLE)) / i128::from(WHOLE);
        Self(i64::try_from(part).expect("a part is not more than the whole"))
    }
}

impl Sum for Cents {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        Self(amounts.fold(0, |sum, amount| sum.saturating_add(amount.0)))
    }
}

/// In yuan: `12.50`.
impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}
