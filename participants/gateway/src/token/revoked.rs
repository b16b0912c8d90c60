//! Tokens that are to be refused before their time is over: the stolen one, or all that somebody had so far.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use ::metrics::Gauge;
use serde::Deserialize;
use tercet_secure::files::{Source, Watched};

use super::Role;
use crate::limits::{REVOKED_BYTES_MAX, REVOKED_MAX};
use crate::metrics;

/// What the file says.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// By their `jti`.
    #[serde(default)]
    tokens: Vec<String>,
    #[serde(default)]
    bearers: Vec<Bearer>,
}

/// Whose tokens from before a second are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bearer {
    role: Role,
    sub: String,
    /// Seconds since 1970.
    issued_before: u64,
}

/// The tokens of one version of the file.
#[derive(Default)]
pub(super) struct Revoked {
    tokens: HashSet<String>,
    bearers: HashMap<(Role, String), u64>,
}

impl Revoked {
    fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > REVOKED_BYTES_MAX {
            return Err(format!("has {} bytes, over the limit of {REVOKED_BYTES_MAX}", text.len()));
        }
        let list: List = serde_json::from_slice(text).map_err(|error| format!("is no list of tokens: {error}"))?;
        let entries = list.tokens.len() + list.bearers.len();
        if entries > REVOKED_MAX {
            return Err(format!("has {entries} entries, over the limit of {REVOKED_MAX}"));
        }
        let mut bearers = HashMap::new();
        for Bearer { role, sub, issued_before } in list.bearers {
            let latest: &mut u64 = bearers.entry((role, sub)).or_default();
            *latest = issued_before.max(*latest);
        }
        Ok(Self { tokens: list.tokens.into_iter().collect(), bearers })
    }

    /// Whether a token is among them, by its own name, its bearer, and when it was issued. One that does not say when
    /// may be as old as any.
    pub(super) fn has(&self, jti: Option<&str>, role: Role, sub: &str, issued_at: Option<u64>) -> bool {
        if jti.is_some_and(|jti| self.tokens.contains(jti)) {
            return true;
        }
        let before = if self.bearers.is_empty() { None } else { self.bearers.get(&(role, sub.to_owned())) };
        before.is_some_and(|before| issued_at.is_none_or(|at| at < *before))
    }
}

/// The file, if there is one.
pub(super) struct Revocations {
    file: Option<Watched<Revoked>>,
    none: Arc<Revoked>,
    stale: Gauge,
}

impl Revocations {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// When it can not be read, is no list, or is beyond a limit.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, tercet_secure::Error> {
        let parse = |sources: &[Source], bytes: &[Vec<u8>]| {
            Revoked::parse(&bytes[0]).map_err(|fault| sources[0].invalid(fault))
        };
        let source = |path: &Path| Source { setting: "revoked", path: path.to_owned() };
        let file = path.map(|path| Watched::load(vec![source(path)], parse)).transpose()?;
        Ok(Self { file, none: Arc::default(), stale: metrics::stale("revoked") })
    }

    /// The list that is in force.
    pub(super) fn current(&self) -> Arc<Revoked> {
        let Some(file) = &self.file else { return Arc::clone(&self.none) };
        let current = file.current();
        self.stale.set(if file.is_stale() { 1.0 } else { 0.0 });
        current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_tokens_and_whose_are_too_old() {
        let text = br#"{"tokens": ["stolen"], "bearers": [
            {"role": "user", "sub": "42", "issued_before": 100}, {"role": "user", "sub": "42", "issued_before": 50}]}"#;
        let revoked = Revoked::parse(text).expect("it is sound");
        assert!(revoked.has(Some("stolen"), Role::Shop, "bob", Some(1_000)));
        assert!(!revoked.has(Some("other"), Role::Shop, "bob", Some(1_000)));
        assert!(revoked.has(None, Role::User, "42", Some(99)) && revoked.has(Some("x"), Role::User, "42", None));
        assert!(!revoked.has(None, Role::User, "42", Some(100)), "he has signed in again");
        assert!(!revoked.has(None, Role::Operator, "42", Some(99)) && !revoked.has(None, Role::User, "43", None));
    }

    #[test]
    fn what_is_no_list_says_why() {
        let many = format!(r#"{{"tokens": [{}"x"]}}"#, r#""x","#.repeat(REVOKED_MAX));
        let long = " ".repeat(REVOKED_BYTES_MAX + 1);
        for (text, fault) in [
            ("[]x", "is no list of tokens"),
            (r#"{"token": []}"#, "unknown field `token`"),
            (r#"{"bearers": [{"role": "user", "sub": "42"}]}"#, "missing field `issued_before`"),
            (&many, "has 100001 entries, over the limit of 100000"),
            (&long, "has 8388609 bytes, over the limit of 8388608"),
        ] {
            let said = Revoked::parse(text.as_bytes()).err().expect("it is none");
            assert!(said.contains(fault), "{said}");
        }
    }
}
