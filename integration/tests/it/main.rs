//! The tests that need more than one crate, a real server, or the whole repository.

mod api;
mod checker;
mod conservation;
mod disk;
mod fence;
mod flows;
mod kill;
mod power;
mod servers;
mod services;
mod simulation;
mod tidy;
