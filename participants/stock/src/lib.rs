//! The stock service: how many units of an item, or coupons of a template, there still are.
//!
//! Every unit is free, reserved or issued. Which transaction holds which units is not written down: the fence runs each
//! operation once, so the sums alone stay right, and a slice on one hot item is one UPDATE. How many there are of an
//! item is set by supplies, each with a sequence, so that repeats and late ones change nothing.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use tercet::action::{Action, Saga, Tcc};
use tercet::conserve::{Change as Moved, Invariant};
use tercet::fence::{self, Dialect};
use tercet::participant::{Answer, DbTx, Op, SliceCompensable, SliceParticipant};
use tercet::service::Service;
use tercet::tables;
use tercet_events::bus::Bus;
use tercet_events::outbox::Outbox;
use tercet_events::relayed;
use tercet_proto::stock::v1 as pb;
use tercet_proto::stock::v1::stocks_server::StocksServer;
use tercet_rules::Code;
use tonic::service::Routes;

mod api;
mod metrics;
pub mod store;
mod supply;
mod watch;

pub use supply::Supply;

use store::{Change, Level, Store, Totals};

/// The service's name.
pub const SERVICE: &str = "stock";
/// Takes units of an item: reserved in the try, issued by the confirm, free again by the cancel.
pub const RESERVE: Action<Tcc, pb::Reserve> = Action::tcc(SERVICE, "reserve");
/// Gives issued units back, as a step of a refund.
pub const RESTOCK: Action<Saga, pb::Restock> = Action::saga(SERVICE, "restock");

/// Sets how many units of an item there are in all.
pub const SUPPLY: Action<Saga, pb::Supply> = Action::saga(SERVICE, "supply");

/// The most units of one request.
pub const COUNT_MAX: u32 = 1_000_000;
/// The most units of one supply.
pub const UNITS_MAX: i64 = 1_000_000_000_000;
/// Most bytes of the name of whoever sets the stock of a product.
pub const OPERATOR_BYTES_MAX: usize = 64;
/// Most bytes of a reason.
pub const REASON_BYTES_MAX: usize = 512;
/// Stock counts a template's coupons as an item too; goods have ids below this.
const TEMPLATE_ITEMS: i64 = 1 << 48;

/// The item under which stock counts the coupons of a template.
pub const fn template_item(template_id: i64) -> i64 {
    TEMPLATE_ITEMS + template_id
}

/// And the budget of a version that is tried beside another: of [`CANDIDATE_VERSIONS`] for each template.
const CANDIDATE_ITEMS: i64 = 1 << 62;
/// Versions that a template can have.
const CANDIDATE_VERSIONS: i64 = 1 << 20;

/// The item under which stock counts what is claimed of a version while another is live.
pub const fn candidate_item(template_id: i64, version: u32) -> i64 {
    CANDIDATE_ITEMS + template_id * CANDIDATE_VERSIONS + version as i64
}

/// The template that an item of its own, or of a version of it, is of.
const fn named_template(item: i64) -> i64 {
    if item >= CANDIDATE_ITEMS { (item - CANDIDATE_ITEMS) / CANDIDATE_VERSIONS } else { item - TEMPLATE_ITEMS }
}

/// The template and version of such an item.
pub const fn candidate_of(item: i64) -> Option<(i64, i64)> {
    let place = item - CANDIDATE_ITEMS;
    if place > 0 { Some((place / CANDIDATE_VERSIONS, place % CANDIDATE_VERSIONS)) } else { None }
}

/// Units that a compensation needs back may be reserved for a moment by someone who will not keep them.
const TAKEN_DELAY: Duration = Duration::from_secs(1);

/// What the requests of both actions say.
trait Units {
    fn item(&self) -> i64;
    fn count(&self) -> u32;

    /// Why nothing can be done for it, whatever the stock is.
    fn fault(&self) -> Option<String> {
        if self.item() < 1 {
            return Some(format!("item is {}: it is at least 1", self.item()));
        }
        if !(1..=COUNT_MAX).contains(&self.count()) {
            return Some(format!("count is {}: it is 1 to {COUNT_MAX}", self.count()));
        }
        None
    }
}

impl Units for pb::Reserve {
    fn item(&self) -> i64 {
        self.item
    }
    fn count(&self) -> u32 {
        self.count
    }
}

impl Units for pb::Restock {
    fn item(&self) -> i64 {
        self.item
    }
    fn count(&self) -> u32 {
        self.count
    }
}

