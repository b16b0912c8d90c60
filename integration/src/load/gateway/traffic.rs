//! What users ask of the gateway, and what became of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::site::Site;
use crate::load::open::{self, Tally, Told};

/// Codes that any request may come to, whatever the platform holds: nothing is known of the outcome, or it is too much.
const ANY: [&str; 3] = ["SYSTEM_BUSY", "TIMEOUT", "TOO_MANY_REQUESTS"];

/// Those of them after which a claim may have been done.
const UNKNOWN: [&str; 2] = ["SYSTEM_BUSY", "TIMEOUT"];

/// A pause of a client whose request failed: what fails at once would else take the processors.
const AFTER_FAILURE: Duration = Duration::from_millis(5);

/// Where users ask.
const COUPONS: &str = "/v1/coupons";
const VALIDATE: &str = "/v1/orders/validate";

/// What a user asks for.
#[derive(Clone, Copy, Debug)]
enum Ask {
    OwnCoupons,
    Template,
    Claim,
    Validate,
}

impl Ask {
    const ALL: [Self; 4] = [Self::OwnCoupons, Self::Template, Self::Claim, Self::Validate];

    const fn name(self) -> &'static str {
        match self {
            Self::OwnCoupons => "my coupons",
            Self::Template => "template",
            Self::Claim => "claim",
            Self::Validate => "validate",
        }
    }
}

/// Which requests there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    /// Claims alone.
    Claims,
    /// Of ten requests seven for the user's coupons, two for the template and one claim.
    Browsing,
    /// What all of a user's coupons take off an order.
    Validating,
}

impl Mix {
    const fn ask(self, at: u64) -> Ask {
        match (self, at % 10) {
            (Self::Validating, _) => Ask::Validate,
            (Self::Claims, _) | (Self::Browsing, 4) => Ask::Claim,
            (Self::Browsing, 2 | 7) => Ask::Template,
            (Self::Browsing, _) => Ask::OwnCoupons,
        }
    }
}

/// All that requests are made of.
pub(super) struct Traffic<'a> {
    site: &'a Site,
    mix: Mix,
    users: Vec<String>,
    template: String,
    claim: String,
    order: String,
    /// Claims that were begun, over all phases.
    claims: Cell<u64>,
    tallies: RefCell<BTreeMap<&'static str, Tally>>,
}

/// How requests follow one another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// So many a second.
    Rate(f64),
    /// One after another, by so many clients.
    Clients(usize),
}

/// When there are no more.
#[derive(Clone, Copy, Debug)]
pub(super) enum End<'a> {
    After(Duration),
    /// When there were so many.
    Count(u64),
    /// When this is set.
    Set(&'a Cell<bool>),
}

/// What became of the claims of one or more phases.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claims {
    pub(super) made: u64,
    /// That were made or not.
    pub(super) unknown: u64,
}

impl<'a> Traffic<'a> {
    /// Of users with the numbers from 1 on. Signs their tokens.
    pub(super) fn new(site: &'a Site, mix: Mix, template: &str, users: u64) -> anyhow::Result<Self> {
        Ok(Self {
            site,
            mix,
            users: (1..=users).map(|user_id| site.user(user_id)).collect::<Result<_, _>>()?,
            template: format!("/v1/offers/{template}"),
            claim: json!({ "template_id": template }).to_string(),
            order: order().to_string(),
            claims: Cell::default(),
            tallies: RefCell::default(),
        })
    }

    /// Asks until the end, and says how long that took, answers included.
    pub(super) async fn run(&self, pace: Pace, end: End<'_>, bar: &ProgressBar) -> anyhow::Result<Duration> {
        let mut tallies = BTreeMap::new();
        for ask in Ask::ALL {
            tallies.insert(ask.name(), Tally::new()?);
        }
        self.tallies.replace(tallies);
        let begun = Instant::now();
        let asking = async {
            match (pace, end) {
                (Pace::Rate(rate), End::After(time)) => {
                    open::paced(rate, time, || true, |at, due| self.one(at, due)).await;
                }
                (Pace::Rate(rate), End::Count(count)) => {
                    let time = Duration::from_secs_f64(count as f64 / rate);
                    open::paced(rate, time, || true, |at, due| self.one(at, due)).await;
                }
                (Pace::Rate(rate), End::Set(end)) => {
                    open::paced(rate, Duration::MAX, || !end.get(), |at, due| self.one(at, due)).await;
                }
                (Pace::Clients(clients), End::After(time)) => {
                    open::crowd(clients, |_| begun.elapsed() < time, |at, due| self.one(at, due)).await;
                }
                (Pace::Clients(clients), End::Count(count)) => {
                    open::crowd(clients, |at| at < count, |at, due| self.one(at, due)).await;
                }
                (Pace::Clients(clients), End::Set(end)) => {
                    open::crowd(clients, |_| !end.get(), |at, due| self.one(at, due)).await;
                }
            }
            begun.elapsed()
        };
        tokio::select! {
            took = asking => Ok(took),
            never = self.watch(bar) => never,
        }
    }

