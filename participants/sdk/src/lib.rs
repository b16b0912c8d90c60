//! The participant SDK of Tercet.

pub mod action;
pub mod batch;
mod clock;
pub mod context;
pub mod fence;
mod handler;
mod metrics;
pub mod participant;
pub mod plan;
pub mod retry;
pub mod service;
pub mod xid;
