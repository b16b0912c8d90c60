//! The coupon platform on Tercet: the services' flows, for the platform's own process and for those that drive it.

pub mod flows;
