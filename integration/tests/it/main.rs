//! The tests that need more than one crate, a real server, or the whole repository.

mod conservation;
mod fence;
mod flows;
mod servers;
mod services;
mod simulation;
mod tidy;
