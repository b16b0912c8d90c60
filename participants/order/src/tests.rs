//! The business rule on SQLite, by slices in a local transaction.

use sqlx::Sqlite;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use tercet::context::Context;
use tercet::xid::Xid;
use tercet_events::consumer::{Consumer as _, Trouble};

use super::coupon_use::CouponUse;
use super::*;

const PLACER: Place<Sqlite> = Place::new(Outbox::off());
const REFUNDER: Refund<Sqlite> = Refund::new(Outbox::off());
const SETTLER: SettleRefund<Sqlite> = SettleRefund::new();

async fn orders() -> SqlitePool {
    let options = SqlitePoolOptions::new().max_connections(1);
    let pool = options.connect("sqlite::memory:").await.expect("memory is there");
    Sqlite::migrate(&pool).await.expect("the schema is sound");
    pool
}

fn slice<R, const N: usize>(requests: [R; N]) -> Vec<Op<R>> {
    let context = Context { xid: Xid::new([0; 16]), branch: 0, not_after_ms: u64::MAX };
    requests.map(|request| Op { context, traceparent: String::new(), request }).into()
}

fn place(order_id: i64, coupon_id: i64) -> pb::Place {
    let discount_cents = if coupon_id == 0 { 0 } else { 500 };
    pb::Place { order_id, user_id: 7, item: 3, count: 1, coupon_id, amount_cents: 2_000, discount_cents }
}

fn refund_of(order_id: i64) -> pb::Refund {
    pb::Refund { order_id, operator: "ann".into(), reason: "broken".into(), shop_id: 0, only_unpaid: false }
}

fn refund(order_id: i64) -> Vec<Op<pb::Refund>> {
    slice([refund_of(order_id)])
}

fn settle(order_id: i64) -> Vec<Op<pb::SettleRefund>> {
    slice([pb::SettleRefund { order_id, shop_id: 0 }])
}

/// Frozen, placed, closed, paid and refunded.
async fn statuses(pool: &SqlitePool) -> [i64; 5] {
    let totals = audit(pool).await.expect("the table is there");
    assert_eq!(totals.coupons_twice, 0);
    [totals.frozen, totals.placed, totals.closed, totals.paid, totals.refunded]
}

macro_rules! run {
    ($pool:expr, $handler:ident.$operation:ident, $slice:expr) => {{
        let mut db_tx = $pool.begin().await.expect("the pool is open");
        let answers = $handler.$operation(&mut db_tx, &$slice).await.expect("the statements are sound");
        db_tx.commit().await.expect("the constraints hold");
        answers
    }};
}

async fn mark_paid(pool: &SqlitePool, order_id: i64) -> Result<Paid, PayError> {
    mark(pool, pb::Paid { order_id, user_id: 7, paid_cents: 2_000, shop_id: 0 }).await
}

async fn mark(pool: &SqlitePool, paid: pb::Paid) -> Result<Paid, PayError> {
    let mut db_tx = pool.begin().await.expect("the pool is open");
    let paid = pay::<Sqlite>(&mut db_tx, &Outbox::off(), &paid).await?;
    db_tx.commit().await.expect("the constraints hold");
    Ok(paid)
}

#[track_caller]
fn assert_refused(answer: &Answer, reason: &str) {
    assert!(matches!(answer, Answer::Refused(found) if found.contains(reason)), "{answer:?} for {reason:?}");
}

#[tokio::test]
async fn orders_are_frozen_then_placed_or_closed() {
    let pool = orders().await;
    let answers = run!(pool, PLACER.try_, slice([place(1, 5), place(2, 0), place(1, 0)]));
    assert_eq!(answers[..2], [Answer::done(), Answer::done()]);
    assert_refused(&answers[2], "order 1 exists");
    assert_eq!(statuses(&pool).await, [2, 0, 0, 0, 0]);
    run!(pool, PLACER.confirm, slice([place(1, 5)]));
    run!(pool, PLACER.cancel, slice([place(2, 0)]));
    assert_eq!(statuses(&pool).await, [0, 1, 1, 0, 0]);
    assert_eq!(coupons(&pool).await.expect("the table is there"), [(5, 1)]);
    assert_refused(&run!(pool, PLACER.try_, slice([place(2, 0)]))[0], "order 2 exists");
}

