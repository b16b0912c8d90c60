//! Transactions that begin when they are due, whether or not the ones before have been answered: as calls that nobody
//! repeats, so that each refusal is seen, or through the SDK, as an initiator's program has them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use tercet::action::Tcc;
use tercet::client::{Client, Error, Options, Outcome, Wait};
use tercet::plan::Plan;
use tercet_proto::coordinator::v1 as pb;
use tercet_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::noop;

/// How long a caller waits for its answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that the calls are spread over.
const CHANNELS: usize = 4;

/// Callers there are, each with one call at a time: a call that is due when all of them wait is not made.
const CALLERS: usize = 16_384;

/// A TCC transaction with these services, whose participants do nothing.
pub(super) fn tcc(services: &[&str]) -> pb::SubmitRequest {
    let branches = services.iter().map(|service| pb::Branch {
        service: (*service).to_owned(),
        action: noop::HOLD[0].name().to_owned(),
        request: prost::Message::encode_to_vec(&noop::NOTHING).into(),
        ..pb::Branch::default()
    });
    let transaction =
        pb::Transaction { mode: pb::Mode::Tcc.into(), branches: branches.collect(), ..pb::Transaction::default() };
    pb::SubmitRequest { transaction: Some(transaction), wait: pb::Wait::Ended.into() }
}

/// What became of a call.
pub(super) enum Told {
    Confirmed,
    /// By a name that programs know.
    Refused(String),
    Other(String),
}

/// How transactions reach the coordinator.
pub(super) enum Caller {
    /// Once each, whatever it answers.
    Calls { channels: Vec<CoordinatorClient<Channel>>, turn: Cell<usize> },
    /// Through the SDK, which asks again in its own time. All have the same plan.
    Sdk { client: Client, plan: Plan<Tcc> },
}

impl Caller {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let channel = |_| anyhow::Ok(CoordinatorClient::new(Endpoint::from_shared(url.to_owned())?.connect_lazy()));
        Ok(Self::Calls { channels: (0..CHANNELS).map(channel).collect::<Result<_, _>>()?, turn: Cell::default() })
    }

    pub(super) fn sdk(url: &str, plan: Plan<Tcc>) -> anyhow::Result<Self> {
        let options = Options { timeout: TIMEOUT / 2, ..Options::default() };
        Ok(Self::Sdk { client: Client::connect([url], options)?, plan })
    }

    async fn call(&self, request: &pb::SubmitRequest) -> Told {
        match self {
            Self::Calls { channels, turn } => {
                let at = turn.replace(turn.get() + 1);
                let mut request = Request::new(request.clone());
                request.set_timeout(TIMEOUT);
                match channels[at % CHANNELS].clone().submit(request).await {
                    Ok(answer) => {
                        let status = answer.into_inner().transaction.unwrap_or_default().status();
                        let confirmed = status == pb::Status::Confirmed;
                        if confirmed { Told::Confirmed } else { Told::Other(status.as_str_name().into()) }
                    }
                    Err(status) => refusal(&status),
                }
            }
            Self::Sdk { client, plan } => match client.submit(plan.clone(), Wait::Ended).await {
                Ok(view) if view.outcome() == Some(Outcome::Confirmed) => Told::Confirmed,
                Ok(view) => Told::Other(view.status().to_string()),
                Err(Error::Overloaded { .. }) => Told::Refused("overloaded".into()),
                Err(Error::Unknown { status, .. }) => Told::Other(format!("unknown: {}", status.message())),
                Err(error) => Told::Other(error.to_string()),
            },
        }
    }
}

/// A refusal is typed when it says what there is too much of, how much there may be, and when to come again; or that
/// the caller's time is over.
fn refusal(status: &Status) -> Told {
    let info = status.get_details_error_info();
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match (status.code(), info, delay) {
        (Code::DeadlineExceeded, Some(info), _) if info.reason == "LATE" => Told::Refused("late".to_owned()),
        (Code::ResourceExhausted, Some(info), Some(_)) if info.metadata.contains_key("limit") => {
            let word = |name| info.metadata.get(name).map_or("", String::as_str);
            Told::Refused(format!("{} {}", word("service"), word("what")).trim().to_owned())
        }
        (code, ..) => Told::Other(format!("{code:?}: {}", status.message())),
    }
}

