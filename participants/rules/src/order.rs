//! The order that a coupon is tried on.

use crate::invalid::{Basis, Invalid, Limit, between, entries};
use crate::limits::{CENTS_MAX, LINES_MAX, QUANTITY_MAX};
use crate::money::Cents;
use crate::scope::Scope;

/// So many units of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// What is bought.
    pub product_id: i64,
    /// Its category.
    pub category_id: i64,
    /// Who sells it.
    pub shop_id: i64,
    /// Of one unit.
    pub price: Cents,
    /// Units.
    pub quantity: u32,
}

impl Line {
    /// What the whole line costs.
    pub fn amount(&self) -> Cents {
        self.price.times(self.quantity.into())
    }
}

/// 1 to [`LINES_MAX`] lines that cost at most [`CENTS_MAX`] together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order(Vec<Line>);

impl Order {
    /// # Errors
    /// When there are too few or too many lines, one has no unit or too many, or they cost too much.
    pub fn new(lines: Vec<Line>) -> Result<Self, Invalid> {
        entries("lines", &lines, 1, LINES_MAX)?;
        for (at, line) in lines.iter().enumerate() {
            between("quantity", line.quantity, 1, QUANTITY_MAX.into())
                .map_err(|error| error.within(&format!("lines[{at}]")))?;
        }
        let order = Self(lines);
        if order.amount().get() > CENTS_MAX {
            return Err(Invalid::new("lines", Limit::AtMost(Basis::SumOfAmounts, CENTS_MAX)));
        }
        Ok(order)
    }

    /// Its lines.
    pub fn lines(&self) -> &[Line] {
        &self.0
    }

    /// What it costs before any coupon.
    pub fn amount(&self) -> Cents {
        self.0.iter().map(Line::amount).sum()
    }

    /// What the lines cost that a coupon is for; `None` where it is for none.
    pub fn amount_within(&self, scope: &Scope) -> Option<Cents> {
        let mut covered = self.0.iter().filter(|line| scope.covers(line)).peekable();
        covered.peek()?;
        Some(covered.map(Line::amount).sum())
    }
}
