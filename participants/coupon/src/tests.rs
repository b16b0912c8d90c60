//! The business rule on SQLite, by slices in a local transaction, on shards of four tables.

use std::sync::Arc;

use prost::Message as _;
use sqlx::Sqlite;
use sqlx::sqlite::SqlitePoolOptions;
use tercet::context::Context;
use tercet::participant::{
    Answer, Op, Participant as _, SliceCompensable as _, SliceParticipant as _, SliceReceiver as _,
};
use tercet::xid::Xid;
use tercet_events::event::Payload;
use tercet_events::outbox::Outbox;
use tercet_rules::Code;
use tercet_shards::ShardMap;

use super::redeem::{LOCKED_DELAY, unusable};
use super::slots::Slots;
use super::store::batches::{Lists as _, State};
use super::store::{Coupon, Status};
use super::*;

type Claimer = Claim<Sqlite>;
type Redeemer = Redeem<Sqlite>;
type GiverBack = GiveBack<Sqlite>;
type PaidReceiver = Paid<Sqlite>;

/// One database in memory.
async fn coupons() -> Shards<Sqlite> {
    let options = SqlitePoolOptions::new().max_connections(1);
    let pool = options.connect("sqlite::memory:").await.expect("memory is there");
    let map = ShardMap::even(1, 4).expect("the counts are within their limits");
    let shards = Shards::new(map, vec![pool]).expect("it is one database");
    shards.migrate().await.expect("the schema is sound");
    shards
}

fn slice<R, const N: usize>(requests: [R; N]) -> Vec<Op<R>> {
    let context = Context { xid: Xid::new([0; 16]), branch: 0, not_after_ms: u64::MAX };
    requests.map(|request| Op { context, traceparent: String::new(), request }).into()
}

/// Claims of (number, template, user), of which a user may have two of a template.
fn claims<const N: usize>(rows: [(i64, i64, i64); N]) -> Vec<Op<pb::Claim>> {
    slice(rows.map(|(number, template_id, user_id)| claim_by_hand(number, user_id, template_id, 2)))
}

fn id(number: i64, user_id: i64) -> i64 {
    Slot::of_user(user_id).id(number)
}

fn redeem(coupon_id: i64, user_id: i64, order_id: i64, amount_cents: i64) -> pb::Redeem {
    let (shop_id, operator) = (9, "bob".to_owned());
    pb::Redeem { coupon_id, user_id, order_id, amount_cents, discount_cents: 500, shop_id, operator }
}

/// Of user 7's coupon 1, by this order.
fn give_back(order_id: i64) -> Vec<Op<pb::GiveBack>> {
    slice([pb::GiveBack { coupon_id: id(1, 7), order_id, discount_cents: 500, shop_id: 9, amount_cents: 2_000 }])
}

/// Pending, issued, locked, used and expired; the rest of the audit has to hold.
async fn statuses(shards: &Shards<Sqlite>) -> [i64; 5] {
    let totals = audit(shards).await.expect("the tables are there");
    assert_eq!((totals.miscounted, totals.over_limit), (0, 0), "{totals:?}");
    [totals.pending, totals.issued, totals.locked, totals.used, totals.expired]
}

macro_rules! run {
    ($shards:expr, $handler:ident.$operation:ident, $slice:expr) => {{
        let handler = $handler::new($shards.slots());
        let mut db_tx = $shards.home().begin().await.expect("the pool is open");
        let answers = handler.$operation(&mut db_tx, &$slice).await.expect("the statements are sound");
        db_tx.commit().await.expect("the constraints hold");
        answers
    }};
}

/// User 7's coupon `number`, issued.
macro_rules! issued {
    ($shards:expr, $number:literal) => {{
        run!($shards, Claimer.try_, claims([($number, 1, 7)]));
        run!($shards, Claimer.confirm, claims([($number, 1, 7)]));
    }};
}

#[track_caller]
fn assert_refused(answer: &Answer, reason: &str) {
    assert!(matches!(answer, Answer::Refused(found) if found.contains(reason)), "{answer:?} for {reason:?}");
}

