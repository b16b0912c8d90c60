//! The clients of the chaos run: they claim and buy, and write every answer down before they go on.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tercet::action::Tcc;
use tercet::client::{Batching, Client, Error, Options, Outcome, View, Wait};
use tercet::plan::{self, Plan};
use tercet_platform::flows::{self, template_item};
use tercet_proto::coupon::v1::Claim;
use tercet_proto::order::v1::Place;
use tercet_proto::stock::v1::Reserve;

use super::Dice;
use crate::checker::{Acknowledged, Flow, Told, Writer};
use crate::shop::{self, Counter};

/// Goods are the items 1 to this.
pub(super) const ITEMS: i64 = 100;

/// Too little time while a server is away, and often without.
const HASTE: Duration = Duration::from_millis(20);

/// What all clients share.
pub(super) struct World {
    pub(super) unary: Client,
    pub(super) stream: Batching,
    pub(super) writer: Writer,
    pub(super) coupons: Counter,
    pub(super) orders: Counter,
    pub(super) confirmed: Cell<u64>,
    pub(super) cancelled: Cell<u64>,
    /// Answers of unknown outcome, asked again.
    pub(super) unknown: Cell<u64>,
    /// Answers that nothing new is taken, asked again.
    pub(super) refused: Cell<u64>,
    /// What no client should ever be told.
    pub(super) faults: RefCell<Vec<String>>,
    pub(super) stop: Cell<bool>,
    /// Where answers are placed among what the coordinator does to its disk, if that is recorded.
    pub(super) tape: Option<Tape>,
}

/// Where the record of the coordinator's disk stood when each answer came.
pub(super) struct Tape {
    trace: PathBuf,
    reel: Cell<usize>,
    told: RefCell<Vec<(usize, u64, String)>>,
}

impl Tape {
    pub(super) fn new(trace: PathBuf) -> Self {
        Self { trace, reel: Cell::default(), told: RefCell::default() }
    }

    /// The trace begins anew.
    pub(super) fn next(&self) {
        self.reel.set(self.reel.get() + 1);
    }

    /// Everything that made an answer true was recorded before the answer left.
    fn position(&self) -> (usize, u64) {
        (self.reel.get(), std::fs::metadata(&self.trace).map_or(0, |trace| trace.len()))
    }

    /// Each answer with its reel and its place there, in order.
    pub(super) fn told(&self) -> Vec<(usize, u64, String)> {
        let mut told = self.told.borrow().clone();
        told.sort();
        told
    }
}

impl World {
    /// Nothing asked yet, of the coordinator at this address; the history goes to `folder`.
    pub(super) fn new(url: &str, folder: &Path) -> anyhow::Result<Self> {
        let unary = Client::connect([url], Options::default())?;
        Ok(Self {
            stream: unary.batching(),
            unary,
            writer: Writer::create(&folder.join("history.jsonl"))?,
            coupons: Counter::default(),
            orders: Counter::default(),
            confirmed: Cell::default(),
            cancelled: Cell::default(),
            unknown: Cell::default(),
            refused: Cell::default(),
            faults: RefCell::default(),
            stop: Cell::default(),
            tape: None,
        })
    }

    /// Answers that are written down.
    pub(super) fn acknowledged(&self) -> u64 {
        self.confirmed.get() + self.cancelled.get()
    }
}

/// What a client wants next.
enum Wish {
    Claim(Claim),
    /// With so little time that it is often cancelled.
    HastyClaim(Claim),
    Checkout(Place),
}

impl Wish {
    fn plan(&self) -> anyhow::Result<Plan<Tcc>> {
        match self {
            Self::Claim(claim) => flows::claim(claim),
            Self::HastyClaim(claim) => {
                let mut plan = plan::tcc().idempotency_key(self.key()).deadline(HASTE);
                let units = Reserve { item: template_item(claim.template_id), count: 1 };
                plan.branch(tercet_stock::RESERVE.with(&units)?);
                plan.branch(tercet_coupon::CLAIM.with(claim)?);
                Ok(plan.build()?)
            }
            Self::Checkout(order) => flows::checkout(order),
        }
    }

