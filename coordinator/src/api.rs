//! What the coordinator offers over gRPC: initiators, participants, operators.

pub(crate) mod access;
pub mod admin;
pub mod coordinator;
pub mod errors;
mod patience;
pub mod sessions;
