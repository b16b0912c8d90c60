//! How much callers may ask: the generic cell rate algorithm of `governor`. An allowance is there at once and comes
//! back evenly: of ten a minute, ten may come together, and then one every six seconds.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use governor::clock::{Clock as _, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{NotUntil, Quota, RateLimiter};
use tercet_rules::{Code, Fault};

use crate::config::{Network, Rates};
use crate::limits::CALLERS_MAX;

type Single = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<Moment>>;
type Each<K> = RateLimiter<K, Bounded<K>, MonotonicClock, NoOpMiddleware<Moment>>;
type Moment = std::time::Instant;

/// All limits.
pub(crate) struct Limiter {
    requests: Option<Single>,
    addresses: Option<Each<u128>>,
    claims: Option<Each<i64>>,
    trusted: Vec<Network>,
}

impl Limiter {
    pub(crate) fn new(rates: &Rates) -> Self {
        let per_second = |count| NonZeroU32::new(count).map(Quota::per_second);
        let per_minute = |count| NonZeroU32::new(count).map(Quota::per_minute);
        Self {
            requests: per_second(rates.requests_per_second)
                .map(|quota| RateLimiter::new(quota, InMemoryState::default(), MonotonicClock)),
            addresses: per_second(rates.address_per_second).map(|quota| each(quota, CALLERS_MAX)),
            claims: per_minute(rates.claims_per_minute).map(|quota| each(quota, CALLERS_MAX)),
            trusted: rates.trusted_proxy.clone(),
        }
    }

    /// Where a request comes from: the last address that is not a trusted proxy's. `forwarded` is what proxies wrote,
    /// each at the end.
    pub(crate) fn origin<'a>(&self, peer: IpAddr, forwarded: impl DoubleEndedIterator<Item = &'a str>) -> IpAddr {
        let mut origin = peer;
        let mut behind = forwarded.flat_map(|line| line.split(',')).rev();
        while self.trusted.iter().any(|network| network.contains(origin)) {
            match behind.next().and_then(|text| text.trim().parse().ok()) {
                Some(address) => origin = address,
                None => break,
            }
        }
        origin
    }

    /// One more request from this address.
    ///
    /// # Errors
    /// [`Code::TooMany`] when it, or all together, have asked too much; [`Code::SystemBusy`] in the second case, since
    /// the caller is not at fault.
    pub(crate) fn request(&self, origin: IpAddr) -> Result<(), Fault> {
        if let Some(addresses) = &self.addresses {
            addresses.check_key(&network(origin)).map_err(|until| too_many(&until))?;
        }
        match &self.requests {
            Some(requests) => requests.check().map_err(|_| Code::SystemBusy.fault([])),
            None => Ok(()),
        }
    }

    /// One more claim of this user.
    ///
    /// # Errors
    /// [`Code::TooMany`] when he has claimed too much.
    pub(crate) fn claim(&self, user_id: i64) -> Result<(), Fault> {
        match &self.claims {
            Some(claims) => claims.check_key(&user_id).map_err(|until| too_many(&until)),
            None => Ok(()),
        }
    }

    /// Forgets callers that have their whole allowance again.
    pub(crate) fn forget(&self) {
        if let Some(addresses) = &self.addresses {
            addresses.retain_recent();
        }
        if let Some(claims) = &self.claims {
            claims.retain_recent();
        }
    }
}

fn each<K: Hash + Eq + Clone>(quota: Quota, most: usize) -> Each<K> {
    let known = Known { used: HashMap::new(), others: None };
    RateLimiter::new(quota, Bounded { most, known: Mutex::new(known) }, MonotonicClock)
}

/// Whoever has one address of IPv6 has the 64 bits behind it too.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

fn too_many(until: &NotUntil<Moment>) -> Fault {
    let seconds = until.wait_time_from(MonotonicClock.now()).as_secs() + 1;
    Code::TooMany.fault([("seconds", seconds.to_string())])
}

/// What each caller has used, of at most so many. Past that, those that are not known share one allowance: a crowd of
/// invented callers takes no memory, and gets what one of them would.
struct Bounded<K> {
    most: usize,
    known: Mutex<Known<K>>,
}

struct Known<K> {
    used: HashMap<K, Nanos>,
    others: Option<Nanos>,
}

impl<K: Hash + Eq + Clone> StateStore for Bounded<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = known.used.len() >= self.most;
        match known.used.get_mut(key) {
            Some(used) => {
                let (answer, now) = decide(Some(*used))?;
                *used = now;
                Ok(answer)
            }
            None if is_full => {
                let (answer, now) = decide(known.others)?;
                known.others = Some(now);
                Ok(answer)
            }
            None => {
                let (answer, now) = decide(None)?;
                known.used.insert(key.clone(), now);
                Ok(answer)
            }
        }
    }
}

impl<K: Hash + Eq + Clone> ShrinkableKeyedStateStore<K> for Bounded<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.used.retain(|_, used| *used > drop_below);
    }

    fn shrink_to_fit(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).used.shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).used.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(claims_per_minute: u32, address_per_second: u32, requests_per_second: u32) -> Limiter {
        let trusted_proxy = vec!["10.0.0.0/8".parse().unwrap()];
        Limiter::new(&Rates { claims_per_minute, address_per_second, requests_per_second, trusted_proxy })
    }

    fn code(result: Result<(), Fault>) -> Option<Code> {
        result.err().map(|fault| fault.code)
    }

    #[test]
    fn each_has_its_own_allowance_and_all_have_one() {
        let limiter = limiter(10, 2, 5);
        for _ in 0..10 {
            assert_eq!(limiter.claim(1), Ok(()));
        }
        let fault = limiter.claim(1).unwrap_err();
        assert_eq!((fault.code, fault.argument("seconds")), (Code::TooMany, Some("6")));
        assert_eq!(limiter.claim(2), Ok(()));

        let from = |text: &str| code(limiter.request(text.parse().unwrap()));
        assert_eq!([from("192.0.2.1"), from("192.0.2.1"), from("192.0.2.1")], [None, None, Some(Code::TooMany)]);
        assert_eq!([from("::ffff:192.0.2.1"), from("2001:db8::1")], [Some(Code::TooMany), None]);
        assert_eq!([from("2001:db8::2"), from("2001:db8::3")], [None, Some(Code::TooMany)]);
        assert_eq!([from("192.0.2.2"), from("192.0.2.3")], [None, Some(Code::SystemBusy)]);
    }

    #[test]
    fn a_crowd_shares_one_allowance_and_those_that_are_known_keep_theirs() {
        let quota = Quota::per_minute(NonZeroU32::new(2).unwrap());
        let each = each::<i64>(quota, 3);
        let taken: Vec<i64> = (1..100).filter(|key| each.check_key(key).is_ok()).collect();
        assert_eq!(taken, [1, 2, 3, 4, 5], "three are known, and the crowd has the allowance of one");
        assert_eq!(each.len(), 3);
        assert!(each.check_key(&1).is_ok() && each.check_key(&1).is_err());
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_as_far_as_they_are_trusted() {
        let limiter = limiter(0, 0, 0);
        for (peer, forwarded, origin) in [
            ("192.0.2.1", &["198.51.100.1"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["203.0.113.9", "198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["nobody"], "10.0.0.1"),
        ] {
            let found = limiter.origin(peer.parse().unwrap(), forwarded.iter().copied());
            assert_eq!(found, origin.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
        assert_eq!((limiter.request([192, 0, 2, 1].into()), limiter.claim(1)), (Ok(()), Ok(())));
    }
}
