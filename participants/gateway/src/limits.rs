//! Every limit of the gateway that is not a setting; those of the rules are in [`tercet_rules::limits`].

use std::time::Duration;

/// Most bytes of a request's body, where its route does not say otherwise.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// Most bytes of the body of a request that carries rules or lists of users.
pub const LARGE_BODY_BYTES_MAX: usize = 4 << 20;

/// Most bytes of the body of a request that carries an order: of 500 lines each may have 390. It is less than the
/// redemption service takes, and what goes there is shorter than its JSON.
pub const ORDER_BODY_BYTES_MAX: usize = 192 << 10;

/// Most bytes of all bodies that are there, from their first byte to their answers: senders who trickle large ones from
/// thousands of connections get no further.
pub const BODIES_BYTES_MAX: usize = 64 << 20;

/// Most bytes of a request's head, and of what is read ahead.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// For the first packets of a connection to a service.
pub const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Connections at a time; further ones wait to be accepted.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Callers of whom a limit knows what they have used. Past that, those it does not know share one allowance.
pub const CALLERS_MAX: usize = 1_000_000;

/// How often callers that have their whole allowance again are forgotten.
pub const FORGET_EVERY: Duration = Duration::from_secs(5);

/// Most bytes of an idempotency key.
pub const KEY_BYTES_MAX: usize = 128;

/// Most bytes of a request id that a caller brings.
pub const REQUEST_ID_BYTES_MAX: usize = 64;

/// Most bytes of a token.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Tokens that are known to be good, so that their signatures are not checked with each request; and most bytes of one
/// that is. Together they take 64 MiB at most.
pub const TOKENS_KNOWN_MAX: usize = 32_768;
/// See there.
pub const TOKEN_KNOWN_BYTES_MAX: usize = 1 << 10;

/// Most bytes of a list of revoked tokens, and most entries of it.
pub const REVOKED_BYTES_MAX: usize = 8 << 20;
/// See there.
pub const REVOKED_MAX: usize = 100_000;

/// Most bytes of the name of a person of a shop or of the platform, which is the `sub` of his token.
pub const PERSON_BYTES_MAX: usize = 64;

/// Most user groups of a token.
pub const TOKEN_GROUPS_MAX: usize = 32;

/// Most bytes of a set of keys.
pub const KEYS_BYTES_MAX: usize = 1 << 20;

/// A set of keys has to be there so long after it is asked for.
pub const KEYS_FETCH_MAX: Duration = Duration::from_secs(5);

/// A set of keys that could not be read is asked for again after so long at most.
pub const KEYS_RETRY: Duration = Duration::from_secs(30);

/// Between two times that an unknown key makes the set be read again.
pub const KEYS_AGAIN_MIN: Duration = Duration::from_secs(10);

/// Versions of rules whose terms are kept for coupons that are shown: with the longest scopes 40 MiB.
pub const TERMS_KEPT_MAX: usize = 4_096;

/// Things that a scope names where coupons are listed.
pub const TERMS_IDS_SHOWN: usize = 20;

/// Coupons are not shown later than this for want of their terms, and then without them.
pub const TERMS_WAIT_MAX: Duration = Duration::from_millis(500);

/// How long no terms are asked for after they could not be had.
pub const TERMS_AGAIN_MIN: Duration = Duration::from_secs(1);

/// When a refused caller may come again, where nothing better is known.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long browsers may keep what a preflight says.
pub const PREFLIGHT_AGE: Duration = Duration::from_secs(600);
