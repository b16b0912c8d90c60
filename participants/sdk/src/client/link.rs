//! The connections to the coordinators, and the repeats on them.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tercet_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use tercet_secure::client::{Credentials, Settings};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::error::retry_after;
use super::throttle::{Begins, Throttle, Told};
use crate::context::Traceparent;
use crate::plan::InvalidField;
use crate::retry::{overload_delays, reconnect_delays};

/// A coordinator, to be called.
pub(super) type Coordinator = CoordinatorClient<Channel>;

/// One connection leaves both ends waiting for each other in turn; more than two gain nothing.
const CHANNELS: usize = 2;
/// Above what a stream's batch of the largest results takes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// All coordinators, of which one is spoken to at a time.
pub(super) struct Link {
    addresses: Vec<[Coordinator; CHANNELS]>,
    current: AtomicUsize,
    turn: AtomicUsize,
    throttle: Throttle,
    credentials: Credentials,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("addresses", &self.addresses.len()).finish_non_exhaustive()
    }
}

impl Link {
    /// Begins with the address that a random number picks, so that many clients spread over the coordinators.
    pub(super) fn new<A: AsRef<str>>(
        addresses: impl IntoIterator<Item = A>,
        security: &Settings,
        random: u64,
    ) -> Result<Self, InvalidField> {
        let credentials =
            Credentials::load(security).map_err(|error| InvalidField::new("security", error.to_string()))?;
        let addresses = addresses.into_iter().enumerate();
        let addresses = addresses.map(|(at, address)| open(&credentials, at, address.as_ref()));
        let addresses: Vec<_> = addresses.collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            return Err(InvalidField::new("addresses", "at least one"));
        }
        let current = usize::try_from(random % addresses.len() as u64).unwrap_or_default();
        Ok(Self {
            addresses,
            current: AtomicUsize::new(current),
            turn: AtomicUsize::new(0),
            throttle: Throttle::default(),
            credentials,
        })
    }

    /// The coordinator to call now, and its place for [`Link::leave`].
    pub(super) fn pick(&self) -> (usize, Coordinator) {
        let at = self.current.load(Ordering::Relaxed);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        (at, self.addresses[at][turn % CHANNELS].clone())
    }

    /// A request with the own token, if there is one.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        self.credentials.authorize(request.metadata_mut());
        request
    }

    /// The coordinator at this place did not answer: the next call goes to the next one.
    pub(super) fn leave(&self, at: usize) {
        let next = (at + 1) % self.addresses.len();
        // Another task may have moved on already; then this one's news are old.
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Calls, and calls again while the coordinator was not reached or is overloaded. Only for requests that may be
    /// repeated. What is refused for want of room is repeated in the first half of the time; the second is there for
    /// the answer to the last of them.
    pub(super) async fn call<Q, A, F>(
        &self,
        request: Q,
        traceparent: Option<&Traceparent>,
        timeout: Duration,
        send: impl Fn(Coordinator, tonic::Request<Q>) -> F,
    ) -> Result<A, Status>
    where
        Q: Clone + Begins,
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let begun = Instant::now();
        let (patience, deadline) = (begun + timeout / 2, begun + timeout);
        let (mut delays, mut overloads) = (reconnect_delays(), overload_delays());
        let mut lost = None;
        loop {
            let (at, coordinator) = self.pick();
            let answer = match self.throttle.admit(&request, Instant::now()) {
                Ok(()) => {
                    let mut attempt = self.request(request.clone());
                    if let Some(traceparent) = traceparent {
                        traceparent.to_metadata(attempt.metadata_mut());
                    }
                    attempt.set_timeout(deadline.saturating_duration_since(Instant::now()));
                    let answer = tokio::time::timeout_at(deadline, send(coordinator, attempt)).await;
                    let told = answer.as_ref().map_or(Told::Late, |answer| Told::of(answer.as_ref().err()));
                    self.throttle.told(&request, told, Instant::now());
                    answer
                }
                Err(kept_back) => Ok(Err(kept_back)),
            };
            let status = match answer {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => return Err(Status::deadline_exceeded("no answer within the time-out")),
            };
            let (delay, last) = if is_lost(&status) {
                self.leave(at);
                (delays.next(), deadline)
            } else {
                (retry_after(&status).map(|asked| asked + overloads.next().unwrap_or_default()), patience)
            };
            // The status at hand says more than that the time was up.
            let Some(again_at) = delay.map(|delay| Instant::now() + delay).filter(|at| *at < last) else {
                // That nothing has happened is true of the last attempt, and not of one before that was lost.
                let refused = status.code() == Code::ResourceExhausted;
                return Err(lost.filter(|_| refused).unwrap_or(status));
            };
            if is_lost(&status) {
                lost = Some(status);
            }
            tokio::time::sleep_until(again_at).await;
        }
    }
}

/// The coordinator was not reached, went away before it answered, or is about to leave.
pub(super) fn is_lost(status: &Status) -> bool {
    // A status that was made here, not there, carries what it was made from.
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

fn open(credentials: &Credentials, at: usize, address: &str) -> Result<[Coordinator; CHANNELS], InvalidField> {
    let limit = "host:port, http://host:port, or https://host:port with a ca";
    let target = credentials.target(address).map_err(|_| InvalidField::new(format!("addresses[{at}]"), limit))?;
    let target = target.with(|endpoint| {
        endpoint
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true)
    });
    Ok(std::array::from_fn(|_| {
        CoordinatorClient::new(target.connect_lazy()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }))
}