#[tokio::test]
async fn a_user_gets_no_more_than_the_limit_in_one_slice_or_in_several() {
    let shards = coupons().await;
    let answers = run!(shards, Claimer.try_, claims([(1, 1, 7), (2, 1, 8), (3, 1, 7), (4, 1, 7), (5, 1, 8)]));
    assert_refused(&answers[3], "PER_USER_LIMIT(final=false,limit=2): Each user may claim 2");
    assert_eq!(answers.iter().filter(|answer| **answer == Answer::done()).count(), 4);
    let answers = run!(shards, Claimer.try_, claims([(6, 1, 8), (7, 1, 9)]));
    assert_refused(&answers[0], "final=false");
    assert_eq!(answers[1], Answer::done());
    assert_eq!(statuses(&shards).await, [5, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_key_names_one_coupon_of_its_user_in_one_slice_or_in_several() {
    let shards = coupons().await;
    let table = |user_id| shards.map().table(Slot::of_user(user_id));
    let neighbour = (8..).find(|user_id| table(*user_id) == table(7)).expect("there are many");
    let keyed = |number, user_id| pb::Claim { key: 5, ..claim_by_hand(number, user_id, 1, 1) };
    let answers = run!(shards, Claimer.try_, slice([keyed(1, 7), keyed(2, 7), keyed(3, neighbour)]));
    assert_eq!((&answers[0], &answers[2]), (&Answer::done(), &Answer::done()), "each user has his own keys");
    // Before the limit, which it has reached.
    let wanted = format!("KEY_REUSED(coupon_id={})", id(1, 7));
    assert_refused(&answers[1], &wanted);
    assert_refused(&run!(shards, Claimer.try_, slice([keyed(4, 7)]))[0], &wanted);
    assert_eq!(statuses(&shards).await, [2, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_limit_is_final_when_nothing_is_left_that_could_be_cancelled() {
    let shards = coupons().await;
    run!(shards, Claimer.try_, claims([(1, 1, 7), (2, 1, 7)]));
    run!(shards, Claimer.confirm, claims([(1, 1, 7)]));
    assert_refused(&run!(shards, Claimer.try_, claims([(3, 1, 7)]))[0], "final=false");
    run!(shards, Claimer.confirm, claims([(2, 1, 7)]));
    assert_refused(&run!(shards, Claimer.try_, claims([(3, 1, 7)]))[0], "final=true");
    // Of another template one may be under way all the same.
    run!(shards, Claimer.try_, claims([(4, 2, 7)]));
    assert_refused(&run!(shards, Claimer.try_, claims([(3, 1, 7)]))[0], "final=true");
}

#[tokio::test]
async fn a_day_has_its_own_limit_and_a_day_that_is_over_comes_not_back() {
    let shards = coupons().await;
    let on = |day, numbers: [i64; 2]| {
        slice(numbers.map(|number| pb::Claim { per_user_day: 1, day, ..claim_by_hand(number, 7, 1, 9) }))
    };
    let answers = run!(shards, Claimer.try_, on(100, [1, 2]));
    assert_refused(&answers[1], "PER_USER_DAY_LIMIT");
    let answers = run!(shards, Claimer.try_, on(101, [3, 4]));
    assert_eq!(answers[0], Answer::done());
    // From a service whose clock is behind: it counts for the later day.
    assert_refused(&run!(shards, Claimer.try_, on(100, [5, 6]))[0], "PER_USER_DAY_LIMIT");
    run!(shards, Claimer.cancel, on(101, [3, 4])[..1]);
    assert_eq!(run!(shards, Claimer.try_, on(101, [7, 8]))[0], Answer::done());
    // What was claimed on a day that is over is taken from no other day.
    run!(shards, Claimer.cancel, on(100, [1, 2])[..1]);
    assert_refused(&run!(shards, Claimer.try_, on(101, [9, 10]))[0], "PER_USER_DAY_LIMIT");
    assert_eq!(statuses(&shards).await, [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn what_is_claimed_by_a_clock_that_is_behind_counts_for_the_latest_day() {
    let shards = coupons().await;
    let on = |day, number| slice([pb::Claim { per_user_day: 2, day, ..claim_by_hand(number, 7, 1, 9) }]);
    for (day, number) in [(101, 1), (100, 2)] {
        assert_eq!(run!(shards, Claimer.try_, on(day, number)), [Answer::done()]);
    }
    assert_refused(&run!(shards, Claimer.try_, on(101, 3))[0], "PER_USER_DAY_LIMIT");
}

#[tokio::test]
async fn a_bad_claim_is_refused_by_field_and_limit() {
    let shards = coupons().await;
    let claim = claim_by_hand(1, 7, 1, 2);
    let answers = run!(
        shards,
        Claimer.try_,
        slice([
            pb::Claim { coupon_id: 0, ..claim },
            pb::Claim { template_id: -1, ..claim },
            pb::Claim { user_id: -7, ..claim },
            pb::Claim { user_id: 8, ..claim },
            claim,
            claim,
        ])
    );
    assert_refused(&answers[0], "coupon_id is 0: it is at least 1");
    assert_refused(&answers[1], "template_id is -1");
    assert_refused(&answers[2], "user_id is -7");
    assert_refused(&answers[3], "does not carry the slot of user 8");
    assert_eq!(answers[4], Answer::done());
    assert_refused(&answers[5], &format!("coupon {} exists", claim.coupon_id));
    assert_refused(&run!(shards, Claimer.try_, slice([claim]))[0], "exists");
    assert_eq!(statuses(&shards).await, [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_coupon_is_redeemed_by_one_order_alone() {
    let shards = coupons().await;
    issued!(shards, 1);
    let both = slice([redeem(id(1, 7), 7, 100, 2_000), redeem(id(1, 7), 7, 101, 2_000)]);
    let answers = run!(shards, Redeemer.try_, both);
    assert_eq!(answers[0], Answer::done());
    assert_refused(&answers[1], "COUPON_TAKEN");
    assert_eq!(statuses(&shards).await, [0, 0, 1, 0, 0]);
    assert_refused(&run!(shards, Redeemer.try_, slice([redeem(id(1, 7), 7, 102, 2_000)]))[0], "it is locked");
    run!(shards, Redeemer.confirm, slice([redeem(id(1, 7), 7, 100, 2_000)]));
    assert_eq!(statuses(&shards).await, [0, 0, 0, 1, 0]);
    assert_eq!(used(&shards).await.expect("the tables are there"), [(id(1, 7), 100)]);
}

#[tokio::test]
async fn owner_spend_time_and_promise_are_checked() {
    let shards = coupons().await;
    issued!(shards, 1);
    run!(shards, Claimer.try_, claims([(3, 1, 7)]));
    let ended = pb::Claim { valid_until_ms: 1, ..claim_by_hand(2, 8, 1, 2) };
    let to_come = pb::Claim { valid_from_ms: ended.valid_until_ms + (1 << 45), ..claim_by_hand(5, 8, 1, 2) };
    seed_coupons(&shards, &[ended, to_come]).await.expect("they are new");
    let refusals = [
        (redeem(id(1, 7), 8, 100, 5_000), "NOT_FOUND"),
        (redeem(id(1, 7), 7, 100, 499), "amount_cents is 499: it is at least 500"),
        (redeem(ended.coupon_id, 8, 100, 5_000), "EXPIRED"),
        (redeem(to_come.coupon_id, 8, 100, 5_000), "NOT_YET_VALID"),
        (redeem(id(3, 7), 7, 100, 5_000), "it is claiming"),
        (redeem(id(4, 7), 7, 100, 5_000), "NOT_FOUND"),
        (redeem(id(1, 7), 7, 0, 5_000), "order_id is 0"),
        (pb::Redeem { discount_cents: -1, ..redeem(id(1, 7), 7, 100, 5_000) }, "discount_cents is -1"),
    ];
    for (request, reason) in refusals {
        assert_refused(&run!(shards, Redeemer.try_, slice([request]))[0], reason);
    }
    assert_eq!(statuses(&shards).await, [1, 3, 0, 0, 0]);
}

#[test]
fn a_coupon_may_be_used_from_its_first_moment_to_before_its_end() {
    let coupon = Coupon {
        coupon_id: 1,
        user_id: 7,
        template_id: 1,
        version: 1,
        status: Status::Issued,
        order: None,
        claimed_ms: 100,
        valid_from_ms: 100,
        valid_until_ms: 200,
        used_ms: None,
        step: 0,
    };
    let code = |now_ms| unusable(&coupon, now_ms).map(|fault| fault.code);
    assert_eq!([99, 100, 199, 200].map(code), [Some(Code::NotYetValid), None, None, Some(Code::Expired)]);
}

#[tokio::test]
async fn a_coupon_whose_time_ended_while_it_was_locked_is_expired_when_it_is_released() {
    let shards = coupons().await;
    issued!(shards, 1);
    let request = || slice([redeem(id(1, 7), 7, 100, 2_000)]);
    run!(shards, Redeemer.try_, request());
    let end = "UPDATE coupon_000 SET valid_until_ms = 1; UPDATE coupon_001 SET valid_until_ms = 1;
        UPDATE coupon_002 SET valid_until_ms = 1; UPDATE coupon_003 SET valid_until_ms = 1";
    sqlx::raw_sql(end).execute(shards.home()).await.expect("the tables are there");
    let outbox = Outbox::open(shards.pools()).await.expect("the schema is sound");
    let mut db_tx = shards.home().begin().await.expect("the pool is open");
    let redeemer = Redeemer::new(shards.slots()).telling(outbox);
    redeemer.cancel(&mut db_tx, &request()).await.expect("the statements are sound");
    db_tx.commit().await.expect("the constraints hold");
    assert_eq!(statuses(&shards).await, [0, 0, 0, 0, 1]);
    let told = told(&shards).await;
    let [(7, Some(Payload::CouponExpired(event)))] = &told[..] else { panic!("{told:?}") };
    assert_eq!(event.coupon_id, id(1, 7));
    assert_refused(&run!(shards, Redeemer.try_, request())[0], "EXPIRED");
}

#[tokio::test]
async fn only_the_order_that_used_a_coupon_gives_it_back() {
    let shards = coupons().await;
    issued!(shards, 1);
    assert_refused(&run!(shards, GiverBack.try_, give_back(100))[0], "order 100 of shop 9 did not use coupon");
    run!(shards, Redeemer.try_, slice([redeem(id(1, 7), 7, 100, 2_000)]));
    assert_refused(&run!(shards, GiverBack.try_, give_back(100))[0], "did not use");
    run!(shards, Redeemer.confirm, slice([redeem(id(1, 7), 7, 100, 2_000)]));
    assert_refused(&run!(shards, GiverBack.try_, give_back(101))[0], "did not use");
    let less = slice([pb::GiveBack { discount_cents: 499, ..give_back(100)[0].request }]);
    assert_refused(&run!(shards, GiverBack.try_, less)[0], "did not use");
    let others = slice([pb::GiveBack { shop_id: 10, ..give_back(100)[0].request }]);
    assert_refused(&run!(shards, GiverBack.try_, others)[0], "order 100 of shop 10 did not use");
    assert_eq!(run!(shards, GiverBack.try_, give_back(100)), [Answer::done()]);
    assert_eq!(statuses(&shards).await, [0, 1, 0, 0, 0]);
    assert_eq!(run!(shards, GiverBack.cancel, give_back(100)), [Answer::done()]);
    assert_eq!(used(&shards).await.expect("the tables are there"), [(id(1, 7), 100)]);
    assert_eq!(run!(shards, GiverBack.try_, give_back(100)), [Answer::done()], "it is used for as much as before");
    // One that was voided meanwhile is the order's again too.
    let mut connection = shards.home().acquire().await.expect("the pool is open");
    store::void::<Sqlite>(&mut connection, shards.map(), id(1, 7)).await.expect("it is issued");
    store::void::<Sqlite>(&mut connection, shards.map(), id(1, 7)).await.expect_err("it is voided");
    drop(connection);
    assert_refused(&run!(shards, Redeemer.try_, slice([redeem(id(1, 7), 7, 101, 2_000)]))[0], "COUPON_VOIDED");
    assert_eq!(run!(shards, GiverBack.cancel, give_back(100)), [Answer::done()]);
    assert_eq!(used(&shards).await.expect("the tables are there"), [(id(1, 7), 100)]);
    assert_eq!(run!(shards, GiverBack.try_, give_back(100)), [Answer::done()]);
    assert_eq!(statuses(&shards).await, [0, 0, 0, 0, 1], "the next refund does not undo the void");
    assert_refused(&run!(shards, Redeemer.try_, slice([redeem(id(1, 7), 7, 101, 2_000)]))[0], "EXPIRED");
}

#[tokio::test]
async fn a_compensation_waits_for_a_lock_and_calls_a_person_when_the_coupon_is_gone() {
    let shards = coupons().await;
    issued!(shards, 1);
    run!(shards, Redeemer.try_, slice([redeem(id(1, 7), 7, 100, 2_000)]));
    run!(shards, Redeemer.confirm, slice([redeem(id(1, 7), 7, 100, 2_000)]));
    run!(shards, GiverBack.try_, give_back(100));
    run!(shards, Redeemer.try_, slice([redeem(id(1, 7), 7, 101, 2_000)]));
    assert_eq!(run!(shards, GiverBack.cancel, give_back(100)), [Answer::not_now(LOCKED_DELAY)]);
    run!(shards, Redeemer.confirm, slice([redeem(id(1, 7), 7, 101, 2_000)]));
    assert_refused(&run!(shards, GiverBack.cancel, give_back(100))[0], "another order than 100");
}

#[tokio::test]
async fn a_notice_that_comes_by_two_messages_is_kept_once() {
    let shards = coupons().await;
    let notice = |shop_id, order_id, paid_cents| PaidNotice { shop_id, order_id, user_id: 7, paid_cents };
    let first = slice([notice(0, 2, 1_500), notice(0, 1, 1_500)]);
    assert_eq!(run!(shards, PaidReceiver.deliver, first), [Answer::done(), Answer::done()]);
    // Another message about an order says nothing new; the orders of two shops may have the same number.
    let second = slice([notice(4, 1, 700), notice(0, 1, 1_500), notice(3, 1, 600)]);
    assert_eq!(run!(shards, PaidReceiver.deliver, second), [Answer::done(), Answer::done(), Answer::done()]);
    assert_refused(&run!(shards, PaidReceiver.deliver, slice([notice(0, 0, 1)]))[0], "order_id is 0");
    assert_refused(&run!(shards, PaidReceiver.deliver, slice([notice(-1, 1, 1)]))[0], "shop_id is -1");
    let all = "SELECT shop_id, order_id, paid_cents FROM paid_notice ORDER BY order_id, shop_id";
    let all: Vec<(i64, i64, i64)> = sqlx::query_as(all).fetch_all(shards.home()).await.expect("the table is there");
    assert_eq!(all, [(0, 1, 1_500), (3, 1, 600), (4, 1, 700), (0, 2, 1_500)]);
}

#[tokio::test]
async fn the_database_itself_refuses_to_use_a_coupon_twice() {
    let shards = coupons().await;
    issued!(shards, 1);
    let mut db_tx = shards.home().begin().await.expect("the pool is open");
    let redeemer = Redeemer::new(shards.slots());
    let error =
        redeemer.confirm(&mut db_tx, &slice([redeem(id(1, 7), 7, 100, 500)])).await.expect_err("it is not locked");
    assert!(matches!(error, sqlx::Error::RowNotFound), "{error}");
}

#[tokio::test]
async fn the_database_itself_refuses_to_delete_an_issued_coupon() {
    let shards = coupons().await;
    issued!(shards, 1);
    let mut db_tx = shards.home().begin().await.expect("the pool is open");
    let error =
        Claimer::new(shards.slots()).cancel(&mut db_tx, &claims([(1, 1, 7)])).await.expect_err("it is not pending");
    assert!(matches!(error, sqlx::Error::RowNotFound), "{error}");
}

#[tokio::test]
async fn a_start_with_another_number_of_tables_fails_before_it_looks_in_the_wrong_ones() {
    let shards = coupons().await;
    let map = ShardMap::even(1, 8).expect("the counts are within their limits");
    let other = Shards::new(map, shards.pools().to_vec()).expect("it is one database");
    let error = other.migrate().await.expect_err("rows would be looked for elsewhere");
    assert!(matches!(error, shards::Error::Tables(0, _)), "{error}");
}

#[tokio::test]
async fn every_request_of_a_user_goes_to_the_database_of_his_slot() {
    let slots = Arc::new(Slots::new("2x4".parse().expect("it is a map")));
    let (claimer, redeemer) = (Claimer::new(&slots), Redeemer::new(&slots));
    let (giver, receiver) = (GiverBack::new(&slots), PaidReceiver::new(&slots));
    for user_id in 1..100 {
        let slot = Slot::of_user(user_id);
        let place = slots.place(slot);
        assert_eq!(place.map(|place| place.database), Some(slot.number() % 2));
        let coupon_id = id(user_id, user_id);
        assert_eq!(claimer.place(&claim_by_hand(user_id, user_id, 1, 1)), place);
        assert_eq!(redeemer.place(&redeem(coupon_id, user_id, 1, 1)), place);
        assert_eq!(giver.place(&pb::GiveBack { coupon_id, order_id: 1, ..pb::GiveBack::default() }), place);
        assert_eq!(receiver.place(&PaidNotice { order_id: 1, user_id, paid_cents: 0, shop_id: 0 }), place);
    }
}

tercet_testing::conformance! {
    open_conforms: conformance::open::<Sqlite>();
    close_conforms: conformance::close::<Sqlite>();
    claim_conforms: conformance::claim::<Sqlite>();
    redeem_conforms: conformance::redeem::<Sqlite>();
    give_back_conforms: conformance::give_back::<Sqlite>();
    honour_conforms: conformance::honour::<Sqlite>();
    owed_conforms: conformance::owed::<Sqlite>();
    take_back_conforms: conformance::take_back::<Sqlite>();
    paid_conforms: conformance::paid::<Sqlite>();
}

/// What waits in the outbox, in its order: who, and what.
async fn told(shards: &Shards<Sqlite>) -> Vec<(i64, Option<Payload>)> {
    let payloads: Vec<Vec<u8>> = sqlx::query_scalar("SELECT payload FROM tercet_outbox ORDER BY id")
        .fetch_all(shards.home())
        .await
        .expect("the table is there");
    let event = |payload: &Vec<u8>| tercet_proto::events::v1::Event::decode(payload.as_slice()).expect("it is one");
    payloads.iter().map(event).map(|event| (event.user_id, event.payload)).collect()
}

#[tokio::test]
async fn every_step_of_a_coupon_is_told_and_that_it_ended_meanwhile_too() {
    let shards = coupons().await;
    let outbox = Outbox::open(shards.pools()).await.expect("the schema is sound");
    let (slots, slot) = (shards.slots(), |number| id(number, 7));
    let mut db_tx = shards.home().begin().await.expect("the pool is open");
    let claim = Claimer::new(slots).telling(outbox.clone());
    // The second has ended before it is issued.
    let mut ops = claims([(1, 1, 7), (2, 1, 7)]);
    ops[1].request.valid_until_ms = 1;
    claim.try_(&mut db_tx, &ops).await.expect("the statements are sound");
    claim.confirm(&mut db_tx, &ops).await.expect("the statements are sound");
    let redeem_of = Redeemer::new(slots).telling(outbox.clone());
    let order = slice([redeem(slot(1), 7, 100, 2_000)]);
    for cancelled in [true, false] {
        redeem_of.try_(&mut db_tx, &order).await.expect("the statements are sound");
        if cancelled {
            redeem_of.cancel(&mut db_tx, &order).await.expect("the statements are sound");
        }
    }
    redeem_of.confirm(&mut db_tx, &order).await.expect("the statements are sound");
    let table = format!(
        "UPDATE coupon_{:03} SET valid_until_ms = 1 WHERE coupon_id = {}",
        shards.map().table(Slot::of_user(7)),
        slot(1)
    );
    sqlx::query(sqlx::AssertSqlSafe(table)).execute(&mut *db_tx).await.expect("the table is there");
    let back = GiverBack::new(slots).telling(outbox);
    back.try_(&mut db_tx, &give_back(100)).await.expect("the statements are sound");
    back.cancel(&mut db_tx, &give_back(100)).await.expect("the statements are sound");
    db_tx.commit().await.expect("the constraints hold");

    let word = |(user_id, payload): (i64, Option<Payload>)| match payload {
        Some(Payload::CouponIssued(event)) => (user_id, "issued", event.coupon_id, 0),
        Some(Payload::CouponUsed(event)) if event.operator.is_empty() => {
            (user_id, "used again", event.coupon_id, event.order_id)
        }
        Some(Payload::CouponUsed(event)) => {
            assert_eq!((event.shop_id, &*event.operator), (9, "bob"));
            (user_id, "used", event.coupon_id, event.order_id)
        }
        Some(Payload::CouponGivenBack(event)) => (user_id, "given back", event.coupon_id, event.order_id),
        Some(Payload::CouponExpired(event)) => (user_id, "expired", event.coupon_id, 0),
        other => panic!("{other:?}"),
    };
    let told = told(&shards).await;
    let step = |(_, payload): &(i64, Option<Payload>)| match payload {
        Some(Payload::CouponIssued(event)) => (event.coupon_id, 0),
        Some(Payload::CouponUsed(event)) => (event.coupon_id, event.step),
        Some(Payload::CouponGivenBack(event)) => (event.coupon_id, event.step),
        Some(Payload::CouponExpired(event)) => (event.coupon_id, event.step),
        other => panic!("{other:?}"),
    };
    let mut steps: Vec<(i64, i64)> = told.iter().map(step).collect();
    steps.sort_by_key(|(coupon_id, _)| *coupon_id);
    assert!(steps.is_sorted_by(|earlier, later| earlier < later), "{steps:?}");
    let words: Vec<_> = told.into_iter().map(word).collect();
    let (one, two) = (slot(1), slot(2));
    let wanted = [
        (7, "issued", one, 0),
        (7, "issued", two, 0),
        (7, "expired", two, 0),
        (7, "used", one, 100),
        (7, "given back", one, 100),
        (7, "expired", one, 0),
        (7, "used again", one, 100),
    ];
    assert_eq!(words, wanted);
}

#[tokio::test]
async fn whom_a_batch_is_for_is_kept_for_as_long_as_somebody_may_go_on_with_it() {
    let shards = coupons().await;
    let mut db_tx = shards.home().begin().await.expect("the pool is open");
    let open = Open::<Sqlite>::telling(Outbox::off());
    // One is done, and of the last nothing came; nor of another, which may be opened just now.
    for batch in 1..=4 {
        Sqlite::keep_users(&mut db_tx, batch, 0, &[7]).await.expect("the table is there");
        if batch <= 2 {
            let request = pb::OpenBatch { batch, batch_id: batch.to_string(), ..pb::OpenBatch::default() };
            open.try_(&mut db_tx, request.clone()).await.expect("the statements are sound");
            open.confirm(&mut db_tx, request).await.expect("the statements are sound");
        }
    }
    <Sqlite as Batches>::step(&mut db_tx, 2, (State::Running, State::Done), "").await.expect("the table is there");
    let old = sqlx::query("UPDATE issue_user SET made_ms = made_ms - 10000 WHERE batch < 4");
    old.execute(&mut *db_tx).await.expect("the table is there");
    Sqlite::drop_old_users(&mut db_tx, 5_000).await.expect("the table is there");
    let left: Vec<i64> = sqlx::query_scalar("SELECT batch FROM issue_user ORDER BY batch")
        .fetch_all(&mut *db_tx)
        .await
        .expect("the table is there");
    assert_eq!(left, [1, 4]);
}

#[tokio::test]
async fn a_batch_that_an_operator_asks_for_is_told_as_his_change() {
    let shards = coupons().await;
    let outbox = Outbox::open(shards.pools()).await.expect("the schema is sound");
    let open = Open::<Sqlite>::telling(outbox);
    let mut db_tx = shards.home().begin().await.expect("the pool is open");
    for (batch, batch_id) in [(1, "spring"), (2, "occasion/7")] {
        let (operator, reason, batch_id) = ("ann".to_owned(), "sale".to_owned(), batch_id.to_owned());
        let request = pb::OpenBatch { batch, batch_id, operator, reason, ..pb::OpenBatch::default() };
        assert_eq!(open.try_(&mut db_tx, request.clone()).await.expect("the statements are sound"), Answer::done());
        assert_eq!(open.confirm(&mut db_tx, request).await.expect("the statements are sound"), Answer::done());
    }
    db_tx.commit().await.expect("the constraints hold");
    let told = told(&shards).await;
    let [(0, Some(Payload::OperatorChange(change)))] = &told[..] else { panic!("{told:?}") };
    let (what, action, operator) = (change.what.as_str(), change.action.as_str(), change.operator.as_str());
    assert_eq!((what, action, operator, change.id), ("batch", "issue", "ann", 1));
}

mod redemptions;