#[tokio::test]
async fn a_bad_order_is_refused_by_field_and_limit() {
    let pool = orders().await;
    let sound = place(1, 5);
    let refusals = [
        (pb::Place { order_id: 0, ..sound }, "order_id is 0: it is at least 1"),
        (pb::Place { user_id: -1, ..sound }, "user_id is -1"),
        (pb::Place { item: 0, ..sound }, "item is 0"),
        (pb::Place { count: 0, ..sound }, "count is 0: it is 1 to 1000000"),
        (pb::Place { coupon_id: -5, ..sound }, "coupon_id is -5: it is at least 0"),
        (pb::Place { amount_cents: -1, ..sound }, "amount_cents is -1: it is at least 0"),
        (pb::Place { discount_cents: 2_001, ..sound }, "discount_cents is 2001: it is 0 to 2000"),
        (pb::Place { coupon_id: 0, ..sound }, "discount_cents is 500: it is 0 to 0"),
    ];
    for (request, reason) in refusals {
        assert_refused(&run!(pool, PLACER.try_, slice([request]))[0], reason);
    }
    assert_eq!(statuses(&pool).await, [0; 5]);
}

#[tokio::test]
async fn only_a_placed_order_is_paid_and_only_once() {
    let pool = orders().await;
    run!(pool, PLACER.try_, slice([place(1, 0)]));
    assert!(mark_paid(&pool, 1).await.is_err_and(|error| error.to_string() == "order 1 is not placed yet"));
    run!(pool, PLACER.confirm, slice([place(1, 0)]));
    let other = |user_id, paid_cents| mark(&pool, pb::Paid { order_id: 1, user_id, paid_cents, shop_id: 0 });
    assert!(other(8, 2_000).await.is_err_and(|error| error.to_string() == "user 8 has no order 1"));
    assert!(other(7, 1_999).await.is_err_and(|error| error.to_string() == "order 1 costs 2000"));
    assert!(mark_paid(&pool, 1).await.expect("it is placed").is_new);
    assert_eq!(statuses(&pool).await, [0, 0, 0, 1, 0]);
    assert!(!mark_paid(&pool, 1).await.expect("it is paid").is_new);
    assert!(other(7, 1_999).await.is_err_and(|error| error.to_string() == "order 1 costs 2000"));
    assert!(mark_paid(&pool, 9).await.is_err_and(|error| error.to_string() == "user 7 has no order 9"));
}

#[tokio::test]
async fn an_order_is_refunded_once_and_not_before_it_is_placed() {
    let pool = orders().await;
    run!(pool, PLACER.try_, slice([place(1, 0)]));
    assert_eq!(run!(pool, REFUNDER.try_, refund(1)), [Answer::not_now(FROZEN_DELAY)]);
    assert_refused(&run!(pool, REFUNDER.try_, refund(9))[0], "order 9 does not exist");
    run!(pool, PLACER.confirm, slice([place(1, 0)]));
    let answers = run!(pool, REFUNDER.try_, slice([refund_of(1), refund_of(1)]));
    assert_eq!(answers[0], Answer::done());
    assert_eq!(answers[1], Answer::not_now(FROZEN_DELAY), "the other may come to nothing yet");
    assert_eq!(run!(pool, SETTLER.try_, settle(1)), [Answer::done()]);
    assert_refused(&run!(pool, REFUNDER.try_, refund(1))[0], "order 1 is refunded");
    assert_eq!(statuses(&pool).await, [0, 0, 0, 0, 1]);
}

