//! For the tests of participants: the conformance suite, and a coordinator in memory.

mod crash;
mod database;
#[cfg(test)]
mod faulty;
mod suite;

#[doc(hidden)]
pub mod macros;

pub use database::Database;
pub use suite::{Faults, Made, Mode, Report, Suite};
