//! The order service: what was bought, for how much, and whether it is paid.
//!
//! An order is frozen while its placing is under way: its amounts stand from its first row on. Then it is placed or
//! closed; a placed one is paid; a placed or paid one may be refunded. One that was not paid
//! in time is refunded by a job ([`closing()`]); what was refunded before it was paid is said to be closed. Whether it
//! was paid or taken back is decided by its row, once; its refund is final once [`SETTLE_REFUND`] has said so, and may
//! be taken back until then. Money is in cents.
//!
//! What happens to orders is told on the topic "order". It is told in turn which coupons orders have used
//! ([`coupon_use`]).
//!
//! It declares no invariant: an order is one row, whose amounts never change and whose every step asks for the status
//! before it. There is no sum that steps could get wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::time::Duration;

use tercet::action::{Action, Saga, Sender, Tcc};
use tercet::participant::{Answer, DbTx, Op, SliceCompensable, SliceParticipant};
use tercet::service::Service;
use tercet::tables;
use tercet_events::bus::Bus;
use tercet_events::consumer::Consuming;
use tercet_events::event::{Event, Payload};
use tercet_events::outbox::Outbox;
use tercet_events::relayed;
use tercet_proto::events::v1 as events;
use tercet_proto::order::v1 as pb;
use tercet_proto::order::v1::orders_server::OrdersServer;
use tonic::service::Routes;
use tonic::transport::Channel;

mod api;
mod basket;
mod closing;
pub mod coupon_use;
mod key;
pub mod limits;
mod list;
mod metrics;
mod payment;
mod settle;
mod status;
pub mod store;

pub use basket::PlaceBasket;
use limits::COUNT_MAX;
pub use payment::{Paid, PayError, Payment, pay};
pub use settle::SettleRefund;
use store::unpaid::Unpaid;
use store::{BasketLine, Key, Move, Order, Standing, Status, Store, Totals};

/// The service's name.
pub const SERVICE: &str = "order";
/// Creates an order.
pub const PLACE: Action<Tcc, pb::Place> = Action::tcc(SERVICE, "place");
/// Creates an order of several things with any number of coupons.
pub const PLACE_BASKET: Action<Tcc, pb::PlaceBasket> = Action::tcc(SERVICE, "place_basket");
/// Refunds a placed or paid order.
pub const REFUND: Action<Saga, pb::Refund> = Action::saga(SERVICE, "refund");
/// Says that a refund is final, which comes last in it.
pub const SETTLE_REFUND: Action<Saga, pb::SettleRefund> = Action::saga(SERVICE, "settle_refund");
/// Sends word that an order was paid, once [`pay`] has committed.
pub const PAID: Action<Sender, pb::Paid> = Action::sender(SERVICE, "paid");

/// The service over this database, whose tables are made where they are missing. With a bus it tells what happens to
/// orders, and is told what happens to coupons.
///
/// # Errors
/// When the tables can not be made, or are not those of this version.
pub async fn service<Db: Store>(pool: sqlx::Pool<Db>, bus: Option<&Bus>) -> Result<Service<Db>, tables::Error> {
    Db::migrate(&pool).await?;
    let outbox = match bus {
        Some(_) => Outbox::open(std::slice::from_ref(&pool)).await?,
        None => Outbox::off(),
    };
    metrics::ready();
    let server = OrdersServer::new(api::Api::new(pool.clone(), outbox.clone()));
    let service = Service::new(SERVICE, [pool.clone()])
        .routes(Routes::new(server), tercet_proto::DESCRIPTORS)
        .tables(["orders", "basket_coupon", "basket_line"])
        .tcc_slice(PLACE, Place::new(outbox.clone()))
        .tcc_slice(PLACE_BASKET, PlaceBasket::new(outbox.clone()))
        .saga_slice(REFUND, Refund::new(outbox.clone()))
        .saga_slice(SETTLE_REFUND, SettleRefund::new())
        .sender(PAID);
    let Some(bus) = bus else { return Ok(service) };
    let consuming = Consuming::new(coupon_use::CouponUse::default(), [pool.clone()], bus.clone());
    let service = service.beside("coupon use", |stop| consuming.run(stop));
    Ok(relayed(service, SERVICE, &[pool], &outbox, bus))
}