/// Nobody is told that an order is closed while it may yet be what it was.
#[tokio::test]
async fn a_refund_is_final_once_it_is_settled() {
    let pool = orders().await;
    run!(pool, PLACER.try_, slice([place(1, 0), place(2, 0)]));
    run!(pool, PLACER.confirm, slice([place(1, 0), place(2, 0)]));
    let said = async |order_id| mark_paid(&pool, order_id).await.expect_err("it is taken back").to_string();
    assert_refused(&run!(pool, SETTLER.try_, settle(1))[0], "order 1 is placed");
    assert_refused(&run!(pool, SETTLER.try_, settle(9))[0], "order 9 does not exist");
    assert!(mark_paid(&pool, 2).await.expect("it is placed").is_new);
    run!(pool, REFUNDER.try_, slice([refund_of(1), refund_of(2)]));
    assert_eq!(said(1).await, "order 1 is being refunded");
    let twice = slice([1, 2, 1].map(|order_id| pb::SettleRefund { order_id, shop_id: 0 }));
    let answers = run!(pool, SETTLER.try_, twice);
    assert_eq!(answers[..2], [Answer::done(), Answer::done()]);
    assert_refused(&answers[2], "the refund of order 1 is final");
    assert_eq!((said(1).await, said(2).await), ("order 1 is closed".into(), "order 2 is refunded".into()));

    assert_eq!(run!(pool, SETTLER.cancel, settle(1)), [Answer::done()]);
    assert_refused(&run!(pool, SETTLER.cancel, settle(1))[0], "the refund of order 1 is not final");
    assert_eq!(said(1).await, "order 1 is being refunded");
    assert_eq!(run!(pool, REFUNDER.cancel, refund(1)), [Answer::done()]);
    assert!(mark_paid(&pool, 1).await.expect("it is placed again").is_new);
    // Nothing of that refund is left for the next one.
    run!(pool, REFUNDER.try_, refund(1));
    assert_eq!(said(1).await, "order 1 is being refunded");
}

#[tokio::test]
async fn the_database_itself_refuses_to_place_what_is_not_frozen() {
    let pool = orders().await;
    run!(pool, PLACER.try_, slice([place(1, 0)]));
    run!(pool, PLACER.cancel, slice([place(1, 0)]));
    let mut db_tx = pool.begin().await.expect("the pool is open");
    let error = PLACER.confirm(&mut db_tx, &slice([place(1, 0)])).await.expect_err("it is closed");
    assert!(matches!(error, sqlx::Error::RowNotFound), "{error}");
}

/// What the consumer says to these events, in one local transaction.
async fn told(pool: &SqlitePool, payloads: impl IntoIterator<Item = Payload>) -> Result<(), Trouble> {
    let event = |payload| events::Event { user_id: 7, payload: Some(payload), ..events::Event::default() };
    let all: Vec<_> = payloads.into_iter().map(event).collect();
    let mut db_tx = pool.begin().await.expect("the pool is open");
    CouponUse::<Sqlite>::default().consume(&mut db_tx, &all).await?;
    db_tx.commit().await.expect("the constraints hold");
    Ok(())
}

fn used(coupon_id: i64, order_id: i64, discount_cents: i64) -> Payload {
    used_at(0, coupon_id, order_id, discount_cents)
}

/// The same at this step of the coupon.
fn used_at(step: i64, coupon_id: i64, order_id: i64, discount_cents: i64) -> Payload {
    let used = events::CouponUsed { coupon_id, order_id, discount_cents, step, ..events::CouponUsed::default() };
    Payload::CouponUsed(used)
}

fn given_back(coupon_id: i64, order_id: i64) -> Payload {
    Payload::CouponGivenBack(events::CouponGivenBack { coupon_id, order_id, ..Default::default() })
}