/// The service over this database, whose tables are made where they are missing. With a bus it tells what operators
/// change.
///
/// # Errors
/// When the tables can not be made, or are not those of this version.
pub async fn service<Db: Store + Dialect>(
    pool: sqlx::Pool<Db>,
    bus: Option<&Bus>,
) -> Result<Service<Db>, tables::Error> {
    Db::migrate(&pool).await?;
    let outbox = match bus {
        Some(_) => Outbox::open(std::slice::from_ref(&pool)).await?,
        None => Outbox::off(),
    };
    let (watched, server) = (pool.clone(), StocksServer::new(api::Api::new(pool.clone(), outbox.clone())));
    let service = Service::new(SERVICE, [pool.clone()])
        .routes(Routes::new(server), tercet_proto::DESCRIPTORS)
        .tables(["stock"])
        .tcc_slice(RESERVE, Reserve(PhantomData))
        .saga_slice(RESTOCK, Restock(PhantomData))
        .saga_slice(SUPPLY, Supply(PhantomData))
        .conserve(units())
        .beside("what runs out", |stop| watch::run(watched, stop));
    Ok(match bus {
        Some(bus) => relayed(service, SERVICE, &[pool], &outbox, bus),
        None => service,
    })
}

/// What this service promises: only transactions and deliveries move units.
fn units() -> Invariant {
    Invariant::new("units", "SELECT item AS resource, reserved, issued, free, total FROM stock")
        .tcc(RESERVE, |request| {
            let units = request.count.into();
            (request.item, Moved::reserve(units), Moved::issue(units))
        })
        .saga(RESTOCK, |request| {
            let units = i64::from(request.count);
            (request.item, Moved { reserved: 0, issued: -units, free: units })
        })
}

/// Creates items with so many units, all free; an item that exists gets as many more.
///
/// # Errors
/// The database's.
pub async fn seed<Db: Store + Dialect>(pool: &sqlx::Pool<Db>, items: &[(i64, i64)]) -> sqlx::Result<()> {
    fence::prepare(pool).await?;
    let mut db_tx = pool.begin().await?;
    Db::add(&mut db_tx, items).await?;
    let delivered = |(item, units): &(i64, i64)| (*item, Moved { free: *units, ..Moved::default() });
    units().enter(&mut *db_tx, None, &items.iter().map(delivered).collect::<Vec<_>>()).await?;
    db_tx.commit().await
}

/// What all items hold together. `total` is the sum of the other three, and `broken` is 0, at any time.
///
/// # Errors
/// The database's.
pub async fn audit<Db: Store>(pool: &sqlx::Pool<Db>) -> sqlx::Result<Totals> {
    Db::totals(&mut *pool.acquire().await?).await
}

/// The items of one slice as its operations find them, each after those before it.
struct Slice {
    levels: BTreeMap<i64, Level>,
    changes: BTreeMap<i64, Change>,
}

impl Slice {
    async fn load<Db: Store, R: Units>(db_tx: &mut DbTx<Db>, operations: &[Op<R>]) -> sqlx::Result<Self> {
        let mut items: Vec<i64> = operations.iter().map(|op| op.request.item()).collect();
        items.sort_unstable();
        items.dedup();
        let levels = Db::levels(db_tx, &items).await?.into_iter().map(|level| (level.item, level)).collect();
        Ok(Self { levels, changes: BTreeMap::new() })
    }

    /// Does `change` to an item whose levels have room for it; false where they do not.
    fn make(&mut self, item: i64, change: Change) -> bool {
        let Some(level) = self.levels.get_mut(&item) else { return false };
        let (free, issued) = (level.free + change.free, level.issued + change.issued);
        if free < 0 || issued < 0 {
            return false;
        }
        (level.free, level.issued) = (free, issued);
        level.reserved += change.reserved;
        level.excess -= change.gone;
        self.changes.entry(item).or_default().add(change);
        true
    }

    /// Frees units that were reserved. Those that are more than the latest supply wanted go for good.
    ///
    /// # Errors
    /// `RowNotFound` when there is no such item.
    fn free(&mut self, item: i64, count: i64) -> sqlx::Result<()> {
        let gone = self.levels.get(&item).ok_or(sqlx::Error::RowNotFound)?.excess.min(count);
        self.make(item, Change { free: count - gone, reserved: -count, issued: 0, gone });
        Ok(())
    }