/// The service with a job beside it that has the redemption service there take back what nobody has paid in time. It
/// runs in one process at a time; without it such orders stay placed.
#[must_use]
pub fn closing<Db: Unpaid>(service: Service<Db>, pool: sqlx::Pool<Db>, redemption: Channel) -> Service<Db> {
    let closing = closing::Closing::new(pool, redemption);
    service.beside("unpaid orders", |stop| closing.run(stop))
}

/// The orders by status. `coupons_twice` is 0 at any time, and `unconfirmed` when all events have been taken.
///
/// # Errors
/// The database's.
pub async fn audit<Db: Store>(pool: &sqlx::Pool<Db>) -> sqlx::Result<Totals> {
    Db::totals(&mut *pool.acquire().await?).await
}

/// The coupon of every placed or paid order, with the order, by coupon.
///
/// # Errors
/// The database's.
pub async fn coupons<Db: Store>(pool: &sqlx::Pool<Db>) -> sqlx::Result<Vec<(i64, i64)>> {
    Db::coupons(&mut *pool.acquire().await?).await
}

/// The lines of an order of several things, in their order; none of an order of one thing.
///
/// # Errors
/// The database's.
pub async fn lines<Db: Store>(pool: &sqlx::Pool<Db>, key: Key) -> sqlx::Result<Vec<BasketLine>> {
    Db::lines_of(&mut *pool.acquire().await?, key).await
}

/// [`PLACE`].
#[derive(Debug)]
pub struct Place<Db> {
    outbox: Outbox,
    database: PhantomData<fn() -> Db>,
}

impl<Db> Place<Db> {
    /// Tells what it does there.
    pub const fn new(outbox: Outbox) -> Self {
        Self { outbox, database: PhantomData }
    }
}

/// Why this can not be an order.
fn place_fault(request: &pb::Place) -> Option<String> {
    let &pb::Place { order_id, user_id, item, count, coupon_id, amount_cents, discount_cents } = request;
    let fields = [
        ("order_id", order_id, 1, i64::MAX),
        ("user_id", user_id, 1, i64::MAX),
        ("item", item, 1, i64::MAX),
        ("count", count.into(), 1, COUNT_MAX.into()),
        ("coupon_id", coupon_id, 0, i64::MAX),
        ("amount_cents", amount_cents, 0, i64::MAX),
        // Without a coupon nothing is taken off; with one, not more than there is.
        ("discount_cents", discount_cents, 0, if coupon_id == 0 { 0 } else { amount_cents }),
    ];
    let (name, value, least, most) =
        fields.into_iter().find(|(_, value, least, most)| !(least..=most).contains(&value))?;
    Some(match most {
        i64::MAX => format!("{name} is {value}: it is at least {least}"),
        _ => format!("{name} is {value}: it is {least} to {most}"),
    })
}

fn order(request: &pb::Place) -> Order {
    let &pb::Place { order_id, user_id, item, count, coupon_id, amount_cents, discount_cents } = request;
    let coupon_id = (coupon_id != 0).then_some(coupon_id);
    let key = Key::single(order_id);
    Order { key, user_id, item, count, coupon_id, amount_cents, discount_cents, pay_within_s: None }
}

fn keys(operations: &[Op<pb::Place>]) -> impl Iterator<Item = Key> {
    operations.iter().map(|op| Key::single(op.request.order_id))
}

fn placed(op: &Op<pb::Place>) -> Event {
    let pb::Place { order_id, user_id, item, count, coupon_id, amount_cents, discount_cents } = op.request;
    let coupon_ids = coupon_ids((coupon_id != 0).then_some(coupon_id));
    let placed = events::OrderPlaced { order_id, item, count, coupon_ids, amount_cents, discount_cents, shop_id: 0 };
    Event::new(user_id, Payload::OrderPlaced(placed)).by(op)
}

/// Whether nothing is left to be paid.
const fn is_free(request: &pb::Place) -> bool {
    request.amount_cents == request.discount_cents
}