#[tokio::test]
async fn the_use_of_a_coupon_is_noted_at_its_order_and_at_no_other() {
    let pool = orders().await;
    run!(pool, PLACER.try_, slice([place(1, 5), place(2, 6), place(3, 7), place(4, 0)]));
    run!(pool, PLACER.confirm, slice([place(1, 5), place(2, 6), place(4, 0)]));
    run!(pool, PLACER.cancel, slice([place(3, 7)]));
    let unconfirmed = async || audit(&pool).await.expect("the table is there").unconfirmed;
    assert_eq!(unconfirmed().await, 2);
    let strange = [
        (used(5, 9, 500), "order 9 is not there with coupon 5"),
        (used(5, 2, 500), "order 2 is not there with coupon 5"),
        (used(5, 1, 499), "order 1 is not there with coupon 5 and its discount"),
        (used(7, 3, 500), "order 3 is not there with coupon 7"),
        (used(8, 4, 0), "order 4 is not there with coupon 8"),
    ];
    for (payload, reason) in strange {
        let trouble = told(&pool, [used(6, 2, 500), payload.clone()]).await.expect_err("somebody's money");
        assert!(matches!(&trouble, Trouble::Refused(_)), "{trouble:?}");
        let alone = told(&pool, [payload]).await.expect_err("somebody's money");
        assert!(alone.to_string().starts_with(reason), "{alone} for {reason}");
        assert_eq!(unconfirmed().await, 2, "nothing of such a batch is noted");
    }
    told(&pool, [used(5, 1, 500), used(6, 2, 500)]).await.expect("they are theirs");
    assert_eq!(unconfirmed().await, 0);
    let issued = Payload::CouponIssued(events::CouponIssued::default());
    told(&pool, [given_back(5, 1), issued, used(5, 1, 500), given_back(6, 2)]).await.expect("each in its turn");
    assert_eq!(unconfirmed().await, 1);
    let two = told(&pool, [used(5, 1, 500), used(6, 1, 500)]).await.expect_err("it has one");
    assert!(two.to_string().starts_with("order 1 is not there with coupon"), "{two}");
}

/// What was put away comes back later than what has happened since, alone or in one batch with it.
#[tokio::test]
async fn what_is_told_late_of_a_coupon_does_not_undo_what_was_told_since() {
    let pool = orders().await;
    run!(pool, PLACER.try_, slice([place(1, 5)]));
    run!(pool, PLACER.confirm, slice([place(1, 5)]));
    let placer = PlaceBasket::<Sqlite>::new(Outbox::off());
    run!(pool, placer.try_, slice([basket(2, &[6])]));
    run!(pool, placer.confirm, slice([basket(2, &[6])]));
    let back_at = |step| {
        let back = |coupon_id, order_id, shop_id| {
            let back = events::CouponGivenBack { coupon_id, order_id, shop_id, step, ..Default::default() };
            Payload::CouponGivenBack(back)
        };
        [back(5, 1, 0), back(6, 2, 3)]
    };
    let used_at = |step| {
        let basket = events::CouponUsed {
            coupon_id: 6,
            order_id: 2,
            discount_cents: 100,
            shop_id: 3,
            step,
            ..Default::default()
        };
        [used_at(step, 5, 1, 500), Payload::CouponUsed(basket)]
    };
    let uses = async || -> Vec<i64> {
        let sql = "SELECT coupon_use FROM orders WHERE coupon_id = 5 UNION ALL SELECT coupon_use FROM basket_coupon";
        sqlx::query_scalar(sql).fetch_all(&pool).await.expect("the tables are there")
    };
    told(&pool, back_at(7)).await.expect("they are theirs");
    assert_eq!(uses().await, [2, 2]);
    told(&pool, used_at(6)).await.expect("it is taken, and is late");
    assert_eq!(uses().await, [2, 2]);
    told(&pool, used_at(9).into_iter().chain(back_at(7))).await.expect("they are theirs");
    assert_eq!(uses().await, [1, 1]);
}

/// The same of a basket of shop 3.
fn used_of(coupon_id: i64, order_id: i64, discount_cents: i64) -> Payload {
    let used = events::CouponUsed { coupon_id, order_id, discount_cents, shop_id: 3, ..events::CouponUsed::default() };
    Payload::CouponUsed(used)
}

