//! The tests that need more than one crate, a real server, or the whole repository.

mod api;
mod checker;
mod conservation;
mod fence;
mod flows;
mod kill;
mod operators;
mod power;
mod servers;
mod services;
mod simulation;
mod tidy;