    /// Tells the book what went for good: that is in no request.
    async fn enter_gone<Db: Store + Dialect>(&self, db_tx: &mut DbTx<Db>) -> sqlx::Result<()> {
        let gone = self.changes.iter().filter(|(_, change)| change.gone > 0);
        let moved: Vec<_> =
            gone.map(|(item, change)| (*item, Moved { free: -change.gone, ..Moved::default() })).collect();
        if moved.is_empty() { Ok(()) } else { units().enter(db_tx, None, &moved).await }
    }

    /// Why there is not enough of an item.
    fn refusal(&self, item: i64) -> Answer {
        if item < TEMPLATE_ITEMS {
            let code = if self.levels.contains_key(&item) { Code::OutOfStock } else { Code::NotStocked };
            return Answer::refused(code.fault([("product_id", item.to_string())]).reason());
        }
        match self.levels.get(&item) {
            // What others hold may come back.
            Some(level) => {
                let last = ("final", (level.reserved == 0).to_string());
                Answer::refused(Code::SoldOut.fault([last, ("free", level.free.to_string())]).reason())
            }
            None => Answer::refused(format!("item {item} does not exist")),
        }
    }
}

/// [`RESERVE`]. Within a slice the first come are the first served.
#[derive(Debug)]
pub struct Reserve<Db>(pub PhantomData<fn() -> Db>);

impl<Db: Store + Dialect> SliceParticipant for Reserve<Db> {
    type Db = Db;
    type Request = pb::Reserve;

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Reserve>]) -> sqlx::Result<Vec<Answer>> {
        let mut slice = Slice::load::<Db, _>(db_tx, operations).await?;
        let mut grant = |request: &pb::Reserve| {
            if let Some(fault) = request.fault() {
                return Answer::refused(fault);
            }
            let count = i64::from(request.count);
            let taken = slice.make(request.item, Change { free: -count, reserved: count, ..Change::default() });
            if taken { Answer::done() } else { slice.refusal(request.item) }
        };
        let answers = operations.iter().map(|op| grant(&op.request)).collect();
        Db::change(db_tx, &slice.changes).await?;
        Ok(answers)
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Reserve>]) -> sqlx::Result<Vec<Answer>> {
        let mut changes = BTreeMap::<i64, Change>::new();
        for Op { request, .. } in operations {
            let count = i64::from(request.count);
            let change = Change { reserved: -count, issued: count, ..Change::default() };
            changes.entry(request.item).or_default().add(change);
        }
        Db::change(db_tx, &changes).await?;
        Ok(vec![Answer::done(); operations.len()])
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Reserve>]) -> sqlx::Result<Vec<Answer>> {
        let mut slice = Slice::load::<Db, _>(db_tx, operations).await?;
        for Op { request, .. } in operations {
            slice.free(request.item, request.count.into())?;
        }
        Db::change(db_tx, &slice.changes).await?;
        slice.enter_gone::<Db>(db_tx).await?;
        Ok(vec![Answer::done(); operations.len()])
    }
}

/// [`RESTOCK`].
#[derive(Debug)]
pub struct Restock<Db>(pub PhantomData<fn() -> Db>);

impl<Db: Store + Dialect> SliceCompensable for Restock<Db> {
    type Db = Db;
    type Request = pb::Restock;

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Restock>]) -> sqlx::Result<Vec<Answer>> {
        let mut slice = Slice::load::<Db, _>(db_tx, operations).await?;
        let mut give_back = |request: &pb::Restock| {
            if let Some(fault) = request.fault() {
                return Answer::refused(fault);
            }
            let count = i64::from(request.count);
            if slice.make(request.item, Change { free: count, issued: -count, ..Change::default() }) {
                Answer::done()
            } else {
                Answer::refused(format!("count is {count}: fewer of item {} are issued", request.item))
            }
        };
        let answers = operations.iter().map(|op| give_back(&op.request)).collect();
        Db::change(db_tx, &slice.changes).await?;
        Ok(answers)
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Restock>]) -> sqlx::Result<Vec<Answer>> {
        let mut slice = Slice::load::<Db, _>(db_tx, operations).await?;
        let mut take = |request: &pb::Restock| {
            let count = i64::from(request.count);
            let taken = slice.make(request.item, Change { free: -count, issued: count, ..Change::default() });
            if taken { Answer::done() } else { Answer::not_now(TAKEN_DELAY) }
        };
        let answers = operations.iter().map(|op| take(&op.request)).collect();
        Db::change(db_tx, &slice.changes).await?;
        Ok(answers)
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