fn paid(op: &Op<pb::Place>) -> Event {
    let pb::Place { order_id, user_id, .. } = op.request;
    let paid = events::OrderPaid { order_id, ..events::OrderPaid::default() };
    Event::new(user_id, Payload::OrderPaid(paid)).by(op)
}

fn coupon_ids(coupon_id: Option<i64>) -> Vec<i64> {
    coupon_id.into_iter().collect()
}

impl<Db: Store> SliceParticipant for Place<Db> {
    type Db = Db;
    type Request = pb::Place;

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Place>]) -> sqlx::Result<Vec<Answer>> {
        let wanted: Vec<Key> = keys(operations).collect();
        // Those that the slice creates are taken too.
        let mut taken: BTreeSet<Key> = Db::taken(db_tx, &wanted).await?.into_iter().collect();
        let mut orders = Vec::with_capacity(operations.len());
        let mut create = |request: &pb::Place| {
            if let Some(fault) = place_fault(request) {
                return Answer::refused(fault);
            }
            if !taken.insert(Key::single(request.order_id)) {
                return Answer::refused(format!("order {} exists", request.order_id));
            }
            orders.push(order(request));
            Answer::done()
        };
        let answers = operations.iter().map(|op| create(&op.request)).collect();
        Db::insert(db_tx, &orders).await?;
        Ok(answers)
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Place>]) -> sqlx::Result<Vec<Answer>> {
        let step = |op: &Op<pb::Place>| {
            let to = if is_free(&op.request) { Status::Paid } else { Status::Placed };
            Move { key: Key::single(op.request.order_id), from: Status::Frozen, to }
        };
        Db::advance(db_tx, &operations.iter().map(step).collect::<Vec<_>>()).await?;
        let told = |op| std::iter::once(placed(op)).chain(is_free(&op.request).then(|| paid(op)));
        self.outbox.append::<Db>(db_tx, operations.iter().flat_map(told).collect::<Vec<_>>()).await?;
        Ok(vec![Answer::done(); operations.len()])
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Place>]) -> sqlx::Result<Vec<Answer>> {
        end::<Db>(db_tx, keys(operations), Status::Closed).await
    }
}

/// What becomes of frozen orders.
async fn end<Db: Store>(
    db_tx: &mut DbTx<Db>,
    keys: impl Iterator<Item = Key> + Send,
    to: Status,
) -> sqlx::Result<Vec<Answer>> {
    let step = |key| Move { key, from: Status::Frozen, to };
    let moves: Vec<Move> = keys.map(step).collect();
    Db::advance(db_tx, &moves).await?;
    Ok(vec![Answer::done(); moves.len()])
}

/// [`REFUND`].
#[derive(Debug)]
pub struct Refund<Db> {
    outbox: Outbox,
    database: PhantomData<fn() -> Db>,
}

impl<Db> Refund<Db> {
    /// Tells what it does there.
    pub const fn new(outbox: Outbox) -> Self {
        Self { outbox, database: PhantomData }
    }
}

/// An order that moved.
struct Moved<'a> {
    op: &'a Op<pb::Refund>,
    /// As it was before.
    order: Standing,
    coupon_ids: Vec<i64>,
}

/// An order that is not placed yet, or is being refunded, is asked for again after so long.
const FROZEN_DELAY: Duration = Duration::from_millis(50);

