//! A short burst of real work through the sockets: users claim coupons and check out with them, some are refused, and
//! some give too little time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use tercet::client::{Client, Options, Outcome, View, Wait};
use tercet_proto::order::v1::Place;
use tokio::task::JoinSet;

use crate::flows;
use crate::process::{Running, open};

/// Users at a time.
const CLIENTS: i64 = 64;
/// Kinds of coupons; the last has only a few.
const TEMPLATES: i64 = 20;
/// How many users there are: some come again, and have had their share.
const USERS: i64 = 20_000;
/// Coupons of a kind that one user may have.
const PER_USER: u32 = 2;
/// Things to buy; the last is nearly sold out.
const ITEMS: i64 = 1_000;
/// One in so many gives the platform no time at all.
const HURRIED: i64 = 100;

/// How one kind of transaction went.
#[derive(Debug)]
pub struct Flow {
    /// Its name.
    pub name: &'static str,
    /// Ended confirmed.
    pub confirmed: u64,
    /// Ended cancelled because somebody refused.
    pub refused: u64,
    /// Ended cancelled at the deadline.
    pub timed_out: u64,
    /// Without an answer.
    pub unknown: u64,
    /// Microseconds until the end.
    pub latency: Histogram<u64>,
}

impl Flow {
    fn new(name: &'static str) -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid bounds");
        Self { name, confirmed: 0, refused: 0, timed_out: 0, unknown: 0, latency }
    }

    fn count(&mut self, view: Option<&View>, started: Instant) {
        match view.map(|view| (view.outcome(), view.refusal())) {
            Some((Some(Outcome::Confirmed), _)) => self.confirmed += 1,
            Some((Some(Outcome::Cancelled), Some(_))) => self.refused += 1,
            Some((Some(Outcome::Cancelled), None)) => self.timed_out += 1,
            Some((None, _)) | None => self.unknown += 1,
        }
        self.latency.saturating_record(started.elapsed().as_micros() as u64);
    }

    /// Transactions that ended.
    pub fn ended(&self) -> u64 {
        self.confirmed + self.refused + self.timed_out
    }
}

/// How the whole burst went.
#[derive(Debug)]
pub struct Burst {
    /// Claims and checkouts.
    pub flows: [Flow; 2],
    /// How long it took.
    pub took: Duration,
}

struct Shared {
    client: Client,
    flows: Mutex<[Flow; 2]>,
    ids: AtomicI64,
    until: Instant,
    bar: ProgressBar,
}

/// Fills the shelves and lets the users in for so long. `first_id`: ids from there on are free.
///
/// # Errors
/// When the databases can not be filled.
pub async fn run(running: &Running, seconds: u64, first_id: i64, bar: ProgressBar) -> anyhow::Result<Burst> {
    seed(running).await?;
    let client = Client::connect([running.addresses.url()], Options::default())?;
    let started = Instant::now();
    let shared = Arc::new(Shared {
        client,
        flows: Mutex::new([Flow::new("claim"), Flow::new("checkout")]),
        ids: AtomicI64::new(first_id),
        until: started + Duration::from_secs(seconds),
        bar,
    });
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(user_after_user(Arc::clone(&shared), number));
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    shared.bar.finish_and_clear();
    let took = started.elapsed();
    let mut flows = shared.flows.lock().unwrap_or_else(PoisonError::into_inner);
    let flows = std::mem::replace(&mut *flows, [Flow::new("claim"), Flow::new("checkout")]);
    Ok(Burst { flows, took })
}

async fn seed(running: &Running) -> anyhow::Result<()> {
    let stock = open(&running.addresses.database(tercet_stock::SERVICE)).await?;
    let coupons = |template| if template == TEMPLATES { 100 } else { 1_000_000 };
    let units = |item| if item == ITEMS { 10 } else { 1_000_000 };
    let mut items: Vec<_> = (1..=ITEMS).map(|item| (item, units(item))).collect();
    items.extend((1..=TEMPLATES).map(|template| (flows::template_item(template), coupons(template))));
    tercet_stock::seed(&stock, &items).await?;
    Ok(())
}

/// One user after the other: each claims a coupon, and most buy something with it.
async fn user_after_user(shared: Arc<Shared>, number: i64) -> anyhow::Result<()> {
    let mut turn = number;
    while Instant::now() < shared.until {
        turn += CLIENTS;
        // Spread over users and templates without a random number: both are prime to the counts.
        let (user_id, template_id) = (turn * 7_919 % USERS + 1, turn * 7 % TEMPLATES + 1);
        let number = shared.ids.fetch_add(1, Ordering::Relaxed);
        let deadline = if turn % HURRIED == 0 { Duration::from_millis(1) } else { flows::CLAIM_DEADLINE };
        let claim = tercet_coupon::claim_by_hand(number, user_id, template_id, PER_USER);
        let got = shared.submit(0, flows::claim_within(&claim, deadline)?).await;
        let coupon_id = if got { claim.coupon_id } else { 0 };
        let (amount_cents, item) = (10_000 + turn % 50_000, turn * 31 % ITEMS + 1);
        let discount_cents = if got { 100 * template_id } else { 0 };
        let order_id = shared.ids.fetch_add(1, Ordering::Relaxed);
        let order = Place { order_id, user_id, item, count: 1, coupon_id, amount_cents, discount_cents };
        shared.submit(1, flows::checkout(&order)?).await;
    }
    Ok(())
}

impl Shared {
    async fn submit(&self, flow: usize, plan: tercet::plan::Plan<tercet::action::Tcc>) -> bool {
        let started = Instant::now();
        let view = self.client.submit(plan, Wait::Ended).await.ok();
        self.bar.inc(1);
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)[flow].count(view.as_ref(), started);
        view.is_some_and(|view| view.outcome() == Some(Outcome::Confirmed))
    }
}
