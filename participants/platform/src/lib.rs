//! The coupon platform on Tercet: the services' flows, and the embedded default that runs all of them in one process.

pub mod burst;
pub mod flows;
pub mod process;
pub mod summary;
