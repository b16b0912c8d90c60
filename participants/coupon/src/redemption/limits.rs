//! Every limit of the redemption service.

use std::time::Duration;

/// Most bytes of a request: 500 lines of up to 60 bytes each, and more than enough beside them.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Calls that are answered at a time; what comes besides is told at once to come again.
pub const CALLS_MAX: usize = 1_024;
/// Most coupons of an order.
pub const COUPONS_MAX: usize = tercet_rules::limits::COMBINED_MAX;
/// Most bytes of an idempotency key.
pub const KEY_BYTES_MAX: usize = 128;
/// Most bytes of the name of whoever takes an order back.
pub const OPERATOR_BYTES_MAX: usize = 64;
/// Most bytes of a reason.
pub const REASON_BYTES_MAX: usize = 512;
/// Versions of templates whose rules are kept.
pub const TERMS_MAX: usize = 10_000;
/// For a transaction of a redemption, from acceptance to its outcome.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// For a call to the coordinator, its repeats included: longer than the deadline, so that a slow participant is told
/// from a coordinator that is away.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long nobody waits for a coordinator that was away.
pub const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// How often the job looks for what is due.
pub const TICK: Duration = Duration::from_secs(1);
/// From a redemption's row to the job's first look at it: longer than its caller waits.
pub const FIRST_DUE_MS: i64 = 5_000;
/// Between two tries of the job, at least and at most; each is twice the one before.
pub const AGAIN_MS: (i64, i64) = (1_000, 10_000);
/// Redemptions that the job submits at a time.
pub const LATER_AT_ONCE: usize = 16;
/// Redemptions that the job reads at a time.
pub const LATER_ROWS: u32 = 100;
/// How long a redemption is kept before it is given up.
pub const KEPT_MS_MAX: i64 = 600_000;
/// How often the job submits a redemption before it is given up.
pub const TRIES_MAX: i64 = 100;
/// Most redemptions that are kept in one database; past that nobody's is. It is counted at each tick, so a process may
/// keep some more within one.
pub const KEPT_MAX: i64 = 100_000;
