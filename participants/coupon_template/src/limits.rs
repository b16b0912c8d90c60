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

/// Most templates that are looked at for one page of what a user is offered.
pub const LOOKED_AT_MAX: u32 = 500;

/// Most versions that are asked for at once.
pub const VERSIONS_MAX: usize = 100;

/// Most user groups of whom offers are listed for.
pub const GROUPS_MAX: usize = 32;

/// Most entries of a report of usage.
pub const USAGE_MAX: usize = 500;

/// Most offers that are remembered.
pub const OFFERS_MAX: usize = 10_000;
