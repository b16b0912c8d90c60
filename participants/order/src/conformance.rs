//! Each action for the conformance suite: on SQLite in this crate's tests, on MariaDB in `integration`.

use sqlx::Pool;
use tercet::action::{Action, Request, Saga, Tcc};
use tercet_proto::order::v1 as pb;
use tercet_testing::{Database, Mode, Suite};

use super::store::unpaid::Unpaid;
use super::store::{Key, Move, Order, Standing, Status, Store};
use super::{PLACE, PLACE_BASKET, PayError, Payment, REFUND, SETTLE_REFUND, audit, pay, service};

/// Order 1 is placed, orders 2 and 7 are paid, and order 3 is frozen; orders 4, 5 and 6 are refunded, and that of 6 is
/// final.
async fn rows<Db: Store>(pool: Pool<Db>) -> sqlx::Result<()> {
    let order = |order_id, coupon_id| Order {
        key: Key::single(order_id),
        user_id: 7,
        item: 3,
        count: 1,
        coupon_id,
        amount_cents: 2_000,
        discount_cents: 0,
        pay_within_s: None,
    };
    let step = |order_id, from, to| Move { key: Key::single(order_id), from, to };
    let mut db_tx = pool.begin().await?;
    let orders = [1, 2, 3, 4, 5, 6, 7].map(|order_id| order(order_id, (order_id == 2).then_some(5)));
    Db::insert(&mut db_tx, &orders).await?;
    let placed = [1, 2, 4, 5, 6, 7].map(|order_id| step(order_id, Status::Frozen, Status::Placed));
    Db::advance(&mut db_tx, &placed).await?;
    Db::advance(&mut db_tx, &[2, 7].map(|order_id| step(order_id, Status::Placed, Status::Paid))).await?;
    Db::advance(&mut db_tx, &[4, 5, 6].map(|order_id| step(order_id, Status::Placed, Status::Refunded))).await?;
    Db::end_refunds(&mut db_tx, &[(Key::single(6), true)]).await?;
    db_tx.commit().await
}

/// Of shop 3.
pub(crate) fn key(order_id: i64) -> Key {
    Key { shop_id: 3, order_id }
}

/// User 7's, for 1,500 after a coupon.
pub(crate) fn basket(order_id: i64, pay_within_s: Option<u32>) -> Order {
    Order {
        key: key(order_id),
        user_id: 7,
        item: 0,
        count: 1,
        coupon_id: None,
        amount_cents: 2_000,
        discount_cents: 500,
        pay_within_s,
    }
}

