//! Every limit of the template service; those of the rules are in [`tercet_rules::limits`].

/// Most bytes of a request.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// Most bytes of a template's name and of an idempotency key.
pub const NAME_BYTES_MAX: usize = 128;

/// Most bytes of an operator's name and of the name of a source of usage.
pub const OPERATOR_BYTES_MAX: usize = 64;

/// Most bytes of a reason.
pub const REASON_BYTES_MAX: usize = 512;

/// Most entries of a page: the largest possible ones fit into one gRPC message.
pub const PAGE_MAX: u32 = 50;

/// Entries of a page, when the caller does not say.
pub const PAGE_DEFAULT: u32 = 20;

/// Most entries of a report of usage.
pub const USAGE_MAX: usize = 500;

/// Most offers that are remembered.
pub const OFFERS_MAX: usize = 10_000;
