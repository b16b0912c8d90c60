//! The business rule on SQLite, by slices in a local transaction.

use sqlx::Sqlite;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use tercet::context::Context;
use tercet::xid::Xid;

use super::*;

const CLAIMER: Claim<Sqlite> = Claim(PhantomData);
const REDEEMER: Redeem<Sqlite> = Redeem(PhantomData);
const GIVER_BACK: GiveBack<Sqlite> = GiveBack(PhantomData);

/// Template 1: two for each user, 500 off from 2,000. Template 2: expires at once.
async fn coupons() -> SqlitePool {
    let options = SqlitePoolOptions::new().max_connections(1);
    let pool = options.connect("sqlite::memory:").await.expect("memory is there");
    Sqlite::migrate(&pool).await.expect("the schema is sound");
    let template = |template_id, valid_ms| Template {
        template_id,
        per_user_limit: 2,
        valid_ms,
        minimum_spend_cents: 2_000,
        discount_cents: 500,
    };
    seed_templates(&pool, &[template(1, 3_600_000), template(2, 0)]).await.expect("the templates are sound");
    pool
}

fn slice<R, const N: usize>(requests: [R; N]) -> Vec<Op<R>> {
    let context = Context { xid: Xid::new([0; 16]), branch: 0, not_after_ms: u64::MAX };
    requests.map(|request| Op { context, traceparent: String::new(), request }).into()
}

fn claims<const N: usize>(rows: [(i64, i64, i64); N]) -> Vec<Op<pb::Claim>> {
    slice(rows.map(|(coupon_id, template_id, user_id)| pb::Claim { coupon_id, template_id, user_id }))
}

fn redeem(coupon_id: i64, user_id: i64, order_id: i64, amount_cents: i64) -> pb::Redeem {
    pb::Redeem { coupon_id, user_id, order_id, amount_cents, discount_cents: None }
}

fn give_back(coupon_id: i64, order_id: i64) -> Vec<Op<pb::GiveBack>> {
    slice([pb::GiveBack { coupon_id, order_id }])
}

/// Pending, issued, locked and used; the rest of the audit has to hold.
async fn statuses(pool: &SqlitePool) -> [i64; 4] {
    let totals = audit(pool).await.expect("the tables are there");
    assert_eq!((totals.miscounted, totals.over_limit), (0, 0), "{totals:?}");
    [totals.pending, totals.issued, totals.locked, totals.used]
}

macro_rules! run {
    ($pool:expr, $handler:ident.$operation:ident, $slice:expr) => {{
        let mut db_tx = $pool.begin().await.expect("the pool is open");
        let answers = $handler.$operation(&mut db_tx, &$slice).await.expect("the statements are sound");
        db_tx.commit().await.expect("the constraints hold");
        answers
    }};
}

/// Coupon `id`, issued to user 7.
macro_rules! issued {
    ($pool:expr, $id:literal) => {{
        run!($pool, CLAIMER.try_, claims([($id, 1, 7)]));
        run!($pool, CLAIMER.confirm, claims([($id, 1, 7)]));
    }};
}

#[track_caller]
fn assert_refused(answer: &Answer, reason: &str) {
    assert!(matches!(answer, Answer::Refused(found) if found.contains(reason)), "{answer:?} for {reason:?}");
}

#[tokio::test]
async fn a_user_gets_no_more_than_the_limit_in_one_slice_or_in_several() {
    let pool = coupons().await;
    let answers = run!(pool, CLAIMER.try_, claims([(1, 1, 7), (2, 1, 8), (3, 1, 7), (4, 1, 7), (5, 1, 8)]));
    assert_refused(&answers[3], "user 7 has 2 of template 1");
    assert_eq!(answers.iter().filter(|answer| **answer == Answer::done()).count(), 4);
    let answers = run!(pool, CLAIMER.try_, claims([(6, 1, 8), (7, 1, 9)]));
    assert_refused(&answers[0], "limit");
    assert_eq!(answers[1], Answer::done());
    assert_eq!(statuses(&pool).await, [5, 0, 0, 0]);
}

