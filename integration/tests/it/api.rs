//! The coordinator through its API and the SDK: over real sockets, on SQLite, with participants that do what a test
//! says.

mod auditor;
mod bulkhead;
mod canary;
mod compensation;
mod driven;
pub(crate) mod garbage;
mod lifecycle;
mod limits;
mod messages;
mod operate;
mod party;
mod secure;
mod sessions;
mod stream;
mod submit;
mod world;