/// Of the orders that the job finds, those that were not paid in time, each once; and none that is paid or taken back.
pub(crate) async fn what_is_not_paid_in_time_is_found<Db: Unpaid>(pool: Pool<Db>) {
    Db::migrate(&pool).await.expect("the schema is sound");
    let mut db = pool.acquire().await.expect("the pool is open");
    // The first two are due at once, the third later and the fourth never.
    let orders = [basket(1, Some(0)), basket(2, Some(0)), basket(3, Some(600)), basket(4, None)];
    Db::insert(&mut db, &orders).await.expect("they are new");
    macro_rules! unpaid {
        () => {
            Db::unpaid(&mut db, 9).await.expect("the statement is sound").iter().map(|(key, _)| key.order_id)
        };
    }
    assert_eq!(unpaid!().count(), 0, "none is placed");
    let step = |order_id, from, to| Move { key: key(order_id), from, to };
    let placed = [1, 2, 3, 4].map(|order_id| step(order_id, Status::Frozen, Status::Placed));
    Db::advance(&mut db, &placed).await.expect("they are frozen");
    assert_eq!(unpaid!().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(Db::unpaid(&mut db, 1).await.expect("the statement is sound"), [(key(1), 7)]);
    let mut times = Vec::new();
    for order in Db::standings(&mut db, &[1, 2, 3, 4].map(key)).await.expect("the statement is sound") {
        let look = Db::look(&mut db, order.key).await.expect("the statement is sound");
        assert_eq!(look.map(|order| order.pay_by_ms), Some(order.pay_by_ms));
        times.push(order.pay_by_ms);
    }
    let [Some(first), Some(_), Some(third), None] = times[..] else { panic!("{times:?}") };
    assert_eq!(third - first, 600_000, "from one moment on");
    assert!(Db::look(&mut db, key(9)).await.expect("the statement is sound").is_none());

    let all = [1, 2, 3, 4].map(key);
    Db::look_later(&mut db, &all, 60_000).await.expect("the statement is sound");
    assert_eq!(unpaid!().count(), 0, "somebody is about it");
    Db::look_later(&mut db, &all, 0).await.expect("the statement is sound");
    let mut found: Vec<_> = unpaid!().collect();
    found.sort_unstable();
    assert_eq!(found, [1, 2, 3]);
    let outbox = tercet_events::outbox::Outbox::off();
    let paid =
        |order_id| Payment { key: key(order_id), user_id: 7, paid_cents: 1_500, payment_id: "p", operator: "bob" };
    let told = pay::<Db>(&mut db, &outbox, paid(1)).await.expect("it is placed");
    assert!(told.is_new);
    assert!(!pay::<Db>(&mut db, &outbox, paid(1)).await.expect("it is the same").is_new);
    for payment_id in ["P", "p ", "q", ""] {
        let told = pay::<Db>(&mut db, &outbox, Payment { payment_id, ..paid(1) }).await;
        assert!(matches!(told, Err(PayError::Otherwise(_))), "{payment_id:?}: {told:?}");
    }
    let refunds = [step(2, Status::Placed, Status::Refunded), step(3, Status::Placed, Status::Refunded)];
    Db::advance(&mut db, &refunds).await.expect("they are placed");
    assert_eq!(unpaid!().count(), 0, "one is paid and two are taken back");
    assert!(matches!(pay::<Db>(&mut db, &outbox, paid(2)).await, Err(PayError::Refunding(_))));
    Db::end_refunds(&mut db, &[(key(2), true)]).await.expect("it is refunded");
    assert!(matches!(pay::<Db>(&mut db, &outbox, paid(2)).await, Err(PayError::Closed(_))));
    Db::end_refunds(&mut db, &[(key(2), false)]).await.expect("it is refunded");
    assert!(Db::end_refunds(&mut db, &[(key(4), true)]).await.is_err(), "it is placed");
    // A refund that comes to nothing is asked for again, and not at once.
    Db::advance(&mut db, &[step(2, Status::Refunded, Status::Placed)]).await.expect("it is refunded");
    assert_eq!(unpaid!().count(), 0);
    Db::look_later(&mut db, &all, 0).await.expect("the statement is sound");
    assert_eq!(unpaid!().collect::<Vec<_>>(), [2]);
    // Nor before its own time is over.
    Db::advance(&mut db, &[step(3, Status::Refunded, Status::Placed)]).await.expect("it is refunded");
    let ahead = Db::look(&mut db, key(3)).await.expect("the statement is sound").expect("it is there");
    assert_eq!((ahead.close_at_ms, ahead.is_ahead), (Some(third), true));
    let second = Db::look(&mut db, key(2)).await.expect("the statement is sound");
    let second = second.expect("it is there");
    assert_eq!((second.pay_by_ms, second.is_ahead), (times[1], false), "its time is what it was");
    Db::advance(&mut db, &[step(1, Status::Paid, Status::Refunded)]).await.expect("it is paid");
    Db::end_refunds(&mut db, &[(key(1), true)]).await.expect("it is refunded");
    assert!(matches!(pay::<Db>(&mut db, &outbox, paid(1)).await, Err(PayError::Refunded(_))));
}

/// One whose closing is refused though it waits to be paid is looked at later and later; others are left alone.
pub(crate) async fn what_can_not_be_closed_is_looked_at_later_and_later<Db: Unpaid>(pool: Pool<Db>) {
    Db::migrate(&pool).await.expect("the schema is sound");
    let mut db = pool.acquire().await.expect("the pool is open");
    let key = key(1);
    Db::insert(&mut db, &[basket(1, Some(0))]).await.expect("it is new");
    let put_off = async |db: &mut _| Db::put_off(db, key, 60_000, 200_000).await.expect("the statement is sound");
    assert!(!put_off(&mut db).await, "it is not placed");
    Db::advance(&mut db, &[Move { key, from: Status::Frozen, to: Status::Placed }]).await.expect("it is frozen");
    let read = async |db: &mut _| Db::look(db, key).await.expect("the statement is sound").expect("it is there");
    let placed_ms = read(&mut db).await.pay_by_ms.expect("it has a time");
    for wanted in [60_000, 120_000, 200_000, 200_000] {
        assert!(put_off(&mut db).await);
        let after_ms = read(&mut db).await.close_at_ms.expect("it waits") - placed_ms;
        assert!((wanted..wanted + 30_000).contains(&after_ms), "{after_ms} for {wanted}");
    }
    Db::advance(&mut db, &[Move { key, from: Status::Placed, to: Status::Refunded }]).await.expect("it is placed");
    assert!(!put_off(&mut db).await, "it is being taken back");
}

/// One runner has the job until it leaves it, or says nothing for too long.
pub(crate) async fn one_has_the_job<Db: Unpaid>(pool: Pool<Db>) {
    Db::migrate(&pool).await.expect("the schema is sound");
    let mut db = pool.acquire().await.expect("the pool is open");
    for (runner, length_ms, has) in [
        ("a", 60_000, true),
        ("b", 60_000, false),
        // It goes on, and then says nothing.
        ("a", 0, true),
        ("b", 60_000, true),
        ("a", 60_000, false),
    ] {
        assert_eq!(Db::lease_job(&mut db, runner, length_ms).await.expect("the statement is sound"), has, "{runner}");
    }
    for (leaver, has) in [("a", false), ("b", true)] {
        Db::leave_job(&mut db, leaver).await.expect("the statement is sound");
        assert_eq!(Db::lease_job(&mut db, "a", 60_000).await.expect("the statement is sound"), has, "{leaver} left");
    }
}

/// An order that is paid and taken back at the same time for want of it is one or the other.
pub(crate) async fn an_order_is_paid_or_closed<Db: Unpaid>(pool: Pool<Db>) {
    use tercet::participant::{Answer, Op, SliceCompensable as _};
    Db::migrate(&pool).await.expect("the schema is sound");
    let outbox = tercet_events::outbox::Outbox::off();
    let (mut paid, mut closed) = (0, 0);
    for order_id in 1..=20 {
        let key = key(order_id);
        let mut db = pool.acquire().await.expect("the pool is open");
        Db::insert(&mut db, &[basket(order_id, Some(0))]).await.expect("it is new");
        Db::advance(&mut db, &[Move { key, from: Status::Frozen, to: Status::Placed }]).await.expect("it is frozen");
        drop(db);
        let pays = async {
            let mut db_tx = pool.begin_with(Db::BEGIN_WRITE).await.expect("the pool is open");
            let payment = Payment { key, user_id: 7, paid_cents: 1_500, payment_id: "p", operator: "bob" };
            let told = pay::<Db>(&mut db_tx, &outbox, payment).await;
            tokio::task::yield_now().await;
            db_tx.commit().await.expect("the constraints hold");
            told
        };
        let closes = async {
            let mut db_tx = pool.begin_with(Db::BEGIN_WRITE).await.expect("the pool is open");
            let context =
                tercet::context::Context { xid: tercet::xid::Xid::new([0; 16]), branch: 0, not_after_ms: u64::MAX };
            let request = pb::Refund { order_id, shop_id: 3, only_unpaid: true, ..pb::Refund::default() };
            let op = Op { context, traceparent: String::new(), request };
            let told = super::Refund::<Db>::new(outbox.clone()).try_(&mut db_tx, &[op]).await;
            tokio::task::yield_now().await;
            db_tx.commit().await.expect("the constraints hold");
            told.expect("the statements are sound").remove(0)
        };
        // Each is first in half of the cases, as far as it goes.
        let (told, answer) = if order_id % 2 == 0 {
            tokio::join!(pays, closes)
        } else {
            let (answer, told) = tokio::join!(closes, pays);
            (told, answer)
        };
        let order = Db::look(&mut *pool.acquire().await.expect("the pool is open"), key).await;
        let status = order.expect("the statement is sound").map(|Standing { status, .. }| status);
        match (told, answer) {
            (Ok(_), Answer::Refused(_)) if status == Some(Status::Paid) => paid += 1,
            (Err(PayError::Refunding(_)), answer) if answer == Answer::done() && status == Some(Status::Refunded) => {
                closed += 1;
            }
            (told, answer) => panic!("{told:?}, {answer:?}: {status:?}"),
        }
    }
    assert!(paid > 0 && closed > 0, "{paid} paid and {closed} closed");
}

/// Orders of two shops with the same numbers: each shop has its own, by status, the highest first.
pub(crate) async fn a_shop_has_its_own_orders<Db: Store>(pool: Pool<Db>) {
    Db::migrate(&pool).await.expect("the schema is sound");
    let key = |shop_id, order_id| Key { shop_id, order_id };
    let order = |key| Order { key, ..basket(1, None) };
    let all: Vec<Order> = [30, 31].into_iter().flat_map(|shop| (1..=6).map(move |id| order(key(shop, id)))).collect();
    let placed = [(30, 2), (30, 5), (31, 1)].map(|(shop_id, order_id)| Move {
        key: key(shop_id, order_id),
        from: Status::Frozen,
        to: Status::Placed,
    });
    let mut connection = pool.acquire().await.expect("the pool is open");
    Db::insert(&mut connection, &all).await.expect("they are new");
    Db::advance(&mut connection, &placed).await.expect("they are frozen");
    let mut found = async |statuses: &[Status], page| {
        let found = Db::of_shop(&mut connection, 30, statuses, page).await.expect("the statement is sound");
        let own = |order: &Standing| order.key.shop_id == 30 && statuses.contains(&order.status);
        assert!(found.iter().all(own), "{found:?}");
        let mut numbers: Vec<i64> = found.iter().map(|order| order.key.order_id).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(found(&[Status::Frozen], (i64::MAX, 2)).await, [4, 6]);
    assert_eq!(found(&[Status::Frozen], (4, 9)).await, [1, 3]);
    assert_eq!(found(&[Status::Placed], (i64::MAX, 9)).await, [2, 5]);
    assert!(found(&[Status::Paid], (i64::MAX, 9)).await.is_empty());
    assert_eq!(found(&Status::ALL, (5, 2)).await, [2, 3, 4], "of each status two at most");
    assert_eq!(found(&[Status::Placed, Status::Paid], (i64::MAX, 1)).await, [5]);
}

async fn coupons_once<Db: Store>(pool: Pool<Db>) -> Result<(), String> {
    let totals = audit(&pool).await.map_err(|error| error.to_string())?;
    if totals.coupons_twice == 0 { Ok(()) } else { Err(format!("{totals:?}")) }
}

fn suite<Db: Store + Database, M: Mode, R: Request>(action: Action<M, R>) -> Suite<Db, M, R> {
    let suite = Suite::new(action, |pool| service::<Db>(pool, None)).seed(rows::<Db>);
    suite.invariant(coupons_once::<Db>).ignoring(&["pay_by_ms", "close_at_ms", "refunded_ms"])
}

pub(crate) fn place<Db: Store + Database>() -> Suite<Db, Tcc, pb::Place> {
    let place = |order_id, coupon_id| pb::Place {
        order_id,
        user_id: 7,
        item: 3,
        count: 1,
        coupon_id,
        amount_cents: 2_000,
        discount_cents: if coupon_id == 0 { 0 } else { 500 },
    };
    // An order that came to nothing is closed, and stays.
    suite(PLACE)
        .granting([place(11, 6), place(12, 0)])
        .refusing([place(11, 0), place(1, 0), place(0, 0)])
        .cancel_leaves_traces_in(&["orders"])
}

pub(crate) fn refund<Db: Store + Database>() -> Suite<Db, Saga, pb::Refund> {
    let refund = |order_id| pb::Refund { order_id, ..pb::Refund::default() };
    let unpaid = |order_id| pb::Refund { only_unpaid: true, ..refund(order_id) };
    suite(REFUND).granting([refund(1), refund(2)]).refusing([refund(6), refund(9), unpaid(7)])
}

pub(crate) fn settle_refund<Db: Store + Database>() -> Suite<Db, Saga, pb::SettleRefund> {
    let settle = |order_id| pb::SettleRefund { order_id, shop_id: 0 };
    suite(SETTLE_REFUND).granting([settle(4), settle(5)]).refusing([settle(4), settle(1), settle(6), settle(9)])
}

pub(crate) fn place_basket<Db: Store + Database>() -> Suite<Db, Tcc, pb::PlaceBasket> {
    let wanted = |order_id, coupon_ids: &[i64]| pb::PlaceBasket {
        shop_id: 3,
        order_id,
        user_id: 7,
        count: 3,
        coupons: coupon_ids.iter().map(|id| pb::BasketCoupon { coupon_id: *id, discount_cents: 100 }).collect(),
        amount_cents: 2_000,
        discount_cents: 100 * coupon_ids.len() as i64,
        lines: vec![
            pb::Line { product_id: 1, price_cents: 500, quantity: 2 },
            pb::Line { product_id: 2, price_cents: 1_000, quantity: 1 },
        ],
        pay_within_s: 600,
    };
    let wrong_sum = pb::PlaceBasket { discount_cents: 300, ..wanted(14, &[8, 9]) };
    let no_lines = pb::PlaceBasket { lines: Vec::new(), ..wanted(15, &[]) };
    let too_few = pb::PlaceBasket { count: 4, ..wanted(16, &[]) };
    let nobodys = pb::PlaceBasket { shop_id: 0, ..wanted(18, &[]) };
    let too_dear = pb::PlaceBasket { amount_cents: 2_001, ..wanted(17, &[]) };
    suite(PLACE_BASKET)
        .granting([wanted(11, &[6, 7]), wanted(12, &[])])
        .refusing([
            wanted(11, &[]),
            nobodys,
            wanted(0, &[]),
            wanted(13, &[8, 8]),
            wrong_sum,
            no_lines,
            too_few,
            too_dear,
        ])
        .cancel_leaves_traces_in(&["orders", "basket_coupon", "basket_line"])
}
