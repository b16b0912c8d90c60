//! Tokens that were verified before: a bearer sends the same one with each request, and to check its signature costs
//! more than all else that is done about it.
//!
//! A token is known as long as the very set of keys that it was checked with is in force, and no longer than it is
//! good: one whose key has gone, or whose time is over, is checked anew, and refused. What was not verified is never
//! kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Identity;
use super::keys::Keys;
use crate::limits::{TOKEN_KNOWN_BYTES_MAX, TOKENS_KNOWN_MAX};

/// What a token has been found to say.
struct Verified {
    keys: Arc<Keys>,
    /// The last second in which it is good.
    until: u64,
    identity: Identity,
}

/// Tokens by their text.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<Box<str>, Verified>>);

impl Known {
    /// Whom a token names that was verified with these keys and is good at this second.
    pub(super) fn find(&self, token: &str, keys: &Arc<Keys>, now: u64) -> Option<Identity> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let verified = known.get(token)?;
        let holds = Arc::ptr_eq(&verified.keys, keys) && now <= verified.until;
        holds.then(|| verified.identity.clone())
    }

    /// Keeps what a token was found to say, where there is room for it: when all of it is taken, all is forgotten.
    pub(super) fn keep(&self, token: &str, keys: Arc<Keys>, until: u64, identity: Identity) {
        if token.len() > TOKEN_KNOWN_BYTES_MAX {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= TOKENS_KNOWN_MAX {
            known.clear();
        }
        known.insert(token.into(), Verified { keys, until, identity });
    }
}
