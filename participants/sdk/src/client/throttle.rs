//! Holds back what a coordinator would refuse anyway.
//!
//! A refusal costs the coordinator time too. When it refuses most of what a client asks, the client keeps a share of
//! its requests to itself and answers them as the coordinator would have: about twice as many go out as are taken, and
//! so it is soon seen when more are. Client-side throttling of Beyer et al., "Site Reliability Engineering", chapter
//! 21, with a half-life for its window. What a service can not take holds back only transactions with that service.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tercet_proto::coordinator::v1 as pb;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::error::retry_after;

/// Requests that go out for each that is taken.
const OVER: f64 = 2.0;
/// Refusals that say little yet.
const FEW: f64 = 16.0;
/// After so long what was seen counts half.
const HALF_LIFE: Duration = Duration::from_millis(500);
/// As a coordinator asks for.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Requests that begin a transaction, and so may have to wait until there is room for it.
pub(super) trait Begins {
    /// With which services; `None`: it belongs to a transaction that has begun.
    fn branches(&self) -> Option<&[pb::Branch]> {
        None
    }
}

impl Begins for pb::SubmitRequest {
    fn branches(&self) -> Option<&[pb::Branch]> {
        self.transaction.as_ref().map(|transaction| &*transaction.branches)
    }
}

impl Begins for pb::PrepareRequest {
    fn branches(&self) -> Option<&[pb::Branch]> {
        Some(&self.receivers)
    }
}

impl Begins for pb::BeginRequest {
    fn branches(&self) -> Option<&[pb::Branch]> {
        Some(&[])
    }
}

impl Begins for pb::AddBranchRequest {}
impl Begins for pb::CommitRequest {}
impl Begins for pb::RollbackRequest {}
impl Begins for pb::GetRequest {}

/// What the coordinator made of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told<'a> {
    Taken,
    /// For want of room.
    Refused(&'a Status),
    /// It took longer than there was time for, which is no sign of room.
    Late,
    /// Whatever else went wrong says nothing about room.
    Failed,
}

impl<'a> Told<'a> {
    pub(super) fn of(status: Option<&'a Status>) -> Self {
        match status {
            None => Self::Taken,
            Some(status) if retry_after(status).is_some() => Self::Refused(status),
            Some(status) if status.code() == Code::DeadlineExceeded => Self::Late,
            Some(_) => Self::Failed,
        }
    }
}

/// What was refused of late, of all requests of a client.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// By the service that was named; an empty name for the coordinator itself.
    rates: Mutex<HashMap<String, Rate>>,
    /// Whether there are any. Without one a request costs nothing here.
    refused: AtomicBool,
}

impl Throttle {
    /// # Errors
    /// The refusal, when the request is to be kept back.
    pub(super) fn admit(&self, request: &impl Begins, now: Instant) -> Result<(), Status> {
        if !self.refused.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(branches) = request.branches() else { return Ok(()) };
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let mut concerned = rates.iter_mut().filter(|(name, _)| concerns(name, branches));
        let kept_back = concerned.find_map(|(_, rate)| rate.keeps_back(now).then(|| rate.refusal.clone()));
        kept_back.map_or(Ok(()), Err)
    }

    /// Counts what the coordinator made of a request.
    pub(super) fn told(&self, request: &impl Begins, told: Told<'_>, now: Instant) {
        let is_refused = matches!(told, Told::Refused(_));
        if !is_refused && !self.refused.load(Ordering::Relaxed) {
            return;
        }
        let Some(branches) = request.branches() else { return };
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Told::Refused(status) => {
                let service = service(status);
                let refusal = kept_back(&service);
                rates.entry(service).or_insert_with(|| Rate::new(refusal, now)).count(false, now);
                self.refused.store(true, Ordering::Relaxed);
            }
            Told::Taken | Told::Late => {
                let concerned = rates.iter_mut().filter(|(name, _)| concerns(name, branches));
                concerned.for_each(|(_, rate)| rate.count(matches!(told, Told::Taken), now));
                rates.retain(|_, rate| rate.refuses());
                self.refused.store(!rates.is_empty(), Ordering::Relaxed);
            }
            Told::Failed => {}
        }
    }
}

fn concerns(name: &str, branches: &[pb::Branch]) -> bool {
    name.is_empty() || branches.iter().any(|branch| branch.service == name)
}

/// The service that a refusal names.
fn service(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.and_then(|mut info| info.metadata.remove("service")).unwrap_or_default()
}

fn kept_back(service: &str) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
    details.set_error_info("KEPT_BACK", "tercet", [("service".to_owned(), service.to_owned())]);
    Status::with_error_details(Code::ResourceExhausted, "kept back: most of late was refused", details)
}

