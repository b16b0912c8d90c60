//! The keys that tokens are checked with: a JWK set (RFC 7517) in a file, or at a URL, read again so that keys can be
//! replaced while tokens of both are around.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::metrics::Gauge;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Value, json};
use tercet_secure::fetch::Fetch;
use tercet_secure::files::{self, Watched};
use tercet_secure::token::random;
use tracing::{error, info, warn};

use crate::config::Tokens;
use crate::limits::{KEYS_AGAIN_MIN, KEYS_BYTES_MAX, KEYS_FETCH_MAX, KEYS_RETRY};
use crate::metrics;

/// Bytes of a shared secret, at least: those of what HS256 makes (RFC 7518, 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// A key and what it is for.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) algorithm: Algorithm,
    pub(crate) decoding: DecodingKey,
}

impl Key {
    /// Where it is a shared secret.
    fn secret(&self) -> Option<&[u8]> {
        self.decoding.try_get_as_bytes().ok().filter(|_| self.algorithm == Algorithm::HS256)
    }
}

/// A set of keys, by their names.
#[derive(Clone, Default)]
pub(crate) struct Keys(BTreeMap<Option<String>, Key>);

impl Keys {
    /// Reads a set. Keys that are for something else are left out. A set from a URL is public: a secret there is none.
    ///
    /// # Errors
    /// When it is no set, nothing in it can be used, or a secret is too short.
    pub(crate) fn parse(text: &[u8], is_public: bool) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(text).map_err(|error| format!("is no JWK set: {error}"))?;
        let list = set.get("keys").and_then(Value::as_array).ok_or("is no JWK set: it has no list of keys")?;
        let mut keys = BTreeMap::new();
        for jwk in list.iter().filter_map(|value| serde_json::from_value::<Jwk>(value.clone()).ok()) {
            let Some(algorithm) = algorithm(&jwk) else { continue };
            if is_public && algorithm == Algorithm::HS256 {
                warn!(kid = jwk.common.key_id, "a secret that is published is not used");
                continue;
            }
            let decoding = DecodingKey::from_jwk(&jwk).map_err(|error| format!("has a key that is none: {error}"))?;
            let key = Key { algorithm, decoding };
            if key.secret().is_some_and(|secret| secret.len() < SECRET_BYTES_MIN) {
                return Err(format!("has a secret of less than {SECRET_BYTES_MIN} bytes"));
            }
            if keys.insert(jwk.common.key_id.clone(), key).is_some() {
                let name = jwk.common.key_id.unwrap_or_default();
                return Err(format!("has two keys of the name {name:?}"));
            }
        }
        if keys.is_empty() {
            return Err("has no key for HS256, RS256 or ES256".to_owned());
        }
        Ok(Self(keys))
    }

    /// The key of this name. A token that names none is checked with the only key there is.
    pub(crate) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match kid {
            Some(_) => self.0.get(&kid.map(str::to_owned)),
            None if self.0.len() == 1 => self.0.values().next(),
            None => None,
        }
    }

    /// The last shared secret with its name, for signing.
    pub(crate) fn secret(&self) -> Option<(Option<&str>, &[u8])> {
        self.0.iter().rev().find_map(|(kid, key)| Some((kid.as_deref(), key.secret()?)))
    }
}

/// What a key is for, by its kind and what it says itself; `None` where that is nothing of ours.
#[allow(clippy::wildcard_enum_match_arm, reason = "all other kinds, and those to come, are none of ours")]
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    let (ours, named) = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) => (Algorithm::HS256, KeyAlgorithm::HS256),
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        _ => return None,
    };
    let fits = jwk.common.key_algorithm.is_none_or(|own| own == named);
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|own| *own == PublicKeyUse::Signature);
    (fits && signs).then_some(ours)
}

/// A set with one new secret, as its file holds it.
///
/// # Errors
/// When the system gives no random bytes.
pub fn new_keys(kid: &str) -> std::io::Result<String> {
    let secret = base64url(&random::<SECRET_BYTES_MIN>()?);
    let set = json!({ "keys": [{ "kty": "oct", "kid": kid, "alg": "HS256", "use": "sig", "k": secret }] });
    Ok(format!("{set:#}\n"))
}

/// Without padding (RFC 4648, 5).
pub(super) fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(LETTERS[(bits >> (18 - 6 * place) & 63) as usize] as char);
        }
    }
    text
}

/// Where the set is.
pub(crate) enum Source {
    File(Watched<Keys>, Gauge),
    Url(Box<Remote>),
}

/// A set at a URL.
pub(crate) struct Remote {
    fetch: Fetch,
    every: Duration,
    current: Mutex<Arc<Keys>>,
    /// When it was asked for last, after the first time; held while it is.
    asked_at: tokio::sync::Mutex<Option<Instant>>,
    /// It could not be read when it was asked for last.
    is_stale: AtomicBool,
}

impl Source {
    /// Reads the set for the first time.
    ///
    /// # Errors
    /// When it can not be read, or holds nothing that can be used, or would come without https from another machine
    /// and nobody has allowed that.
    pub(crate) async fn open(settings: &Tokens) -> Result<Self, crate::Error> {
        if !settings.jwks.contains("://") {
            let source = files::Source { setting: "jwks", path: PathBuf::from(&settings.jwks) };
            let parse = |sources: &[files::Source], bytes: &[Vec<u8>]| {
                Keys::parse(&bytes[0], false).map_err(|fault| sources[0].invalid(fault))
            };
            return Ok(Self::File(Watched::load(vec![source], parse)?, metrics::stale("keys")));
        }
        let fetch = Fetch::new(&settings.jwks, settings.jwks_ca.as_deref())?;
        let faulty = |fault| crate::Error::Keys { url: settings.jwks.clone(), fault };
        if fetch.is_exposed() && !settings.insecure_jwks {
            let fault =
                "anybody on the way could put own keys there: give an https URL, or allow it with --insecure-jwks";
            return Err(faulty(fault.to_owned()));
        }
        let keys = read(&fetch).await.map_err(faulty)?;
        let remote = Remote {
            fetch,
            every: Duration::from_secs(settings.jwks_refresh_seconds.max(1)),
            current: Mutex::new(Arc::new(keys)),
            asked_at: tokio::sync::Mutex::new(None),
            is_stale: AtomicBool::new(false),
        };
        // Without a set there is no start: it has been read.
        metrics::stale("keys").set(0.0);
        Ok(Self::Url(Box::new(remote)))
    }