#[tokio::test]
async fn a_bad_claim_is_refused_by_field_and_limit() {
    let pool = coupons().await;
    let answers =
        run!(pool, CLAIMER.try_, claims([(0, 1, 7), (1, -1, 7), (1, 1, -7), (1, 9, 7), (1, 1, 7), (1, 1, 8)]));
    assert_refused(&answers[0], "coupon_id is 0: it is at least 1");
    assert_refused(&answers[1], "template_id is -1");
    assert_refused(&answers[2], "user_id is -7");
    assert_refused(&answers[3], "template 9 does not exist");
    assert_eq!(answers[4], Answer::done());
    assert_refused(&answers[5], "coupon 1 exists");
    assert_refused(&run!(pool, CLAIMER.try_, claims([(1, 1, 9)]))[0], "coupon 1 exists");
    assert_eq!(statuses(&pool).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn a_coupon_is_redeemed_by_one_order_alone_and_says_what_it_takes_off() {
    let pool = coupons().await;
    issued!(pool, 1);
    let answers = run!(pool, REDEEMER.try_, slice([redeem(1, 7, 100, 2_000), redeem(1, 7, 101, 2_000)]));
    assert_eq!(answers[0], Answer::done_with(pb::Redeemed { discount_cents: 500 }.encode_to_vec()));
    assert_refused(&answers[1], "taken by another order");
    assert_eq!(statuses(&pool).await, [0, 0, 1, 0]);
    assert_refused(&run!(pool, REDEEMER.try_, slice([redeem(1, 7, 102, 2_000)]))[0], "taken");
    run!(pool, REDEEMER.confirm, slice([redeem(1, 7, 100, 2_000)]));
    assert_eq!(statuses(&pool).await, [0, 0, 0, 1]);
    assert_eq!(used(&pool).await.expect("the table is there"), [(1, 100)]);
}

#[tokio::test]
async fn owner_spend_time_and_promise_are_checked() {
    let pool = coupons().await;
    issued!(pool, 1);
    run!(pool, CLAIMER.try_, claims([(2, 2, 7), (3, 1, 7)]));
    run!(pool, CLAIMER.confirm, claims([(2, 2, 7)]));
    let promised = |discount_cents| pb::Redeem { discount_cents, ..redeem(1, 7, 100, 5_000) };
    let refusals = [
        (redeem(1, 8, 100, 5_000), "not user 8's"),
        (redeem(1, 7, 100, 1_999), "amount_cents is 1999: it is at least 2000"),
        (redeem(2, 7, 100, 5_000), "expired"),
        (redeem(3, 7, 100, 5_000), "not issued yet"),
        (redeem(4, 7, 100, 5_000), "coupon 4 does not exist"),
        (redeem(1, 7, 0, 5_000), "order_id is 0"),
        (redeem(1, 7, 100, -1), "amount_cents is -1: it is at least 0"),
        (promised(Some(499)), "discount_cents is not what coupon 1 takes off: 500"),
    ];
    for (request, reason) in refusals {
        assert_refused(&run!(pool, REDEEMER.try_, slice([request]))[0], reason);
    }
    assert_eq!(statuses(&pool).await, [1, 2, 0, 0]);
    assert!(matches!(run!(pool, REDEEMER.try_, slice([promised(Some(500))]))[0], Answer::Done(_)));
}

#[tokio::test]
async fn only_the_order_that_used_a_coupon_gives_it_back() {
    let pool = coupons().await;
    issued!(pool, 1);
    assert_refused(&run!(pool, GIVER_BACK.try_, give_back(1, 100))[0], "order 100 did not use coupon 1");
    run!(pool, REDEEMER.try_, slice([redeem(1, 7, 100, 2_000)]));
    assert_refused(&run!(pool, GIVER_BACK.try_, give_back(1, 100))[0], "did not use");
    run!(pool, REDEEMER.confirm, slice([redeem(1, 7, 100, 2_000)]));
    assert_refused(&run!(pool, GIVER_BACK.try_, give_back(1, 101))[0], "did not use");
    assert_eq!(run!(pool, GIVER_BACK.try_, give_back(1, 100)), [Answer::done()]);
    assert_eq!(statuses(&pool).await, [0, 1, 0, 0]);
    assert_eq!(run!(pool, GIVER_BACK.cancel, give_back(1, 100)), [Answer::done()]);
    assert_eq!(used(&pool).await.expect("the table is there"), [(1, 100)]);
}

#[tokio::test]
async fn a_compensation_waits_for_a_lock_and_calls_a_person_when_the_coupon_is_gone() {
    let pool = coupons().await;
    issued!(pool, 1);
    run!(pool, REDEEMER.try_, slice([redeem(1, 7, 100, 2_000)]));
    run!(pool, REDEEMER.confirm, slice([redeem(1, 7, 100, 2_000)]));
    run!(pool, GIVER_BACK.try_, give_back(1, 100));
    run!(pool, REDEEMER.try_, slice([redeem(1, 7, 101, 2_000)]));
    assert_eq!(run!(pool, GIVER_BACK.cancel, give_back(1, 100)), [Answer::not_now(LOCKED_DELAY)]);
    run!(pool, REDEEMER.confirm, slice([redeem(1, 7, 101, 2_000)]));
    assert_refused(&run!(pool, GIVER_BACK.cancel, give_back(1, 100))[0], "another order than 100");
}

#[tokio::test]
async fn a_notice_that_comes_by_two_messages_is_kept_once() {
    const RECEIVER: Paid<Sqlite> = Paid(PhantomData);
    let pool = coupons().await;
    let notice = |order_id| PaidNotice { order_id, user_id: 7, paid_cents: 1_500 };
    assert_eq!(run!(pool, RECEIVER.deliver, slice([notice(2), notice(1)])), [Answer::done(), Answer::done()]);
    assert_eq!(run!(pool, RECEIVER.deliver, slice([notice(1)])), [Answer::done()]);
    assert_refused(&run!(pool, RECEIVER.deliver, slice([notice(0)]))[0], "order_id is 0");
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM paid_notice").fetch_one(&pool).await.expect("one row");
    assert_eq!(count, 2);
}

#[tokio::test]
async fn the_database_itself_refuses_to_use_a_coupon_twice() {
    let pool = coupons().await;
    issued!(pool, 1);
    let mut db_tx = pool.begin().await.expect("the pool is open");
    let error = REDEEMER.confirm(&mut db_tx, &slice([redeem(1, 7, 100, 0)])).await.expect_err("it is not locked");
    assert!(matches!(error, sqlx::Error::RowNotFound), "{error}");
}

#[tokio::test]
async fn the_database_itself_refuses_to_delete_an_issued_coupon() {
    let pool = coupons().await;
    issued!(pool, 1);
    let mut db_tx = pool.begin().await.expect("the pool is open");
    let error = CLAIMER.cancel(&mut db_tx, &claims([(1, 1, 7)])).await.expect_err("it is not pending");
    assert!(matches!(error, sqlx::Error::RowNotFound), "{error}");
}

tercet_testing::conformance! {
    claim_conforms: conformance::claim::<Sqlite>();
    redeem_conforms: conformance::redeem::<Sqlite>();
    give_back_conforms: conformance::give_back::<Sqlite>();
    paid_conforms: conformance::paid::<Sqlite>();
}
