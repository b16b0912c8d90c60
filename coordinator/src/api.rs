//! What the coordinator offers over gRPC: initiators, participants, operators.

pub mod admin;
pub mod coordinator;
pub mod errors;
pub mod sessions;
