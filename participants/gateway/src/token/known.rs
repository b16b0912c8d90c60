//! Tokens that were verified before: a bearer sends the same one with each request, and to check its signature costs
//! more than all else that is done about it.
//!
//! A token is known as long as the very set of keys and the very list of revoked tokens that it was checked with are
//! in force, and no longer than it is good: one whose key has gone, that is revoked, or whose time is over, is checked
//! anew, and refused. What was not verified is never kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Identity;
use super::keys::Keys;
use super::revoked::Revoked;
use crate::limits::{TOKEN_KNOWN_BYTES_MAX, TOKENS_KNOWN_MAX};

/// What a token has been found to say.
struct Verified {
    keys: Arc<Keys>,
    revoked: Arc<Revoked>,
    /// The last second in which it is good.
    until: u64,
    identity: Identity,
}

/// Tokens by their text.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<Box<str>, Verified>>);

impl Known {
    /// Whom a token names that was verified with these keys and that list, and is good at this second.
    pub(super) fn find(&self, token: &str, (keys, revoked): (&Arc<Keys>, &Arc<Revoked>), now: u64) -> Option<Identity> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let verified = known.get(token)?;
        let is_same = Arc::ptr_eq(&verified.keys, keys) && Arc::ptr_eq(&verified.revoked, revoked);
        (is_same && now <= verified.until).then(|| verified.identity.clone())
    }

    /// Keeps what a token was found to say, where there is room for it: when all of it is taken, all is forgotten.
    pub(super) fn keep(&self, token: &str, (keys, revoked): (Arc<Keys>, Arc<Revoked>), until: u64, identity: Identity) {
        if token.len() > TOKEN_KNOWN_BYTES_MAX {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= TOKENS_KNOWN_MAX {
            known.clear();
        }
        known.insert(token.into(), Verified { keys, revoked, until, identity });
    }
}
