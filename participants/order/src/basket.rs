//! An order of several things with any number of coupons.
//!
//! It keeps its lines as they were bought, with what they cost, and the coupons that it uses. The units are the stock
//! service's. One that its coupons pay for, or that costs nothing, is paid when it is placed: nobody has to say so.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use tercet::participant::{Answer, DbTx, Op, SliceParticipant};
use tercet_events::event::{Event, Payload};
use tercet_events::outbox::Outbox;
use tercet_proto::events::v1 as events;
use tercet_proto::order::v1 as pb;
use tercet_rules::Code;

use crate::limits::{COUPONS_MAX, LINES_MAX, PAY_WITHIN_S_MAX};
use crate::store::{BasketCoupon, BasketLine, Key, Move, Order, Status, Store};
use crate::{Moved, end};

/// What a basket has where an order of one thing says which.
pub(crate) const BASKET: i64 = 0;

/// [`PLACE_BASKET`](crate::PLACE_BASKET).
#[derive(Debug)]
pub struct PlaceBasket<Db> {
    outbox: Outbox,
    database: PhantomData<fn() -> Db>,
}

impl<Db> PlaceBasket<Db> {
    /// Tells what it does there.
    pub const fn new(outbox: Outbox) -> Self {
        Self { outbox, database: PhantomData }
    }
}

/// Why this can not be an order.
fn fault(request: &pb::PlaceBasket) -> Option<String> {
    let pb::PlaceBasket { coupons, lines, .. } = request;
    let &pb::PlaceBasket { shop_id, order_id, user_id, count, amount_cents, discount_cents, .. } = request;
    let least =
        [("shop_id", shop_id, 1), ("order_id", order_id, 1), ("user_id", user_id, 1), ("count", count.into(), 1)];
    if let Some((name, value, least)) = least.into_iter().find(|(_, value, least)| value < least) {
        return Some(format!("{name} is {value}: it is at least {least}"));
    }
    if request.pay_within_s > PAY_WITHIN_S_MAX {
        return Some(format!("pay_within_s is {}: it is at most {PAY_WITHIN_S_MAX}", request.pay_within_s));
    }
    if coupons.len() > COUPONS_MAX {
        return Some(format!("{} coupons: at most {COUPONS_MAX}", coupons.len()));
    }
    if !(1..=LINES_MAX).contains(&lines.len()) {
        return Some(format!("{} lines: it has 1 to {LINES_MAX}", lines.len()));
    }
    if let Some(line) = lines.iter().find(|own| own.product_id < 1 || own.price_cents < 0 || own.quantity < 1) {
        return Some(format!(
            "a line is {line:?}: product_id and quantity are at least 1, and price_cents is at least 0"
        ));
    }
    let units = lines.iter().map(|own| i64::from(own.quantity)).sum::<i64>();
    let costs = lines.iter().try_fold(0_i64, |sum, own| {
        own.price_cents.checked_mul(own.quantity.into()).and_then(|cost| sum.checked_add(cost))
    });
    if units != i64::from(count) || costs != Some(amount_cents) {
        return Some(format!("the lines have {units} units for {costs:?}: they are {count} for {amount_cents}"));
    }
    let mut ids = BTreeSet::new();
    for pb::BasketCoupon { coupon_id, discount_cents } in coupons {
        if *coupon_id < 1 || *discount_cents < 0 || !ids.insert(coupon_id) {
            return Some(format!("coupon {coupon_id} for {discount_cents}: each at least 1, at least 0, and once"));
        }
    }
    let sum = coupons.iter().try_fold(0_i64, |sum, coupon| sum.checked_add(coupon.discount_cents));
    if sum != Some(discount_cents) || discount_cents > amount_cents {
        return Some(format!(
            "discount_cents is {discount_cents}: it is the sum of the coupons, at most {amount_cents}"
        ));
    }
    None
}

fn placed(op: &Op<pb::PlaceBasket>) -> Event {
    let pb::PlaceBasket { shop_id, order_id, user_id, count, amount_cents, discount_cents, .. } = op.request;
    let coupon_ids = op.request.coupons.iter().map(|coupon| coupon.coupon_id).collect();
    let placed =
        events::OrderPlaced { order_id, item: BASKET, count, coupon_ids, amount_cents, discount_cents, shop_id };
    Event::new(user_id, Payload::OrderPlaced(placed)).by(op)
}

/// Whether nothing is left to be paid.
const fn is_free(request: &pb::PlaceBasket) -> bool {
    request.amount_cents == request.discount_cents
}

fn paid(op: &Op<pb::PlaceBasket>) -> Event {
    let pb::PlaceBasket { shop_id, order_id, user_id, .. } = op.request;
    let paid = events::OrderPaid { order_id, shop_id, ..events::OrderPaid::default() };
    Event::new(user_id, Payload::OrderPaid(paid)).by(op)
}

