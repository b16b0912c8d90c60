//! The participant SDK of Tercet.

pub mod action;
pub mod batch;
pub mod bootstrap;
pub mod client;
mod clock;
pub mod context;
pub mod fence;
#[cfg(test)]
mod fixture;
mod handler;
mod metrics;
pub mod participant;
pub mod plan;
mod port;
pub mod retry;
pub mod service;
mod session;
pub mod xid;