#[derive(Debug)]
struct Rate {
    asked: f64,
    taken: f64,
    at: Instant,
    /// Shares of requests that were let through until now; each whole one keeps one back.
    due: f64,
    /// What those are told.
    refusal: Status,
}

impl Rate {
    fn new(refusal: Status, now: Instant) -> Self {
        Self { asked: 0.0, taken: 0.0, at: now, due: 0.0, refusal }
    }

    fn age(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let left = 0.5_f64.powf(passed / HALF_LIFE.as_secs_f64());
        (self.asked, self.taken, self.at) = (self.asked * left, self.taken * left, now);
    }

    fn count(&mut self, taken: bool, now: Instant) {
        self.age(now);
        self.asked += 1.0;
        self.taken += if taken { 1.0 } else { 0.0 };
    }

    fn keeps_back(&mut self, now: Instant) -> bool {
        self.age(now);
        // Evenly instead of by chance.
        self.due += ((self.asked - OVER * self.taken) / (self.asked + FEW)).max(0.0);
        let keeps_back = self.due >= 1.0;
        if keeps_back {
            self.due -= 1.0;
            self.asked += 1.0;
        }
        keeps_back
    }

    /// Whether enough was refused of late to be remembered.
    fn refuses(&self) -> bool {
        self.asked - self.taken > 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submit(service: &str) -> pb::SubmitRequest {
        let branches = vec![pb::Branch { service: service.into(), ..pb::Branch::default() }];
        let transaction = Some(pb::Transaction { branches, ..pb::Transaction::default() });
        pb::SubmitRequest { transaction, wait: 0 }
    }

    fn refusal(service: &str) -> Status {
        let mut details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
        details.set_error_info("SERVICE_OVERLOADED", "tercet", [("service".to_owned(), service.to_owned())]);
        Status::with_error_details(Code::ResourceExhausted, "", details)
    }

    /// Of 1,000 requests a second the coordinator takes so many; says how many reached it in the last second.
    fn second(throttle: &Throttle, now: &mut Instant, takes: u32) -> u32 {
        let (mut sent, mut taken) = (0, 0);
        for at in 0..1_000 {
            *now += Duration::from_millis(1);
            if throttle.admit(&submit("a"), *now).is_err() {
                continue;
            }
            sent += 1;
            if taken < takes * (at + 1) / 1_000 {
                taken += 1;
                throttle.told(&submit("a"), Told::Taken, *now);
            } else {
                throttle.told(&submit("a"), Told::Refused(&refusal("a")), *now);
            }
        }
        sent
    }

    #[test]
    fn twice_as_many_go_out_as_are_taken_and_all_again_soon_after() {
        let (throttle, mut now) = (Throttle::default(), Instant::now());
        assert_eq!(second(&throttle, &mut now, 1_000), 1_000, "nothing is wrong yet");
        for _ in 0..5 {
            second(&throttle, &mut now, 200);
        }
        let sent = second(&throttle, &mut now, 200);
        assert!((380..460).contains(&sent), "{sent}");
        for _ in 0..4 {
            second(&throttle, &mut now, 1_000);
        }
        assert!(second(&throttle, &mut now, 1_000) > 990);
    }

    #[test]
    fn what_one_service_can_not_take_holds_nothing_else_back() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        (0..100).for_each(|_| throttle.told(&submit("a"), Told::Refused(&refusal("a")), now));
        let kept: Vec<Status> = (0..100).filter_map(|_| throttle.admit(&submit("a"), now).err()).collect();
        assert!(kept.len() > 80, "{}", kept.len());
        assert!(kept.iter().all(|status| retry_after(status) == Some(RETRY_AFTER)), "as the coordinator says it");
        assert!((0..100).all(|_| throttle.admit(&submit("b"), now).is_ok()));
        assert!((0..100).all(|_| throttle.admit(&pb::CommitRequest::default(), now).is_ok()), "it has begun");
    }

    #[test]
    fn what_comes_too_late_is_not_taken() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        (0..100).for_each(|_| throttle.told(&submit("a"), Told::Refused(&refusal("a")), now));
        let counts = || {
            let rates = throttle.rates.lock().unwrap();
            (rates["a"].asked, rates["a"].taken)
        };
        throttle.told(&submit("a"), Told::Late, now);
        throttle.told(&submit("a"), Told::of(Some(&Status::deadline_exceeded("late"))), now);
        assert_eq!(counts(), (102.0, 0.0));
        throttle.told(&submit("a"), Told::of(Some(&Status::invalid_argument("no plan"))), now);
        assert_eq!(counts(), (102.0, 0.0), "neither for nor against");
        throttle.told(&submit("a"), Told::of(None), now);
        assert_eq!(counts(), (103.0, 1.0));
    }
}
