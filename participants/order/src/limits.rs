//! Every limit of the order service.

use std::time::Duration;

/// The most units of one order of one thing.
pub const COUNT_MAX: u32 = 1_000_000;
/// The most coupons of one order.
pub const COUPONS_MAX: usize = 20;
/// The most lines of one order.
pub const LINES_MAX: usize = 500;
/// The most seconds for which an order waits to be paid.
pub const PAY_WITHIN_S_MAX: u32 = 1_209_600;
/// Most bytes of the name of whoever says that an order is paid.
pub const OPERATOR_BYTES_MAX: usize = 64;
/// Most bytes of the number of a payment.
pub const PAYMENT_BYTES_MAX: usize = 64;
/// Orders of a page of a shop's, where the caller does not say.
pub const SHOP_PAGE_DEFAULT: u32 = 20;
/// Most orders of such a page.
pub const SHOP_PAGE_MAX: u32 = 100;
/// Orders of each status that are read at a time where some of them may not be wanted.
pub const LOOK: u32 = 100;
/// Most orders that are looked at for one page: what is being refunded, is refunded or closed stands beside each other.
pub const LOOKED_AT_MAX: u32 = 1_000;
/// How often the job looks for orders that were not paid in time.
pub const TICK: Duration = Duration::from_secs(1);
/// How long a process that says nothing keeps the job. It says something before each page of orders, which takes less.
pub const LEASE: Duration = Duration::from_secs(30);
/// Orders of one page.
pub const PAGE: u32 = 32;
/// Orders that are closed at a time.
pub const AT_ONCE: usize = 8;
/// For the redemption service to take an order back, from which it answers sooner.
pub const CALL_MAX: Duration = Duration::from_secs(5);
/// For the database to say what is due, or to take the lease back.
pub const LOOK_MAX: Duration = Duration::from_secs(5);
/// An order that could not be closed, or whose refund came to nothing, is looked at again after so long.
pub const AGAIN_MS: i64 = 60_000;
/// One whose closing is refused though it waits to be paid is looked at again after [`AGAIN_MS`], twice that, and so
/// on, at most after so long.
pub const AGAIN_MS_MAX: i64 = 3_600_000;
