//! Every limit of the business log.

use std::time::Duration;

/// Most entries of a page.
pub const PAGE_MAX: u32 = 100;

/// Entries of a page, when the caller does not say.
pub const PAGE_DEFAULT: u32 = 20;

/// A page that has so many bytes takes no further entry, so that it fits into one gRPC message with any that it has.
pub const PAGE_BYTES_MAX: usize = 2 << 20;

/// Most bytes of an operator's name.
pub const OPERATOR_BYTES_MAX: usize = 64;

/// Days for which entries are kept, by default.
pub const RETENTION_DAYS: u32 = 180;

/// Between two looks for entries that are too old.
pub const PURGE_INTERVAL: Duration = Duration::from_secs(60);

/// Entries that are deleted in one local transaction.
pub const PURGE_ROWS: i64 = 1_000;