    async fn watch(&self, bar: &ProgressBar) -> anyhow::Result<Duration> {
        let answered = || self.tallies.borrow().values().map(|tally| tally.latency.len()).sum::<u64>();
        let mut before = 0;
        loop {
            sleep(Duration::from_secs(1)).await;
            let now = answered();
            bar.set_message(format!("{} done a second, {now} in all", now - before));
            before = now;
        }
    }

    /// One request, due then.
    async fn one(&self, at: u64, due: Instant) {
        let ask = self.mix.ask(at);
        let user = |number: u64| &self.users[(number % self.users.len() as u64) as usize];
        self.count(ask, |tally| tally.begun += 1);
        let answer = match ask {
            // Spread over the users, and prime to their number.
            Ask::OwnCoupons => self.site.http.get(COUPONS, user(at.wrapping_mul(7_919))).await,
            Ask::Template => self.site.http.get(&self.template, user(at.wrapping_mul(7_919))).await,
            Ask::Claim => {
                let number = self.claims.replace(self.claims.get() + 1);
                let key = number.to_string();
                self.site.http.post(COUPONS, user(number), Some(&key), &self.claim).await
            }
            Ask::Validate => {
                let user = user(at.wrapping_mul(7_919));
                self.site.http.post(VALIDATE, user, None, &self.order).await
            }
        };
        let told = match answer {
            Ok(answer) if matches!(answer.status, 200 | 201) => Told::Confirmed,
            Ok(answer) => match answer.code() {
                code if code.is_empty() || code == "INTERNAL" => {
                    Told::Other(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)))
                }
                code => Told::Refused(code),
            },
            Err(error) => Told::Other(format!("{error:#}")),
        };
        let failed = matches!(told, Told::Other(_));
        self.count(ask, |tally| tally.record(due, told));
        if failed {
            sleep(AFTER_FAILURE).await;
        }
    }

    fn count(&self, ask: Ask, change: impl FnOnce(&mut Tally)) {
        if let Some(tally) = self.tallies.borrow_mut().get_mut(ask.name()) {
            change(tally);
        }
    }

    /// What the first user's coupons take off the order.
    pub(super) async fn verdict(&self) -> anyhow::Result<Value> {
        self.site.http.post(VALIDATE, &self.users[0], None, &self.order).await?.good()
    }

    /// Of the phase that was run last: each kind that there was.
    pub(super) fn tallies(&self) -> BTreeMap<&'static str, Tally> {
        let mut tallies = self.tallies.take();
        tallies.retain(|_, tally| tally.begun > 0);
        tallies
    }
}

/// Five products of one shop, 400 yuan in all.
fn order() -> Value {
    let line = |product: u32| {
        let (product_id, category_id) = (product.to_string(), (product % 3 + 1).to_string());
        json!({
            "product_id": product_id,
            "category_id": category_id,
            "shop_id": "1",
            "price_cents": 4_000,
            "quantity": 2,
        })
    };
    json!({ "lines": (1..=5).map(line).collect::<Vec<_>>() })
}

impl Claims {
    /// With those of one more phase.
    pub(super) fn add(&mut self, tallies: &BTreeMap<&'static str, Tally>) {
        if let Some(tally) = tallies.get(Ask::Claim.name()) {
            self.made += tally.confirmed;
            self.unknown += UNKNOWN.iter().filter_map(|code| tally.refused.get(*code)).sum::<u64>();
            self.unknown += tally.other.values().sum::<u64>();
        }
    }
}

/// Codes that nothing here explains.
pub(super) fn unexpected(tallies: &BTreeMap<&'static str, Tally>, expected: &[&str]) -> Vec<String> {
    let refused = tallies.iter().flat_map(|(kind, tally)| tally.refused.iter().map(move |told| (kind, told)));
    let strange = refused.filter(|(_, (code, _))| !ANY.contains(&code.as_str()) && !expected.contains(&code.as_str()));
    strange.map(|(kind, (code, count))| format!("{kind}: {count} times {code}")).collect()
}