    fn key(&self) -> String {
        match self {
            Self::Claim(claim) | Self::HastyClaim(claim) => format!("claim/{}", claim.coupon_id),
            Self::Checkout(order) => format!("order/{}", order.order_id),
        }
    }

    fn flow(&self) -> Flow {
        match *self {
            Self::Claim(Claim { coupon_id, template_id, user_id, .. })
            | Self::HastyClaim(Claim { coupon_id, template_id, user_id, .. }) => {
                Flow::Claim { coupon_id, template_id, user_id }
            }
            Self::Checkout(Place { order_id, user_id, item, count, coupon_id, amount_cents, discount_cents }) => {
                Flow::Checkout { order_id, user_id, item, count, coupon_id, amount_cents, discount_cents }
            }
        }
    }
}

/// One client, until it is told to stop. Its last transaction is answered too.
pub(super) async fn client(world: Rc<World>, mut dice: Dice) {
    let on_stream = dice.percent(50);
    // Whose coupon is claimed and not used yet; whose is used once already.
    let (mut user, mut used) = (None, None);
    while !world.stop.get() {
        let wish = next_wish(&world, &mut dice, user, used);
        let wait = if dice.percent(50) { Wait::Ended } else { Wait::Decided };
        let confirmed = match answer(&world, &wish, on_stream, wait).await {
            Ok(confirmed) => confirmed,
            Err(error) => {
                world.faults.borrow_mut().push(format!("{}: {error:#}", wish.key()));
                return;
            }
        };
        match wish {
            Wish::Claim(claim) | Wish::HastyClaim(claim) if confirmed => user = Some(claim.user_id),
            Wish::Checkout(order) if confirmed && user == Some(order.user_id) => used = user.take(),
            Wish::Claim(_) | Wish::HastyClaim(_) | Wish::Checkout(_) => {}
        }
    }
}

fn next_wish(world: &World, dice: &mut Dice, user: Option<i64>, used: Option<i64>) -> Wish {
    let item = 1 + (dice.roll() % ITEMS.unsigned_abs()) as i64;
    let order = |user_id| Wish::Checkout(shop::order(world.orders.next(), user_id, item));
    match (user, used) {
        // One coupon for two orders: refused.
        (_, Some(used)) if dice.percent(5) => order(used),
        (Some(user), _) => order(user),
        (None, _) if dice.percent(10) => Wish::HastyClaim(shop::claim(world.coupons.next(), 1)),
        // Of the second template there are few: sold out, refused.
        (None, _) if dice.percent(10) => Wish::Claim(shop::claim(world.coupons.next(), 2)),
        (None, _) => Wish::Claim(shop::claim(world.coupons.next(), 1)),
    }
}

/// Asks until the outcome is known, and writes it down.
async fn answer(world: &World, wish: &Wish, on_stream: bool, wait: Wait) -> anyhow::Result<bool> {
    let plan = wish.plan()?;
    let view = loop {
        let told: Result<View, Error> = if on_stream {
            world.stream.submit(plan.clone(), wait).await
        } else {
            world.unary.submit(plan.clone(), wait).await
        };
        match told {
            Ok(view) => break view,
            Err(Error::Unknown { .. }) => world.unknown.set(world.unknown.get() + 1),
            Err(Error::Overloaded { .. }) => world.refused.set(world.refused.get() + 1),
            Err(error) => return Err(error.into()),
        }
    };
    let position = world.tape.as_ref().map(Tape::position);
    let told = match view.outcome() {
        Some(Outcome::Confirmed) => Told::Confirmed,
        Some(Outcome::Cancelled) => Told::Cancelled,
        None => anyhow::bail!("answered while it is {}", view.status()),
    };
    let xid = view.xid().to_string();
    let answer = Acknowledged { xid, key: wish.key(), told, flow: wish.flow() };
    if let (Some(tape), Some((reel, at))) = (&world.tape, position) {
        tape.told.borrow_mut().push((reel, at, serde_json::to_string(&answer)?));
    }
    world.writer.acknowledge(&answer).await?;
    let count = if told == Told::Confirmed { &world.confirmed } else { &world.cancelled };
    count.set(count.get() + 1);
    Ok(told == Told::Confirmed)
}
