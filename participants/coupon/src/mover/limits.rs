//! Every limit of a move.

use std::time::Duration;

use crate::shards::{LOOK, LOOK_MAX};

/// Rows that are compared, or deleted, in one step.
pub const PAGE: usize = 2_000;
/// Steps that are read at a time, from both sides.
pub const AT_ONCE: usize = 4;

/// Rows and bytes of one statement that writes.
pub const WRITE_ROWS: usize = 500;
/// See [`WRITE_ROWS`].
pub const WRITE_BYTES: usize = 1 << 20;

/// Slots are frozen when a pass has found no more than so many rows that differ, or after so many passes.
pub const FEW_ROWS: u64 = 200;
/// See [`FEW_ROWS`].
pub const PASSES_MAX: u32 = 8;

/// For how long a step waits for local transactions that are in its way; after that those of them that are idle are
/// ended. In seconds, as the database takes it.
pub const LOCK_WAIT_S: u32 = 1;
/// How often a step is tried.
pub const TRIES_MAX: u32 = 20;

/// For how long rows stay where slots were once these are served elsewhere: longer than readers go by what they saw.
pub const LINGER: Duration = Duration::from_secs(3);
/// How often they are deleted while other slots move.
pub const FINISH: Duration = Duration::from_secs(60);

/// How long events are waited for before slots are frozen: longer than a relay that died keeps others away.
pub const RELAY_MAX: Duration = Duration::from_secs(30);

/// How long frozen slots wait for their events to be published, before they are served again where they were.
pub const EVENTS_MAX: Duration = Duration::from_secs(5);
/// Between two looks at that.
pub const EVENTS_PAUSE: Duration = Duration::from_millis(5);

const _: () =
    assert!(LINGER.as_millis() >= (LOOK.as_millis() + LOOK_MAX.as_millis()) * 3 / 2, "readers see empty tables");