    /// The set that is in force.
    pub(crate) fn current(&self) -> Arc<Keys> {
        match self {
            Self::File(watched, stale) => {
                let current = watched.current();
                stale.set(if watched.is_stale() { 1.0 } else { 0.0 });
                current
            }
            Self::Url(remote) => remote.known(),
        }
    }

    /// The set for a key that [`Self::current`] does not have. It may be new: a set at a URL is read again for it, now
    /// and then.
    pub(crate) async fn newer(&self) -> Arc<Keys> {
        if let Self::Url(remote) = self {
            remote.ask(KEYS_AGAIN_MIN).await;
        }
        self.current()
    }

    /// Reads a set at a URL again from time to time, for ever. A file is looked at by whoever asks.
    pub(crate) async fn refresh(&self) {
        let Self::Url(remote) = self else { return std::future::pending().await };
        let (tick, mut waited) = (remote.every.min(KEYS_RETRY), Duration::ZERO);
        loop {
            tokio::time::sleep(tick).await;
            waited += tick;
            if let Some(unless_within) = remote.due(waited) {
                remote.ask(unless_within).await;
                waited = Duration::ZERO;
            }
        }
    }
}

impl Remote {
    fn known(&self) -> Arc<Keys> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it is to be read when nobody has for so long, unless that was done within what is returned. What could
    /// not be read is asked for at each look: until it is there, keys that were withdrawn are good yet.
    fn due(&self, waited: Duration) -> Option<Duration> {
        if self.is_stale.load(Ordering::Relaxed) {
            return Some(self.every.min(KEYS_RETRY) / 2);
        }
        (waited >= self.every).then_some(self.every / 2)
    }

    /// Reads the set, unless that was done within this time. What can not be read leaves the old in force.
    async fn ask(&self, unless_within: Duration) {
        let mut asked_at = self.asked_at.lock().await;
        if asked_at.is_some_and(|asked_at| asked_at.elapsed() < unless_within) {
            return;
        }
        let read = read(&self.fetch).await;
        *asked_at = Some(Instant::now());
        self.is_stale.store(read.is_err(), Ordering::Relaxed);
        metrics::stale("keys").set(if read.is_ok() { 0.0 } else { 1.0 });
        match read {
            Ok(keys) => {
                let names = keys.0.keys().map(|kid| kid.as_deref().unwrap_or_default()).collect::<Vec<_>>().join(" ");
                info!(keys = names, "keys read again");
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
            }
            Err(fault) => error!(fault, "the keys can not be read: the old stay in force"),
        }
    }
}

async fn read(fetch: &Fetch) -> Result<Keys, String> {
    match tokio::time::timeout(KEYS_FETCH_MAX, fetch.get(KEYS_BYTES_MAX)).await {
        Ok(Ok(text)) => Keys::parse(&text, true),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {KEYS_FETCH_MAX:?}")),
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with this text.
    async fn publish(listener: &TcpListener, text: &str) {
        let (mut socket, _) = listener.accept().await.expect("somebody asks");
        let asked = socket.read(&mut [0; 4_096]).await.expect("it asks");
        assert!(asked > 0);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
        socket.write_all((head + text).as_bytes()).await.expect("it listens");
    }

    #[tokio::test]
    async fn a_set_at_a_url_that_can_not_be_read_is_told_of_and_asked_for_soon() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _here = ::metrics::set_default_local_recorder(&recorder);
        let is_told = |stale: u8| {
            let line = format!("tercet_gateway_list_stale{{list=\"keys\"}} {stale}\n");
            recorder.handle().render().contains(&line)
        };
        let point = ["axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY", "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"];
        let key = json!({ "kty": "EC", "crv": "P-256", "kid": "a", "x": point[0], "y": point[1] });
        let set = json!({ "keys": [key] }).to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let settings = Tokens {
            jwks: format!("http://{}/keys", listener.local_addr().expect("it has one")),
            jwks_ca: None,
            insecure_jwks: false,
            jwks_refresh_seconds: 3_600,
            revoked: None,
            issuer: Vec::new(),
            audience: Vec::new(),
            leeway_seconds: 5,
        };
        let (source, ()) = tokio::join!(Source::open(&settings), publish(&listener, &set));
        let Ok(Source::Url(remote)) = source else { panic!("the set is sound") };
        let hour = Duration::from_secs(3_600);
        let due = || (remote.due(KEYS_RETRY), remote.due(hour));
        assert!(is_told(0));
        assert_eq!(due(), (None, Some(hour / 2)));
        tokio::join!(remote.ask(Duration::ZERO), publish(&listener, "[]"));
        assert!(is_told(1) && remote.known().find(Some("a")).is_some(), "the old stays in force");
        assert_eq!(due(), (Some(KEYS_RETRY / 2), Some(KEYS_RETRY / 2)));
        tokio::join!(remote.ask(Duration::ZERO), publish(&listener, &set));
        assert!(is_told(0));
        assert_eq!(due(), (None, Some(hour / 2)));
    }
}