/// What became of many calls.
pub(super) struct Tally {
    pub(super) begun: u64,
    pub(super) confirmed: u64,
    /// By what the refusal says.
    pub(super) refused: BTreeMap<String, u64>,
    /// Neither confirmed nor refused in so many words.
    pub(super) other: BTreeMap<String, u64>,
    /// Of what was confirmed, in microseconds from the moment when it was due.
    pub(super) latency: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            begun: 0,
            confirmed: 0,
            refused: BTreeMap::new(),
            other: BTreeMap::new(),
            latency: Histogram::new_with_bounds(1, 600_000_000, 3)?,
        })
    }

    pub(super) fn record(&mut self, due: Instant, told: Told) {
        match told {
            Told::Confirmed => {
                self.confirmed += 1;
                self.latency.saturating_record(due.elapsed().as_micros() as u64);
            }
            Told::Refused(what) => *self.refused.entry(what).or_default() += 1,
            Told::Other(what) => *self.other.entry(what).or_default() += 1,
        }
    }

    pub(super) fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// Tallies that the tasks of a run share, one for each kind of transaction.
pub(super) type Shared = Rc<RefCell<Tally>>;

/// A new one.
pub(super) fn shared() -> anyhow::Result<Shared> {
    Ok(Rc::new(RefCell::new(Tally::new()?)))
}

/// So many clients for so long, each with one transaction at a time; the kinds take turns. Says how many were confirmed
/// a second.
pub(super) async fn closed(
    caller: &Rc<Caller>,
    kinds: &[(pb::SubmitRequest, Shared)],
    clients: usize,
    time: Duration,
) -> f64 {
    let begun = Instant::now();
    crowd(clients, |_| begun.elapsed() < time, |at, due| turn(caller, kinds, at, due)).await;
    let confirmed: u64 = kinds.iter().map(|(_, tally)| tally.borrow().confirmed).sum();
    confirmed as f64 / begun.elapsed().as_secs_f64()
}

/// So many transactions a second for so long; the kinds take turns. Ends when all have been answered.
pub(super) async fn open(caller: &Rc<Caller>, kinds: &[(pb::SubmitRequest, Shared)], rate: f64, time: Duration) {
    paced(rate, time, || true, |at, due| turn(caller, kinds, at, due)).await;
}

async fn turn(caller: &Rc<Caller>, kinds: &[(pb::SubmitRequest, Shared)], at: u64, due: Instant) {
    one(caller, &kinds[at as usize % kinds.len()], due).await;
}

/// So many at a time, each followed by the next for as long as `more` says of its number, and the wait for the last.
pub(super) async fn crowd<F: Future<Output = ()>>(
    clients: usize,
    more: impl Fn(u64) -> bool,
    begin: impl Fn(u64, Instant) -> F,
) {
    let next = Cell::new(0);
    let client = async || {
        while more(next.get()) {
            begin(next.replace(next.get() + 1), Instant::now()).await;
        }
    };
    let mut all: FuturesUnordered<_> = (0..clients).map(|_| client()).collect();
    while all.next().await.is_some() {}
}

/// So many a second for so long, and for as long as `more` says, each begun when it is due, as far as there are callers
/// for them, and the wait for the last. `begin` is told when it was due: time that one has waited here is time that it
/// took.
pub(super) async fn paced<F: Future<Output = ()>>(
    rate: f64,
    time: Duration,
    more: impl Fn() -> bool,
    begin: impl Fn(u64, Instant) -> F,
) {
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut under_way = FuturesUnordered::new();
    let all = (time.as_secs_f64() * rate).round() as u64;
    let mut at = 0;
    while at < all && more() {
        tokio::select! {
            _ = ticks.tick() => {}
            Some(()) = under_way.next() => continue,
        }
        // The first one is due at once.
        let due = all.min((begun.elapsed().as_secs_f64() * rate) as u64 + 1);
        for at in at..due {
            if under_way.len() >= CALLERS {
                break;
            }
            under_way.push(begin(at, begun + Duration::from_secs_f64(at as f64 / rate)));
        }
        at = due;
    }
    while under_way.next().await.is_some() {}
}

async fn one(caller: &Caller, (request, tally): &(pb::SubmitRequest, Shared), due: Instant) {
    tally.borrow_mut().begun += 1;
    let told = caller.call(request).await;
    tally.borrow_mut().record(due, told);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_due_is_begun_though_the_time_is_over() {
        let begun = RefCell::new(Vec::new());
        let begin = |at, due: Instant| {
            // Nothing else is looked at meanwhile.
            std::thread::sleep(Duration::from_millis(60));
            begun.borrow_mut().push((at, due));
            std::future::ready(())
        };
        paced(100.0, Duration::from_millis(50), || true, begin).await;
        let begun = begun.into_inner();
        assert_eq!(begun.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let apart = begun.windows(2).map(|two| two[1].1 - two[0].1);
        assert!(apart.eq([Duration::from_millis(10); 4]), "{begun:?}");
    }
}
