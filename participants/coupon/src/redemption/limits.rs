//! Every limit of the redemption service.

use std::time::Duration;

/// Most bytes of a request: 500 lines of up to 60 bytes each, and more than enough beside them.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Calls that are answered at a time by default; what comes besides is told at once to come again.
pub const CALLS: u32 = 1_024;
/// The most that a process may be told to answer at a time.
pub const CALLS_MAX: u32 = 65_536;
/// For an answer, the coordinator's part of it included: less than callers wait, so that they are told that the system
/// is busy. What has begun goes on, and is found under its key.
pub const ANSWER_MAX: Duration = Duration::from_millis(4_500);
/// Of the calls that a process answers at a time one database of several may have one in so many: one that hangs costs
/// its own users.
pub const DATABASE_SHARE: u32 = 2;
/// Most coupons of a user that are looked at for an order, where none is named: those that end first.
pub const LOOKED_MAX: usize = 200;
/// Most coupons of an order.
pub const COUPONS_MAX: usize = tercet_rules::limits::COMBINED_MAX;
/// Most different products of an order: each is a branch of its transaction, which has 256 at most.
pub const PRODUCTS_MAX: usize = 200;
/// Most units of a product in an order.
pub const UNITS_MAX: u32 = 1_000_000;
/// The most seconds for which an order waits to be paid: fewer than the days for which its redemption is kept at least,
/// by which it is closed.
pub const PAY_WITHIN_S_MAX: u32 = 1_209_600;
/// Most bytes of an idempotency key.
pub const KEY_BYTES_MAX: usize = 128;
/// Most bytes of the name of whoever uses coupons for a user, or takes an order back.
pub const OPERATOR_BYTES_MAX: usize = 64;
/// Most bytes of a reason.
pub const REASON_BYTES_MAX: usize = 512;
/// Versions of templates whose rules are kept.
pub const TERMS_MAX: usize = 10_000;
/// For a transaction of a redemption, from acceptance to its outcome.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// The same for a refund, longer than a service is away: once the order has let it begin, nothing in it is refused, and
/// coupons that somebody has back are not taken from him again.
pub const REFUND_DEADLINE: Duration = Duration::from_mins(10);
/// For a call to the coordinator, its repeats included: longer than [`DEADLINE`], so that a slow participant is told
/// from a coordinator that is away.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// For a coordinator to say how a transaction stands whose end took longer than that; one that does not is away, or,
/// where nobody waits for it, slow.
pub const LOOK_TIMEOUT: Duration = Duration::from_millis(500);
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
/// Redemptions that are kept in one database by default; past that nobody's is. They are counted at each tick, so
/// several processes may keep some more within one.
pub const KEPT: u32 = 100_000;
/// The most that a database may be told to keep: counting them stays well below a tick.
pub const KEPT_MAX: u32 = 1_000_000;
/// Days for which ended redemptions are kept by default: their orders can be taken back so long.
pub const RETENTION_DAYS: u32 = 365;
/// The fewest and the most days that they may be told to be kept.
pub const RETENTION_DAYS_MIN: u32 = 30;
/// See [`RETENTION_DAYS_MIN`].
pub const RETENTION_DAYS_MAX: u32 = 36_500;
/// Between two looks for redemptions that are too old.
pub const PURGE_INTERVAL: Duration = Duration::from_secs(60);
/// Redemptions that are deleted at a time.
pub const PURGE_ROWS: u32 = 500;
/// Between two looks at whether what is owed was made good, at least and at most; each is twice the one before.
pub const OWED_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// Looks in all, over some two hours; then it waits for a person.
pub const OWED_LOOKS: u32 = 20;
/// How often a redemption is looked for that has just moved to another database.
pub const LOOKS_MAX: u32 = 3;
