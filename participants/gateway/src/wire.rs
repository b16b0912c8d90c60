//! What the API says and understands, and the ways to and from what services say.

pub(crate) mod common;
pub(crate) mod coupon;
pub(crate) mod log;
pub(crate) mod occasion;
pub(crate) mod order;
pub(crate) mod redemption;
pub(crate) mod rules;
pub(crate) mod stock;
pub(crate) mod template;