/// Moves each order to what `next` says of it, which is at most one step for each order of a slice. Returns the
/// answers, and the orders that moved.
async fn advance_each<'a, Db: Store>(
    db_tx: &mut DbTx<Db>,
    operations: &'a [Op<pb::Refund>],
    next: fn(&Standing, &pb::Refund) -> Result<Status, Answer>,
) -> sqlx::Result<(Vec<Answer>, Vec<Moved<'a>>)> {
    let key = |op: &Op<pb::Refund>| Key { shop_id: op.request.shop_id, order_id: op.request.order_id };
    let keys: BTreeSet<Key> = operations.iter().map(key).collect();
    let keys: Vec<Key> = keys.into_iter().collect();
    let mut orders: BTreeMap<Key, Standing> =
        Db::standings(db_tx, &keys).await?.into_iter().map(|order| (order.key, order)).collect();
    let mut moves = Vec::with_capacity(operations.len());
    let mut moved = Vec::with_capacity(operations.len());
    let mut step = |op: &'a Op<pb::Refund>| {
        let key = key(op);
        let Some(order) = orders.get_mut(&key) else {
            return Answer::refused(format!("{key} does not exist"));
        };
        let (from, to) = match next(order, &op.request) {
            Ok(to) => (order.status, to),
            Err(answer) => return answer,
        };
        moved.push(Moved { op, order: order.clone(), coupon_ids: coupon_ids(order.coupon_id) });
        // The next of the slice finds it so.
        (order.status, order.refunded_from) = (to, None);
        moves.push(Move { key, from, to });
        Answer::done()
    };
    let answers = operations.iter().map(&mut step).collect();
    Db::advance(db_tx, &moves).await?;
    basket::name_coupons::<Db>(db_tx, &mut moved).await?;
    Ok((answers, moved))
}

/// What its user gets of an order that is taken back. One that nobody paid is closed by it, and nothing is returned.
const fn returned(was_paid: bool, due_cents: i64) -> i64 {
    if was_paid { due_cents } else { 0 }
}

fn refunded(Moved { op, order, coupon_ids }: Moved<'_>) -> Event {
    let Standing { key: Key { shop_id, order_id }, user_id, due_cents, status, .. } = order;
    let was_paid = status == Status::Paid;
    let refunded_cents = returned(was_paid, due_cents);
    let (operator, reason) = (op.request.operator.clone(), op.request.reason.clone());
    let refunded = events::OrderRefunded { order_id, coupon_ids, refunded_cents, was_paid, operator, reason, shop_id };
    Event::new(user_id, Payload::OrderRefunded(refunded)).by(op)
}

fn taken_back(Moved { op, order, coupon_ids }: Moved<'_>) -> Event {
    let Standing { key: Key { shop_id, order_id }, user_id, due_cents, refunded_from, .. } = order;
    let is_paid = refunded_from == Some(Status::Paid);
    let refunded_cents = returned(is_paid, due_cents);
    let back = events::OrderRefundTakenBack { order_id, coupon_ids, refunded_cents, is_paid, shop_id };
    Event::new(user_id, Payload::OrderRefundTakenBack(back)).by(op)
}

impl<Db: Store> SliceCompensable for Refund<Db> {
    type Db = Db;
    type Request = pb::Refund;

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Refund>]) -> sqlx::Result<Vec<Answer>> {
        let refund = |order: &Standing, request: &pb::Refund| match order.status {
            Status::Paid if request.only_unpaid => Err(Answer::refused(format!("{} is paid", order.key))),
            Status::Placed if request.only_unpaid && order.is_ahead => {
                Err(Answer::refused(format!("{} may be paid yet", order.key)))
            }
            Status::Placed | Status::Paid => Ok(Status::Refunded),
            // Whoever was told that it is placed may be quicker than what places it.
            Status::Frozen => Err(Answer::not_now(FROZEN_DELAY)),
            // Another refund of it may come to nothing yet.
            Status::Refunded if order.is_refunding() => Err(Answer::not_now(FROZEN_DELAY)),
            status @ (Status::Closed | Status::Refunded) => {
                Err(Answer::refused(format!("{} is {}", order.key, status.name())))
            }
        };
        let (answers, moved) = advance_each::<Db>(db_tx, operations, refund).await?;
        self.outbox.append::<Db>(db_tx, moved.into_iter().map(refunded)).await?;
        Ok(answers)
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::Refund>]) -> sqlx::Result<Vec<Answer>> {
        let take_back = |order: &Standing, _: &pb::Refund| {
            order.refunded_from.ok_or_else(|| Answer::refused(format!("{} is {}", order.key, order.status.name())))
        };
        let (answers, moved) = advance_each::<Db>(db_tx, operations, take_back).await?;
        self.outbox.append::<Db>(db_tx, moved.into_iter().map(taken_back)).await?;
        Ok(answers)
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
