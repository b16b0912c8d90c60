//! What a coupon takes off an order.
//!
//! Of every rule holds: a larger order never gets less, nothing falls below zero, and no order gets more than it costs.

use tercet_proto::coupon_template::v1 as pb;

use crate::invalid::{Basis, Invalid, Limit, between, entries, given};
use crate::limits::{STEPS_MAX, WHOLE};
use crate::money::Cents;

/// What a coupon takes off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscountRule {
    /// An amount for each threshold.
    FullReduction(FullReduction),
    /// A part, up to a cap.
    Percentage(Percentage),
    /// An amount, whatever the order costs.
    Universal(Universal),
}

/// 满减: the highest step that the order reaches counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullReduction(Vec<Step>);

/// A step of a full reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    threshold: Cents,
    off: Cents,
}

/// 折扣: a part of the order, rounded down to the cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentage {
    off_basis_points: u32,
    cap: Cents,
    threshold: Cents,
}

/// 通用券: no threshold; an order that costs less is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Universal(Cents);

/// What an order gets from a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So much is taken off.
    Off(Cents),
    /// The threshold is so far away.
    Short(Cents),
}

impl DiscountRule {
    /// What so much gets.
    pub fn evaluate(&self, amount: Cents) -> Outcome {
        let (threshold, off) = match self {
            Self::FullReduction(FullReduction(steps)) => {
                let reached = steps.iter().rev().find(|step| step.threshold <= amount);
                let step = reached.unwrap_or(&steps[0]);
                (step.threshold, step.off)
            }
            Self::Percentage(rule) => (rule.threshold, amount.part(rule.off_basis_points).min(rule.cap)),
            Self::Universal(Universal(off)) => (Cents::ZERO, *off),
        };
        if amount < threshold { Outcome::Short(threshold.less(amount)) } else { Outcome::Off(off.min(amount)) }
    }

    /// The most that it ever takes off.
    pub fn most(&self) -> Cents {
        match self {
            Self::FullReduction(FullReduction(steps)) => steps[steps.len() - 1].off,
            Self::Percentage(rule) => rule.cap,
            Self::Universal(Universal(off)) => *off,
        }
    }
}

impl FullReduction {
    /// Both amounts rise from step to step.
    ///
    /// # Errors
    /// When they do not, or there are not 1 to [`STEPS_MAX`] steps.
    pub fn new(steps: Vec<Step>) -> Result<Self, Invalid> {
        entries("steps", &steps, 1, STEPS_MAX)?;
        for (at, pair) in steps.windows(2).enumerate() {
            let falls = [
                (pair[1].threshold <= pair[0].threshold, "threshold_cents"),
                (pair[1].off <= pair[0].off, "off_cents"),
            ];
            if let Some((_, field)) = falls.into_iter().find(|(falls, _)| *falls) {
                return Err(Invalid::new(field, Limit::Rising).within(&format!("steps[{}]", at + 1)));
            }
        }
        Ok(Self(steps))
    }
}

impl Step {
    /// # Errors
    /// When one of the two is nothing, or more is taken off than the order costs.
    pub fn new(threshold_cents: i64, off_cents: i64) -> Result<Self, Invalid> {
        let threshold = Cents::positive("threshold_cents", threshold_cents)?;
        let off = Cents::positive("off_cents", off_cents)?;
        if off > threshold {
            return Err(Invalid::new("off_cents", Limit::AtMost(Basis::Field("threshold_cents"), threshold_cents)));
        }
        Ok(Self { threshold, off })
    }
}

impl Percentage {
    /// Takes off 1 to 10,000 basis points, at most the cap. A threshold of 0 is none.
    ///
    /// # Errors
    /// When the part is out of these limits, or the cap is nothing.
    pub fn new(off_basis_points: u32, cap_cents: i64, threshold_cents: i64) -> Result<Self, Invalid> {
        Ok(Self {
            off_basis_points: between("off_basis_points", off_basis_points, 1, WHOLE.into())?,
            cap: Cents::positive("cap_cents", cap_cents)?,
            threshold: Cents::new("threshold_cents", threshold_cents)?,
        })
    }
}

impl Universal {
    /// # Errors
    /// When it takes nothing off.
    pub fn new(off_cents: i64) -> Result<Self, Invalid> {
        Cents::positive("off_cents", off_cents).map(Self)
    }
}

impl TryFrom<&pb::Discount> for DiscountRule {
    type Error = Invalid;

    fn try_from(wire: &pb::Discount) -> Result<Self, Invalid> {
        match given("kind", wire.kind.as_ref())? {
            pb::discount::Kind::FullReduction(rule) => {
                let step = |(at, step): (usize, &pb::Step)| {
                    let named = |error: Invalid| error.within(&format!("steps[{at}]"));
                    Step::new(step.threshold_cents, step.off_cents).map_err(named)
                };
                // Before the steps are looked at: the list may be of any length.
                let made = entries("steps", &rule.steps, 1, STEPS_MAX)
                    .and_then(|()| rule.steps.iter().enumerate().map(step).collect())
                    .and_then(FullReduction::new);
                made.map(Self::FullReduction).map_err(|error| error.within("full_reduction"))
            }
            pb::discount::Kind::Percentage(rule) => {
                Percentage::new(rule.off_basis_points, rule.cap_cents, rule.threshold_cents)
                    .map(Self::Percentage)
                    .map_err(|error| error.within("percentage"))
            }
            pb::discount::Kind::Universal(rule) => {
                Universal::new(rule.off_cents).map(Self::Universal).map_err(|error| error.within("universal"))
            }
        }
    }
}

impl From<&DiscountRule> for pb::Discount {
    fn from(rule: &DiscountRule) -> Self {
        let step = |step: &Step| pb::Step { threshold_cents: step.threshold.get(), off_cents: step.off.get() };
        let kind = match rule {
            DiscountRule::FullReduction(FullReduction(steps)) => {
                pb::discount::Kind::FullReduction(pb::FullReduction { steps: steps.iter().map(step).collect() })
            }
            DiscountRule::Percentage(rule) => pb::discount::Kind::Percentage(pb::Percentage {
                off_basis_points: rule.off_basis_points,
                cap_cents: rule.cap.get(),
                threshold_cents: rule.threshold.get(),
            }),
            DiscountRule::Universal(Universal(off)) => {
                pb::discount::Kind::Universal(pb::Universal { off_cents: off.get() })
            }
        };
        Self { kind: Some(kind) }
    }
}
