//! The kinds of transactions, and one transaction of each.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use clap::ValueEnum;
use tercet::action::{Message, Saga, Tcc};
use tercet::client::{Batching, Client, Error, Outcome, View, Wait};
use tercet::plan::{self, Plan};
use tercet_platform::flows;
use tokio::task::JoinSet;

use super::ORDERS_PER_SECOND;
use crate::shop::{self, Counter, Filling};
use crate::{checker, noop};

/// From acceptance to decision, where nothing should ever wait.
const DEADLINE: Duration = Duration::from_secs(30);

/// Goods that checkouts spread over.
const ITEMS: i64 = 1_000;

/// Coupons of the template that is sold out at the end, and how many want one.
const FEW: i64 = 1_000;
const MANY: i64 = 3_000;
/// Their numbers begin above those of all others.
const FEW_FROM: i64 = 1 << 41;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Three branches that are tried and confirmed.
    Tcc,
    /// Three steps, one after another.
    Saga,
    /// A message to three receivers.
    Message,
    /// Begin, three times add branch, commit.
    Steps,
    /// Coupon, stock and order, as real services.
    Checkout,
    /// Claims of one coupon template, as real services.
    Hot,
}

impl Kind {
    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcc => "tcc",
            Self::Saga => "saga",
            Self::Message => "message",
            Self::Steps => "steps",
            Self::Checkout => "checkout",
            Self::Hot => "hot",
        }
    }

    /// What the real services hold for so many seconds of it; `None` where the participants do nothing.
    pub(super) fn filling(self, seconds: u64) -> Option<Filling> {
        let shop = Filling { items: ITEMS, units: 1 << 40, first_coupons: 1 << 40, second_coupons: FEW, issued: 0 };
        match self {
            Self::Tcc | Self::Saga | Self::Message | Self::Steps => None,
            Self::Checkout => Some(Filling { issued: (seconds * ORDERS_PER_SECOND) as i64, ..shop }),
            Self::Hot => Some(shop),
        }
    }
}

/// How transactions reach the coordinator.
pub(super) enum Initiator {
    /// A call each.
    Unary(Client),
    /// All on one stream.
    Stream(Batching),
}

impl Initiator {
    async fn submit<M>(&self, plan: Plan<M>, wait: Wait) -> Result<View, Error> {
        match self {
            Self::Unary(client) => client.submit(plan, wait).await,
            Self::Stream(stream) => stream.submit(plan, wait).await,
        }
    }
}

/// All that one transaction needs.
pub(super) struct Work {
    kind: Kind,
    initiator: Initiator,
    wait: Wait,
    tcc: Plan<Tcc>,
    saga: Plan<Saga>,
    message: Plan<Message>,
    numbers: Counter,
    /// Claims and checkouts that were confirmed.
    confirmed: Cell<i64>,
    /// Those of them that came while selling out.
    few: Cell<i64>,
}

impl Work {
    pub(super) fn new(kind: Kind, initiator: Initiator, wait: Wait) -> anyhow::Result<Self> {
        Ok(Self {
            kind,
            initiator,
            wait,
            tcc: noop::tcc(DEADLINE)?,
            saga: noop::saga()?,
            message: noop::message()?,
            numbers: Counter::default(),
            confirmed: Cell::default(),
            few: Cell::default(),
        })
    }

    /// Runs one transaction. Every one of them has to be confirmed.
    pub(super) async fn one(&self) -> anyhow::Result<()> {
        let view = match self.kind {
            Kind::Tcc => self.initiator.submit(self.tcc.clone(), self.wait).await?,
            Kind::Saga => self.initiator.submit(self.saga.clone(), self.wait).await?,
            Kind::Message => self.initiator.submit(self.message.clone(), self.wait).await?,
            Kind::Steps => self.steps().await?,
            Kind::Checkout => {
                let number = self.numbers.next();
                let order = shop::order(number, number, 1 + number * 7_919 % ITEMS);
                self.initiator.submit(flows::checkout(&order)?, self.wait).await?
            }
            Kind::Hot => {
                let claim = shop::claim(self.numbers.next(), 1);
                self.initiator.submit(flows::claim(&claim)?, self.wait).await?
            }
        };
        match view.outcome() {
            Some(Outcome::Confirmed) => self.confirmed.set(self.confirmed.get() + 1),
            None if self.wait == Wait::Accepted => {}
            Some(Outcome::Cancelled) | None => anyhow::bail!("{} is {}: {}", view.xid(), view.status(), view.reason()),
        }
        Ok(())
    }

    async fn steps(&self) -> anyhow::Result<View> {
        let Initiator::Unary(client) = &self.initiator else {
            anyhow::bail!("an initiator that drives call by call has no stream")
        };
        let mut driven = client.begin(plan::tcc().deadline(DEADLINE)).await?;
        for action in noop::HOLD {
            driven.add(action.with(&noop::NOTHING)?).await?;
        }
        Ok(driven.commit(self.wait).await?)
    }

    /// Many at once want one of few coupons.
    pub(super) async fn sell_out(self: &Rc<Self>, clients: usize) -> anyhow::Result<()> {
        let wanted = Rc::new(Counter::default());
        let mut tasks = JoinSet::new();
        for _ in 0..clients.max(64) {
            let (work, wanted) = (Rc::clone(self), Rc::clone(&wanted));
            tasks.spawn_local(async move {
                loop {
                    let number = wanted.next();
                    if number > MANY {
                        return Ok(());
                    }
                    let claim = shop::claim(FEW_FROM + number, 2);
                    let view = work.initiator.submit(flows::claim(&claim)?, Wait::Ended).await?;
                    match view.outcome() {
                        Some(Outcome::Confirmed) => work.few.set(work.few.get() + 1),
                        Some(Outcome::Cancelled) if view.reason().contains("sold out") => {}
                        Some(Outcome::Cancelled) | None => anyhow::bail!("{}: {}", view.status(), view.reason()),
                    }
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Compares what was told with what the services hold: what was told is confirmed is there, and no more; of few
    /// coupons all are gone and none twice.
    pub(super) async fn miscounted(&self, folder: &Path) -> anyhow::Result<Vec<String>> {
        let counts = checker::counts(folder).await?;
        let told = self.confirmed.get();
        let mut wrong = Vec::new();
        let mut compare = |what: &str, want: i64, found: i64| {
            if want != found {
                wrong.push(format!("{what}: {found}, told or wanted {want}"));
            }
        };
        match self.kind {
            Kind::Checkout if self.wait != Wait::Accepted => compare("orders placed", told, counts.orders),
            Kind::Hot if self.wait != Wait::Accepted => {
                compare("coupons of the hot template", told, counts.first_coupons);
            }
            Kind::Tcc | Kind::Saga | Kind::Message | Kind::Steps | Kind::Checkout | Kind::Hot => {}
        }
        compare("coupons of the template that sold out", FEW.min(MANY), counts.second_coupons);
        compare("claims told confirmed while it sold out", FEW.min(MANY), self.few.get());
        Ok(wrong)
    }
}
