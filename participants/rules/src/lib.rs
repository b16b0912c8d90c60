//! What the services of the coupon platform agree on: the rules of coupons as values, and the errors that people see.
//!
//! Nothing here reads a clock, draws a random number or does IO. A value that exists is valid: each is made from its
//! wire form ([`tercet_proto::coupon_template::v1`]) by `try_from`, which names the field that is wrong and its limit,
//! and goes back by `into`. Money is whole cents, and every division says which way it rounds.

mod basket;
mod catalogue;
mod discount;
mod invalid;
pub mod limits;
mod money;
mod offer;
mod order;
mod page;
mod quota;
mod rules;
mod scope;
mod stacking;
mod stored;
mod validity;

pub use basket::{Basket, Candidate, Set};
pub use catalogue::{Code, DOMAIN, Fault, Language};
pub use discount::{DiscountRule, FullReduction, Outcome, Percentage, Step, Universal};
pub use invalid::{Basis, Invalid, Limit, group, text};
pub use money::Cents;
pub use offer::{Audience, Offer, Release, Stopped, bucket};
pub use order::{Line, Order};
pub use page::{opened, sealed};
pub use quota::{Budget, Quota};
pub use rules::{Refusal, Rules};
pub use scope::{Ids, Scope};
pub use stacking::{Group, Stacking};
pub use stored::{DecodeError, decode, encode};
pub use validity::{Period, UtcOffset, ValidityPeriod};

#[cfg(test)]
mod tests;