/// User 7's order of shop 3 for 2,000 with these coupons, each for 100.
fn basket(order_id: i64, coupon_ids: &[i64]) -> pb::PlaceBasket {
    let coupon = |id: &i64| pb::BasketCoupon { coupon_id: *id, discount_cents: 100 };
    let discount_cents = 100 * coupon_ids.len() as i64;
    let coupons = coupon_ids.iter().map(coupon).collect();
    let lines = vec![
        pb::Line { product_id: 1, price_cents: 500, quantity: 2 },
        pb::Line { product_id: 2, price_cents: 1_000, quantity: 1 },
    ];
    let (shop_id, user_id, count, amount_cents, pay_within_s) = (3, 7, 3, 2_000, 0);
    pb::PlaceBasket { order_id, user_id, count, coupons, amount_cents, discount_cents, lines, shop_id, pay_within_s }
}

#[tokio::test]
async fn a_basket_is_placed_or_closed_and_each_of_its_coupons_is_noted() {
    let pool = orders().await;
    let placer = PlaceBasket::<Sqlite>::new(Outbox::off());
    let answers = run!(pool, placer.try_, slice([basket(1, &[5, 6]), basket(2, &[8]), basket(1, &[])]));
    assert_eq!(answers[..2], [Answer::done(), Answer::done()]);
    assert_refused(&answers[2], "ORDER_EXISTS(order_id=1)");
    assert_eq!(coupons(&pool).await.expect("the tables are there"), []);
    run!(pool, placer.confirm, slice([basket(1, &[5, 6])]));
    run!(pool, placer.cancel, slice([basket(2, &[8])]));
    assert_eq!(statuses(&pool).await, [0, 1, 1, 0, 0]);
    assert_eq!(coupons(&pool).await.expect("the tables are there"), [(5, 1), (6, 1)]);
    // What came to nothing may be tried again by its user, once at a time.
    let stranger = pb::PlaceBasket { user_id: 8, ..basket(2, &[]) };
    let answers = run!(pool, placer.try_, slice([stranger, basket(2, &[9, 10]), basket(2, &[11]), basket(1, &[])]));
    assert_eq!(answers[1], Answer::done());
    for at in [0, 2, 3] {
        assert_refused(&answers[at], "ORDER_EXISTS");
    }
    assert_eq!(statuses(&pool).await, [1, 1, 0, 0, 0]);
    run!(pool, placer.confirm, slice([basket(2, &[9, 10])]));
    assert_eq!(coupons(&pool).await.expect("the tables are there"), [(5, 1), (6, 1), (9, 2), (10, 2)]);
    assert_eq!(lines(&pool, Key { shop_id: 3, order_id: 2 }).await.expect("the table is there").len(), 2);

    let unconfirmed = async || audit(&pool).await.expect("the tables are there").unconfirmed;
    told(&pool, [used_of(5, 1, 100)]).await.expect("it is its coupon");
    assert_eq!(unconfirmed().await, 2, "the other is missing, and another order's");
    told(&pool, [used_of(6, 1, 100), used_of(9, 2, 100), used_of(10, 2, 100)]).await.expect("they are their coupons");
    assert_eq!(unconfirmed().await, 0);
    for wrong in [used_of(5, 1, 99), used_of(7, 1, 100), used_of(8, 2, 100), used(5, 1, 100)] {
        assert!(matches!(told(&pool, [wrong]).await, Err(Trouble::Refused(_))));
    }
    let mut db_tx = pool.begin().await.expect("the pool is open");
    let refund = slice([pb::Refund { shop_id: 3, ..refund_of(1) }]);
    let refund = advance_each::<Sqlite>(&mut db_tx, &refund, |_, _| Ok(Status::Refunded)).await;
    let (_, moved) = refund.expect("the statements are sound");
    assert_eq!(moved[0].coupon_ids, [5, 6], "the event of its refund names them");
}

