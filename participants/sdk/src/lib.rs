//! The participant SDK of Tercet.

pub mod action;
pub mod plan;
pub mod xid;
