//! Every limit of the rules, in one place.

/// Most cents that anything costs: ten thousand million yuan.
pub const CENTS_MAX: i64 = 1_000_000_000_000;

/// Most steps of a full reduction.
pub const STEPS_MAX: usize = 10;

/// All of something, in basis points.
pub const WHOLE: u32 = 10_000;

/// Most ids of a scope.
pub const SCOPE_IDS_MAX: usize = 1_000;

/// Most days from a claim to the end of its coupon.
pub const DAYS_MAX: u32 = 3_650;

/// Latest time: the end of the year 9999.
pub const TIME_MS_MAX: i64 = 253_402_300_799_999;

/// Most coupons of a template that one user may claim.
pub const PER_USER_MAX: u32 = 1_000;

/// Most coupons of a template.
pub const COUPONS_MAX: i64 = 1_000_000_000;

/// Most bytes of the name of a stacking group.
pub const STACKING_GROUP_BYTES_MAX: usize = 32;

/// Most coupons of a stacking group in one order.
pub const STACKED_MAX: u32 = 10;

/// Most user groups of an audience.
pub const AUDIENCE_GROUPS_MAX: usize = 32;

/// Most bytes of the name of a user group.
pub const GROUP_BYTES_MAX: usize = 64;

/// Most users that an audience names.
pub const AUDIENCE_USERS_MAX: usize = 1_000;

/// Most coupons that are looked at for one order.
pub const COMBINED_MAX: usize = 20;

/// Most sets of coupons that are looked at for the best.
pub const SETS_MAX: usize = 2_000;

/// Most lines of an order.
pub const LINES_MAX: usize = 500;

/// Most units of a line.
pub const QUANTITY_MAX: u32 = 1_000_000;