/// Shops number their orders themselves, and no shop learns of another's by that.
#[tokio::test]
async fn two_shops_have_an_order_of_the_same_number() {
    let pool = orders().await;
    let placer = PlaceBasket::<Sqlite>::new(Outbox::off());
    let other = |coupon_ids: &[i64]| pb::PlaceBasket { shop_id: 4, user_id: 8, ..basket(1, coupon_ids) };
    run!(pool, PLACER.try_, slice([place(1, 4)]));
    run!(pool, PLACER.confirm, slice([place(1, 4)]));
    let answers = run!(pool, placer.try_, slice([basket(1, &[5]), other(&[6, 7]), other(&[])]));
    assert_eq!(answers[..2], [Answer::done(), Answer::done()]);
    assert_refused(&answers[2], "ORDER_EXISTS(order_id=1)");
    run!(pool, placer.cancel, slice([basket(1, &[5])]));
    run!(pool, placer.confirm, slice([other(&[6, 7])]));
    assert_eq!(statuses(&pool).await, [0, 2, 1, 0, 0]);
    // What came to nothing is begun again without the other one.
    assert_eq!(run!(pool, placer.try_, slice([basket(1, &[8])])), [Answer::done()]);
    run!(pool, placer.confirm, slice([basket(1, &[8])]));
    assert_eq!(coupons(&pool).await.expect("the tables are there"), [(4, 1), (6, 1), (7, 1), (8, 1)]);
    let of_4 = |shop_id| slice([pb::Refund { shop_id, ..refund_of(1) }]);
    assert_eq!(run!(pool, REFUNDER.try_, of_4(4)), [Answer::done()]);
    assert_eq!(run!(pool, REFUNDER.try_, of_4(4)), [Answer::not_now(FROZEN_DELAY)]);
    assert_refused(&run!(pool, REFUNDER.try_, of_4(5))[0], "order 1 of shop 5 does not exist");
    assert_eq!(coupons(&pool).await.expect("the tables are there"), [(4, 1), (8, 1)]);
}

/// What is told is committed with what is done, and with nothing else.
#[tokio::test]
async fn what_happens_to_an_order_is_told_with_it() {
    let pool = orders().await;
    let outbox = Outbox::open(std::slice::from_ref(&pool)).await.expect("the schema is sound");
    let (placer, refunder) = (Place::<Sqlite>::new(outbox.clone()), Refund::<Sqlite>::new(outbox.clone()));
    run!(pool, placer.try_, slice([place(1, 5), place(2, 0), place(3, 0)]));
    run!(pool, placer.confirm, slice([place(1, 5), place(2, 0)]));
    run!(pool, placer.cancel, slice([place(3, 0)]));
    let paid = pb::Paid { order_id: 1, user_id: 7, paid_cents: 1_500, shop_id: 0 };
    for commits in [false, true] {
        let mut db_tx = pool.begin().await.expect("the pool is open");
        pay::<Sqlite>(&mut db_tx, &outbox, &paid).await.expect("it is placed");
        if commits {
            db_tx.commit().await.expect("the constraints hold");
        }
    }
    assert_refused(&run!(pool, refunder.try_, refund(3))[0], "order 3 is closed");
    run!(pool, refunder.try_, slice([refund_of(1), refund_of(2)]));
    run!(pool, refunder.cancel, refund(2));
    let rows: Vec<(String, String, Vec<u8>)> =
        sqlx::query_as("SELECT topic, record_key, payload FROM tercet_outbox ORDER BY id")
            .fetch_all(&pool)
            .await
            .expect("the table is there");
    assert!(rows.iter().all(|(topic, key, _)| topic == "order" && key == "7"), "{rows:?}");
    let told = rows.iter().map(|(.., payload)| {
        let event: events::Event = prost::Message::decode(payload.as_slice()).expect("it is one");
        match event.payload {
            Some(Payload::OrderPlaced(placed)) => ("placed", placed.order_id, placed.discount_cents),
            Some(Payload::OrderPaid(paid)) => ("paid", paid.order_id, paid.paid_cents),
            Some(Payload::OrderRefunded(refunded)) => ("refunded", refunded.order_id, refunded.refunded_cents),
            Some(Payload::OrderRefundTakenBack(back)) => ("taken back", back.order_id, back.refunded_cents),
            other => panic!("nobody has told {other:?}"),
        }
    });
    let want = [
        ("placed", 1, 500),
        ("placed", 2, 0),
        ("paid", 1, 1_500),
        ("refunded", 1, 1_500),
        // Nobody had paid it.
        ("refunded", 2, 0),
        ("taken back", 2, 0),
    ];
    assert_eq!(told.collect::<Vec<_>>(), want);
}

