//! Every limit of the issuing service.

use std::time::Duration;

/// Most bytes of a request: a batch has 100,000 users of up to 10 bytes each.
pub const MESSAGE_BYTES_MAX: usize = 2 << 20;
/// Most groups that a caller names for a user.
pub const GROUPS_MAX: usize = 32;
/// Most bytes of an idempotency key.
pub const KEY_BYTES_MAX: usize = 128;
/// Most bytes of a batch's id.
pub const BATCH_BYTES_MAX: usize = 128;
/// With this the ids of those batches begin that occasions lead to, and no others.
pub const OCCASION_BATCH: &str = "occasion/";
/// Most bytes of an operator's name.
pub const OPERATOR_BYTES_MAX: usize = 64;
/// Most bytes of a reason.
pub const REASON_BYTES_MAX: usize = 512;
/// Most users of a batch.
pub const BATCH_USERS_MAX: usize = 100_000;
/// Most coupons that a batch has for one user.
pub const BATCH_PER_USER_MAX: u32 = 100;
/// Most coupons of a batch.
pub const BATCH_COUPONS_MAX: u64 = 1_000_000;
/// Most occasions that are active.
pub const OCCASIONS_MAX: usize = 1_000;
/// Most coupons that an occasion has for one user.
pub const OCCASION_PER_USER_MAX: u32 = 20;
/// Most users of one event: it stays within what a broker takes.
pub const EVENT_USERS_MAX: usize = 20_000;
/// By how much the clocks of those who tell of users and of campaigns may be behind, in milliseconds.
pub const SKEW_MS: i64 = 60_000;
/// Batches that a process goes on with at once, since nobody else runs them.
pub const LEFT_MAX: usize = 4;
/// Runs of occasions that a process carries out at once.
pub const RUNS_MAX: usize = 8;
/// Days for which what an occasion gave, and to whom, is kept by default after it was stopped.
pub const RETENTION_DAYS: u32 = 365;
/// The fewest and the most days that it may be told to be kept.
pub const RETENTION_DAYS_MIN: u32 = 30;
/// See [`RETENTION_DAYS_MIN`].
pub const RETENTION_DAYS_MAX: u32 = 36_500;
/// Runs of occasions that were stopped long ago that one round of jobs deletes: the others wait for it.
pub const OLD_RUNS_MAX: usize = 1_000;
/// Users of such a run that are deleted at a time.
pub const OLD_USERS: usize = 500;
/// Runs of occasions that are made to wait again at once.
pub const RETRY_MAX: usize = 1_000;
/// Most users of a run that are shown.
pub const RUN_USERS_MAX: usize = 100;
/// Coupons of one local transaction of a batch.
pub const CHUNK: usize = 500;
/// Most batches of a page, and so many where the caller does not say: each is counted in every database.
pub const BATCHES_MAX: u32 = 20;
/// Coupons of a page, where the caller does not say.
pub const PAGE_DEFAULT: u32 = 20;
/// Most coupons of a page.
pub const PAGE_MAX: u32 = 100;
/// Most rows that are looked at for one page of an operator.
pub const LOOKED_AT_MAX: u32 = 1_000;
/// Templates whose offers are kept.
pub const OFFERS_MAX: usize = 10_000;
/// Between two questions of a process to stock whether a template that is sold out still is.
pub const SOLD_OUT_GAP: Duration = Duration::from_millis(20);
/// How long the others wait for the answer of the one that asks.
pub const TURN_MAX: Duration = Duration::from_millis(500);
/// Users and templates whose limits are known to be reached.
pub const REACHED_MAX: usize = 200_000;
/// For a transaction of a claim.
pub const CLAIM_DEADLINE: Duration = Duration::from_secs(10);
/// For the transaction that ends a batch: so long it waits for the stock service.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(60);
/// For a call to the coordinator, its repeats included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Callers whose reads of one database go there together.
pub const READS_TOGETHER: usize = 16;
/// So many times at once in each database.
pub const READS_AT_ONCE: usize = 2;
/// A read that is out for longer is not one of those: what it waits for may be its connection alone.
pub const READ_SLOW: Duration = Duration::from_millis(200);
/// For a read, a connection and the repeats for single callers included.
pub const READ_MAX: Duration = Duration::from_secs(2);
