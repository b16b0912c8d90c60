//! The tests that need more than one crate, a real server, or the whole repository.

mod api;
mod authority;
mod boards;
mod books;
mod checker;
mod conformance;
mod conservation;
mod disk;
mod events;
mod fence;
mod flows;
mod fuzz;
mod gateway;
mod issuing;
mod kill;
mod load;
mod operators;
mod platform;
mod power;
mod redemption;
mod scale;
mod servers;
mod services;
mod shards;
mod templates;
mod tidy;