#[tokio::test]
async fn what_is_not_paid_in_time_is_found() {
    conformance::what_is_not_paid_in_time_is_found(orders().await).await;
}

#[tokio::test]
async fn what_can_not_be_closed_is_looked_at_later_and_later() {
    conformance::what_can_not_be_closed_is_looked_at_later_and_later(orders().await).await;
}

#[tokio::test]
async fn a_shop_has_its_own_orders() {
    conformance::a_shop_has_its_own_orders(orders().await).await;
}

#[tokio::test]
async fn one_process_has_the_job() {
    conformance::one_has_the_job(orders().await).await;
}

#[tokio::test]
async fn an_order_is_paid_or_closed_and_never_both() {
    conformance::an_order_is_paid_or_closed(orders().await).await;
}

#[tokio::test]
async fn only_for_want_of_payment_a_paid_order_is_kept() {
    let pool = orders().await;
    let placer = PlaceBasket::<Sqlite>::new(Outbox::off());
    let early = pb::PlaceBasket { pay_within_s: 600, ..basket(3, &[]) };
    run!(pool, placer.try_, slice([basket(1, &[]), basket(2, &[]), early.clone()]));
    run!(pool, placer.confirm, slice([basket(1, &[]), basket(2, &[]), early]));
    let mut db_tx = pool.begin().await.expect("the pool is open");
    let payment = Payment {
        key: Key { shop_id: 3, order_id: 1 },
        user_id: 7,
        paid_cents: 2_000,
        payment_id: "p",
        operator: "bob",
    };
    pay::<Sqlite>(&mut db_tx, &Outbox::off(), payment).await.expect("it is placed");
    db_tx.commit().await.expect("the constraints hold");
    let unpaid = |order_id| pb::Refund { shop_id: 3, only_unpaid: true, ..refund_of(order_id) };
    let answers = run!(pool, REFUNDER.try_, slice([unpaid(1), unpaid(2), unpaid(3)]));
    assert_refused(&answers[0], "order 1 of shop 3 is paid");
    assert_eq!(answers[1], Answer::done());
    assert_refused(&answers[2], "order 3 of shop 3 may be paid yet");
    assert_eq!(statuses(&pool).await, [0, 1, 0, 1, 1]);
    let of_anybody = slice([pb::Refund { shop_id: 3, ..refund_of(3) }]);
    assert_eq!(run!(pool, REFUNDER.try_, of_anybody), [Answer::done()], "its shop may");
    let too_long = pb::PlaceBasket { pay_within_s: 1_209_601, ..basket(4, &[]) };
    assert_refused(&run!(pool, placer.try_, slice([too_long]))[0], "pay_within_s is 1209601: it is at most 1209600");
}

