//! Where a call belongs: its global transaction, its branch, and how long it may still act.

mod metadata;

pub use self::metadata::{Carry, InvalidMetadata, ParseTraceparentError, Traceparent};
use crate::xid::Xid;

/// The place of one call in its global transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The global transaction.
    pub xid: Xid,
    /// The branch, by its number within the transaction.
    pub branch: u32,
    /// Milliseconds since 1970 on the coordinator's clock. A call that comes later does nothing.
    pub not_after_ms: u64,
}