const fn key(request: &pb::PlaceBasket) -> Key {
    Key { shop_id: request.shop_id, order_id: request.order_id }
}

fn keys(operations: &[Op<pb::PlaceBasket>]) -> impl Iterator<Item = Key> {
    operations.iter().map(|op| key(&op.request))
}

impl<Db: Store> SliceParticipant for PlaceBasket<Db> {
    type Db = Db;
    type Request = pb::PlaceBasket;

    async fn try_(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::PlaceBasket>]) -> sqlx::Result<Vec<Answer>> {
        let wanted: Vec<Key> = keys(operations).collect();
        let taken = Db::taken(db_tx, &wanted).await?;
        // Of one that came to nothing there may be another try, by the same user.
        let closed = if taken.is_empty() { Vec::new() } else { Db::standings(db_tx, &taken).await? };
        let closed = closed.into_iter().filter(|order| order.is_basket && order.status == Status::Closed);
        let mut closed: BTreeMap<Key, i64> = closed.map(|order| (order.key, order.user_id)).collect();
        let (mut taken, mut reopened) = (taken.into_iter().collect::<BTreeSet<Key>>(), Vec::new());
        let (mut orders, mut coupons, mut lines) = (Vec::with_capacity(operations.len()), Vec::new(), Vec::new());
        let mut create = |request: &pb::PlaceBasket| {
            if let Some(fault) = fault(request) {
                return Answer::refused(fault);
            }
            let &pb::PlaceBasket { user_id, count, amount_cents, discount_cents, pay_within_s, .. } = request;
            let key = key(request);
            if closed.get(&key) == Some(&user_id) {
                closed.remove(&key);
                reopened.push(key);
            } else if !taken.insert(key) {
                return Answer::refused(Code::OrderExists.fault([("order_id", key.order_id.to_string())]).reason());
            }
            let pay_within_s = (pay_within_s > 0).then_some(pay_within_s);
            let (item, coupon_id) = (BASKET, None);
            orders.push(Order { key, user_id, item, count, coupon_id, amount_cents, discount_cents, pay_within_s });
            coupons.extend(request.coupons.iter().map(|own| BasketCoupon {
                key,
                coupon_id: own.coupon_id,
                discount_cents: own.discount_cents,
            }));
            lines.extend(request.lines.iter().enumerate().map(|(line, own)| BasketLine {
                key,
                line,
                product_id: own.product_id,
                price_cents: own.price_cents,
                quantity: own.quantity,
            }));
            Answer::done()
        };
        let answers = operations.iter().map(|op| create(&op.request)).collect();
        if !reopened.is_empty() {
            Db::drop_closed(db_tx, &reopened).await?;
        }
        Db::insert(db_tx, &orders).await?;
        Db::insert_coupons(db_tx, &coupons).await?;
        Db::insert_lines(db_tx, &lines).await?;
        Ok(answers)
    }

    async fn confirm(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::PlaceBasket>]) -> sqlx::Result<Vec<Answer>> {
        let step = |op: &Op<pb::PlaceBasket>| {
            let to = if is_free(&op.request) { Status::Paid } else { Status::Placed };
            Move { key: key(&op.request), from: Status::Frozen, to }
        };
        Db::advance(db_tx, &operations.iter().map(step).collect::<Vec<_>>()).await?;
        let told = |op| std::iter::once(placed(op)).chain(is_free(&op.request).then(|| paid(op)));
        self.outbox.append::<Db>(db_tx, operations.iter().flat_map(told).collect::<Vec<_>>()).await?;
        Ok(vec![Answer::done(); operations.len()])
    }

    async fn cancel(&self, db_tx: &mut DbTx<Db>, operations: &[Op<pb::PlaceBasket>]) -> sqlx::Result<Vec<Answer>> {
        end::<Db>(db_tx, keys(operations), Status::Closed).await
    }
}

/// Fills in the coupons of baskets.
pub(crate) async fn name_coupons<Db: Store>(db_tx: &mut DbTx<Db>, moved: &mut [Moved<'_>]) -> sqlx::Result<()> {
    let baskets = moved.iter().filter(|moved| moved.order.is_basket).map(|moved| moved.order.key);
    let baskets: Vec<Key> = baskets.collect();
    if baskets.is_empty() {
        return Ok(());
    }
    let mut coupons: BTreeMap<Key, Vec<i64>> = BTreeMap::new();
    for (key, coupon_id) in Db::coupons_of(db_tx, &baskets).await? {
        coupons.entry(key).or_default().push(coupon_id);
    }
    for moved in moved {
        if let Some(own) = coupons.get(&moved.order.key) {
            moved.coupon_ids.clone_from(own);
        }
    }
    Ok(())
}
