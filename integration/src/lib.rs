//! What the tests and programs of this crate share.

pub mod servers;
pub mod sim;