#[tokio::test]
async fn what_costs_nothing_is_paid_when_it_is_placed() {
    let pool = orders().await;
    let outbox = Outbox::open(std::slice::from_ref(&pool)).await.expect("the schema is sound");
    let placer = PlaceBasket::<Sqlite>::new(outbox);
    let mut free = pb::PlaceBasket { pay_within_s: 1, discount_cents: 2_000, ..basket(1, &[5]) };
    free.coupons[0].discount_cents = 2_000;
    let dear = pb::PlaceBasket { pay_within_s: 1, ..basket(2, &[6]) };
    for answers in [
        run!(pool, placer.try_, slice([free.clone(), dear.clone()])),
        run!(pool, placer.confirm, slice([free.clone(), dear.clone()])),
    ] {
        assert_eq!(answers, [Answer::done(), Answer::done()]);
    }
    assert_eq!(statuses(&pool).await, [0, 1, 0, 1, 0]);
    let closing: Vec<i64> = sqlx::query_scalar("SELECT order_id FROM orders WHERE close_at_ms IS NOT NULL")
        .fetch_all(&pool)
        .await
        .expect("the table is there");
    assert_eq!(closing, [2], "nobody waits for the money of the other");
    let rows: Vec<Vec<u8>> = sqlx::query_scalar("SELECT payload FROM tercet_outbox ORDER BY id")
        .fetch_all(&pool)
        .await
        .expect("the table is there");
    let told = rows.iter().map(|payload| {
        let event: events::Event = prost::Message::decode(payload.as_slice()).expect("it is one");
        match event.payload {
            Some(Payload::OrderPlaced(placed)) => ("placed", placed.order_id, placed.amount_cents),
            Some(Payload::OrderPaid(paid)) => ("paid", paid.order_id, paid.paid_cents),
            other => panic!("nobody has told {other:?}"),
        }
    });
    assert_eq!(told.collect::<Vec<_>>(), [("placed", 1, 2_000), ("paid", 1, 0), ("placed", 2, 2_000)]);

    // Whoever says that nothing was paid for it is right, and whoever says another sum is not.
    let mut db_tx = pool.begin().await.expect("the pool is open");
    let key = Key { shop_id: 3, order_id: 1 };
    let nothing = Payment { key, user_id: 7, paid_cents: 0, payment_id: "p", operator: "bob" };
    let again = pay::<Sqlite>(&mut db_tx, &Outbox::off(), nothing).await.expect("it is paid");
    assert!(!again.is_new);
    let much = pay::<Sqlite>(&mut db_tx, &Outbox::off(), Payment { paid_cents: 5, ..nothing }).await;
    assert_eq!(much.expect_err("nothing is due").to_string(), "order 1 of shop 3 costs 0");
}

#[tokio::test]
async fn one_thing_that_costs_nothing_is_paid_when_it_is_placed() {
    let pool = orders().await;
    let outbox = Outbox::open(std::slice::from_ref(&pool)).await.expect("the schema is sound");
    let placer = Place::<Sqlite>::new(outbox);
    let requests = || slice([pb::Place { discount_cents: 2_000, ..place(1, 5) }, place(2, 6)]);
    run!(pool, placer.try_, requests());
    assert_eq!(run!(pool, placer.confirm, requests()), [Answer::done(), Answer::done()]);
    assert_eq!(statuses(&pool).await, [0, 1, 0, 1, 0]);
    let rows: Vec<Vec<u8>> = sqlx::query_scalar("SELECT payload FROM tercet_outbox ORDER BY id")
        .fetch_all(&pool)
        .await
        .expect("the table is there");
    let told = rows.iter().map(|payload| {
        let event: events::Event = prost::Message::decode(payload.as_slice()).expect("it is one");
        match event.payload {
            Some(Payload::OrderPlaced(placed)) => ("placed", placed.order_id),
            Some(Payload::OrderPaid(paid)) => ("paid", paid.order_id),
            other => panic!("nobody has told {other:?}"),
        }
    });
    assert_eq!(told.collect::<Vec<_>>(), [("placed", 1), ("paid", 1), ("placed", 2)]);
    // Whoever says so over the message of payments is right, and changes nothing.
    let mut db_tx = pool.begin().await.expect("the pool is open");
    let nothing = pb::Paid { order_id: 1, user_id: 7, paid_cents: 0, shop_id: 0 };
    assert!(!pay::<Sqlite>(&mut db_tx, &Outbox::off(), &nothing).await.expect("it is paid").is_new);
}

tercet_testing::conformance! {
    place_conforms: conformance::place::<Sqlite>();
    place_basket_conforms: conformance::place_basket::<Sqlite>();
    refund_conforms: conformance::refund::<Sqlite>();
    settle_refund_conforms: conformance::settle_refund::<Sqlite>();
}
