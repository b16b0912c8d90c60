//! The redemption service over gRPC, with a coordinator, coupons, orders and templates, on shards in SQLite and in a
//! real MariaDB: what is shown, used, refused, kept while the coordinator is away, given up, and given back.

pub(crate) mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use plain::an_order_without_coupons_takes_its_units_and_none_of_the_coupons_of_its_user;
use tercet_coupon::audit;
use tercet_coupon::redemption::Settings;
use tercet_proto::coupon::v1::{self as pb, RedemptionState as State};
use tercet_proto::coupon_template::v1 as templates;
use tercet_rules::limits::TIME_MS_MAX;
use tercet_rules::{Code, Fault, Language};
use tercet_shards::Slot;
use world::{Databases, USER, World, line, on_mariadb, on_sqlite, refund, units, universal, until, wanted};

/// The same test on both.
macro_rules! on_both {
    ($($name:ident;)*) => {
        mod sqlite {$(
            #[tokio::test]
            async fn $name() {
                super::$name(super::on_sqlite().await).await;
            }
        )*}
        mod mariadb {$(
            #[tokio::test]
            async fn $name() {
                let Some(world) = super::on_mariadb().await else { return };
                let pools = world.shards.pools().iter().chain([&world.orders]).cloned();
                let watch = crate::plans::Watch::new(pools.collect::<Vec<_>>());
                super::$name(world).await;
                watch.check().await;
            }
        )*}
    };
}

mod best;
mod plain;
mod trouble;

on_both! {
    each_coupon_is_shown_with_what_it_brings_or_why_it_does_not;
    coupons_are_used_once_at_the_computed_price_and_given_back;
    what_is_refused_has_its_code_and_uses_nothing;
    what_is_asked_for_while_the_coordinator_is_away_is_done_once_when_it_is_back;
    what_is_kept_too_long_is_given_up_never_done_and_owed_until_it_is_made_good;
    what_came_to_nothing_in_time_is_begun_again;
    what_ended_long_ago_is_deleted_and_nothing_else_is;
    shops_number_orders_and_make_keys_beside_each_other;
    an_order_takes_its_units_out_of_stock_and_a_refund_brings_them_back;
    an_order_without_coupons_takes_its_units_and_none_of_the_coupons_of_its_user;
    what_is_more_than_can_be_answered_at_a_time_is_told_at_once_to_come_again;
}

#[track_caller]
fn code<T: std::fmt::Debug>(answer: Result<T, Fault>) -> Code {
    answer.expect_err("it is refused").code
}

#[track_caller]
fn refused(refusal: Option<&pb::Refusal>) -> (Code, &BTreeMap<String, String>) {
    let refusal = refusal.expect("it is refused");
    (Code::from_name(&refusal.code).expect("the catalogue has it"), &refusal.arguments)
}

async fn each_coupon_is_shown_with_what_it_brings_or_why_it_does_not<Db: Databases>(mut world: World<Db>) {
    let group = |off, most| universal(off, most);
    let (small, large) = (world.own(group(300, 2)).await, world.own(group(500, 2)).await);
    let third = world.own(group(200, 2)).await;
    let alone = world.own(universal(700, 0)).await;
    let mut rules = universal(900, 2);
    let step = templates::Step { threshold_cents: 12_050, off_cents: 900 };
    let kind = templates::discount::Kind::FullReduction(templates::FullReduction { steps: vec![step] });
    rules.discount = Some(templates::Discount { kind: Some(kind) });
    let dear = world.own(rules).await;
    let mut rules = universal(900, 2);
    let kind = templates::scope::Kind::Products(templates::Ids { ids: vec![77] });
    rules.scope = Some(templates::Scope { kind: Some(kind) });
    let other_product = world.own(rules).await;
    let template_id = world.template(universal(400, 2)).await;
    let ended = world.coupon(USER, template_id, |claim| claim.valid_until_ms = 1).await;
    let early = world.coupon(USER, template_id, |claim| claim.valid_from_ms = TIME_MS_MAX - 1).await;
    // Another user's, in the same table and in another.
    let slot = Slot::of_user(USER);
    let neighbour = (USER + 1..).find(|user_id| Slot::of_user(*user_id) == slot).expect("there are many");
    let neighbours = world.coupon(neighbour, template_id, |_| {}).await;
    let strangers = world.coupon(8, template_id, |_| {}).await;

    let named = [small, large, third, alone, dear, other_product, ended, early, neighbours, strangers];
    let request = |coupon_ids: &[i64]| pb::ValidateRequest {
        user_id: USER,
        lines: vec![line(10_000)],
        coupon_ids: coupon_ids.into(),
        shop_id: 0,
    };
    let told = world.redemption.validate(request(&named)).await.expect("it is answered").into_inner();
    let ids: Vec<i64> = told.coupons.iter().map(|own| own.coupon_id).collect();
    assert_eq!(ids, named, "in the order of the request");
    let offs: Vec<i64> = told.coupons.iter().map(|own| own.discount_cents).collect();
    assert_eq!(offs, [300, 500, 200, 700, 0, 0, 0, 0, 0, 0]);
    let best = told.best.clone().expect("some apply");
    let taken: Vec<_> = best.deductions.iter().map(|own| (own.coupon_id, own.discount_cents)).collect();
    assert_eq!((taken, best.amount_cents, best.discount_cents), (vec![(small, 300), (large, 500)], 10_000, 800));
    for (at, wanted) in [
        (4, Code::BelowThreshold),
        (5, Code::OutOfScope),
        (6, Code::Expired),
        (7, Code::NotYetValid),
        (8, Code::NotFound),
        (9, Code::NotFound),
    ] {
        let (code, arguments) = refused(told.coupons[at].refusal.as_ref());
        assert_eq!(code, wanted, "{at}");
        let fault = Fault::new(code, arguments.clone());
        let (en, zh) = (fault.text(Language::En), fault.text(Language::Zh));
        assert!(en.is_ascii() && !zh.is_ascii(), "{en} {zh}");
        if code == Code::BelowThreshold {
            assert_eq!((&*en, &*zh), ("The order is 20.50 yuan short of it", "还差 20.50 元可用"));
        }
    }
    for at in [2, 3] {
        assert_eq!(refused(told.coupons[at].left_out.as_ref()).0, Code::NotStackable, "{at}");
    }
    assert_eq!((&told.coupons[0].refusal, &told.coupons[0].left_out), (&None, &None));

    best::of_all_it_is_the_best(world, template_id, large).await;
}

async fn coupons_are_used_once_at_the_computed_price_and_given_back<Db: Databases>(mut world: World<Db>) {
    world.with_orders(&[(1, 100)]).await;
    let (one, two) = (world.own(universal(300, 2)).await, world.own(universal(500, 2)).await);
    let request = wanted("k", 100, &[one, two]);
    // Two at a time are one.
    let (first, second) = tokio::join!(world.redeem(&request), world.redeem(&request));
    for view in [first, second] {
        let view = view.expect("it is granted");
        assert!(view.state() == State::Done || view.state() == State::Kept || view.state() == State::Submitted);
    }
    until("it is done", async || world.get("k").await.state() == State::Done).await;
    let view = world.redeem(&request).await.expect("it is done");
    assert_eq!(view, world.get("k").await);
    let by_another = pb::RedeemRequest { operator: "eve".into(), ..request.clone() };
    assert_eq!(world.redeem(&by_another).await.as_ref(), Ok(&view), "whichever person of the shop asks");
    let done_ms = view.updated_ms;
    let combination = view.combination.expect("what was taken off");
    assert_eq!((combination.amount_cents, combination.discount_cents), (10_000, 800));
    assert_eq!(code(world.redeem(&pb::RedeemRequest { order_id: 101, ..request.clone() }).await), Code::KeyReused);
    world.coordinator.all_ended().await;
    assert_eq!(world.uses().await, (vec![(one, 100), (two, 100)], vec![(one, 100), (two, 100)]));

    let orders = tercet_order::audit(&world.orders).await.expect("the tables are there");
    assert_eq!((orders.placed, orders.frozen, orders.coupons_twice), (1, 0, 0));
    // Another shop's order it is not, and one of its own shop it is.
    let shop = |shop_id| pb::RefundRequest { shop_id, operator: "bob".into(), ..refund(100) };
    assert_eq!(code(world.refund(shop(4)).await), Code::NotFound);
    let told = world.refund(shop(3)).await.expect("it is the shop's");
    assert_eq!((told.state(), &told.returned_coupon_ids), (pb::RefundState::Done, &vec![one, two]));
    assert_eq!(world.refund(refund(100)).await.expect("it is done"), told);
    let view = world.get("k").await;
    assert!(view.state() == State::Refunded && view.updated_ms > done_ms, "{view:?}");
    assert_eq!(world.uses().await, (vec![], vec![]));

    // Used again, for another order; by its refund the time of one has ended.
    let again = world.redeem(&wanted("k2", 102, &[two])).await.expect("it is free again");
    assert_eq!(again.state(), State::Done);
    world.end_coupons().await;
    let told = world.refund(refund(102)).await.expect("it is done");
    assert_eq!((told.state(), told.returned_coupon_ids.len()), (pb::RefundState::Done, 0));
    let totals = audit(&world.shards).await.expect("the tables are there");
    assert_eq!((totals.issued, totals.used, totals.expired), (1, 0, 1));
    let orders = tercet_order::audit(&world.orders).await.expect("the tables are there");
    assert_eq!((orders.placed, orders.refunded), (0, 2));
}

async fn what_is_refused_has_its_code_and_uses_nothing<Db: Databases>(mut world: World<Db>) {
    world.with_orders(&[(1, 100)]).await;
    let (one, two) = (world.own(universal(300, 2)).await, world.own(universal(500, 2)).await);
    let alone = world.own(universal(700, 0)).await;
    let template_id = world.template(universal(400, 2)).await;
    let strangers = world.coupon(8, template_id, |_| {}).await;
    let ended = world.coupon(USER, template_id, |claim| claim.valid_until_ms = 1).await;
    for (request, wanted, field) in [
        (wanted("k", 1, &[strangers]), Code::NotFound, None),
        (wanted("k", 1, &[one, strangers]), Code::NotFound, None),
        (wanted("k", 1, &[ended]), Code::Expired, None),
        (wanted("k", 1, &[one, alone]), Code::NotStackable, None),
        (pb::RedeemRequest { discount_cents: Some(301), ..wanted("k", 1, &[one]) }, Code::AmountChanged, None),
        (
            pb::RedeemRequest { lines: vec![pb::OrderLine { shop_id: 4, ..line(10_000) }], ..wanted("k", 1, &[one]) },
            Code::OtherShop,
            None,
        ),
        // The first makes the order free.
        (pb::RedeemRequest { lines: vec![line(200)], ..wanted("k", 1, &[one, two]) }, Code::NoGain, None),
        (wanted("", 1, &[one]), Code::Invalid, Some("idempotency_key")),
        (wanted("k", 0, &[one]), Code::Invalid, Some("order_id")),
        (wanted("k", 1, &(1..=21).collect::<Vec<_>>()), Code::Invalid, Some("coupon_ids")),
        (wanted("k", 1, &[one, one]), Code::Invalid, Some("coupon_ids[1]")),
        (pb::RedeemRequest { lines: vec![], ..wanted("k", 1, &[one]) }, Code::Invalid, Some("lines")),
        (
            pb::RedeemRequest { lines: vec![line(1), line(-1)], ..wanted("k", 1, &[one]) },
            Code::Invalid,
            Some("lines[1].price_cents"),
        ),
    ] {
        let fault = world.redeem(&request).await.expect_err("it is refused");
        assert_eq!((fault.code, fault.argument("field")), (wanted, field), "{request:?}");
    }
    let missing = world.redemption.get_redemption(world::by_key("k")).await.expect_err("nothing was kept");
    assert_eq!(world::fault(&missing).code, Code::NotFound);
    assert_eq!(code(world.refund(refund(1)).await), Code::NotFound);

    // What only the transaction finds is kept under its key.
    world.redeem(&wanted("first", 1, &[one])).await.expect("it is granted");
    for _ in 0..2 {
        assert_eq!(code(world.redeem(&wanted("second", 1, &[two])).await), Code::OrderExists);
    }
    let view = world.get("second").await;
    assert_eq!((view.state(), refused(view.refusal.as_ref()).0), (State::Refused, Code::OrderExists));
    assert_eq!(code(world.redeem(&wanted("third", 2, &[one])).await), Code::CouponTaken);
    world.coordinator.all_ended().await;
    assert_eq!(world.uses().await, (vec![(one, 1)], vec![(one, 1)]));
    let totals = audit(&world.shards).await.expect("the tables are there");
    assert_eq!((totals.locked, totals.used), (0, 1));
}

async fn what_is_asked_for_while_the_coordinator_is_away_is_done_once_when_it_is_back<Db: Databases>(
    mut world: World<Db>,
) {
    world.with_orders(&[(1, 100)]).await;
    let (one, two) = (world.own(universal(300, 2)).await, world.own(universal(500, 2)).await);
    world.redeem(&wanted("before", 1, &[one])).await.expect("it is granted");
    world.coordinator.crash().await;
    for (key, order_id) in [("k", 2), ("rival", 3)] {
        let kept = world.redeem(&wanted(key, order_id, &[two])).await.expect("it is kept");
        assert_eq!(kept.state(), State::Kept, "{key}");
        assert_eq!(kept.combination.as_ref().map(|own| own.discount_cents), Some(500));
        let again = world.redeem(&wanted(key, order_id, &[two])).await.expect("it is kept");
        assert_eq!((again.state(), world.get(key).await.state()), (State::Kept, State::Kept));
        assert_eq!(code(world.refund(refund(order_id)).await), Code::SystemBusy, "it may be placed yet");
    }
    // What needs no coordinator goes on.
    let (lines, coupon_ids) = (vec![line(10_000)], vec![two]);
    let request = pb::ValidateRequest { user_id: USER, lines, coupon_ids, shop_id: 0 };
    let told = world.redemption.validate(request).await.expect("it is answered").into_inner();
    assert_eq!(told.best.map(|best| best.discount_cents), Some(500), "nothing is used yet");
    world.coordinator.start_again().await;
    until("both have ended", async || {
        let (one, other) = (world.get("k").await.state(), world.get("rival").await.state());
        [one, other].iter().all(|state| *state == State::Done || *state == State::Refused)
    })
    .await;
    let (one_of, other) = (world.get("k").await, world.get("rival").await);
    let (done, refusal) = if one_of.state() == State::Done { (one_of, other) } else { (other, one_of) };
    assert_eq!((done.state(), refused(refusal.refusal.as_ref()).0), (State::Done, Code::CouponTaken));
    // Its user was told that it would be done.
    until("the other is owed", async || world.compensations().await == [(Some(two), 0)]).await;
    until("all the rest has ended", async || world.coordinator.unfinished().await.len() == 1).await;
    let mut uses = vec![(one, 1), (two, done.order_id)];
    uses.sort_unstable();
    assert_eq!(world.uses().await, (uses.clone(), uses), "once each");
}

async fn what_is_kept_too_long_is_given_up_never_done_and_owed_until_it_is_made_good<Db: Databases>(
    mut world: World<Db>,
) {
    world.with_orders(&[(1, 100)]).await;
    let (one, two) = (world.own(universal(300, 2)).await, world.own(universal(500, 2)).await);
    let both = [("k", one), ("l", two)];
    world.coordinator.crash().await;
    for (key, coupon) in both {
        let kept = world.redeem(&wanted(key, 1, &[coupon])).await.expect("it is kept");
        assert_eq!(kept.state(), State::Kept);
    }
    // One is kept for long, and the other was tried often.
    world.redemptions_by_hand("created_ms = 1, due_ms = 1 WHERE idempotency_key = 'k'").await;
    world.redemptions_by_hand("tries = 100, due_ms = 1 WHERE idempotency_key = 'l'").await;
    for (key, _) in both {
        until("it is given up", async || world.get(key).await.state() == State::Refused).await;
        assert_eq!(refused(world.get(key).await.refusal.as_ref()).0, Code::SystemBusy);
    }
    world.coordinator.start_again().await;
    let are = async |status| {
        let (mut found, mut wanted) = (world.compensations().await, [(Some(one), status), (Some(two), status)]);
        found.sort_unstable();
        wanted.sort_unstable();
        found == wanted
    };
    until("each is owed", async || are(0).await).await;
    // Under a new key it is another, by which the order gets what it was promised.
    let again = wanted("again", 1, &[one, two]);
    until("it is granted", async || world.redeem(&again).await.is_ok_and(|view| view.state() == State::Done)).await;
    for (key, coupon) in both {
        assert_eq!(code(world.redeem(&wanted(key, 1, &[coupon])).await), Code::SystemBusy);
    }
    until("each is made good", async || are(1).await).await;
    world.coordinator.all_ended().await;
    assert_eq!(world.uses().await, (vec![(one, 1), (two, 1)], vec![(one, 1), (two, 1)]));
}

async fn what_came_to_nothing_in_time_is_begun_again<Db: Databases>(mut world: World<Db>) {
    let one = world.own(universal(300, 2)).await;
    // There is nobody to place it.
    let kept = world.redeem(&wanted("k", 1, &[one])).await.expect("it is kept");
    assert_eq!(kept.state(), State::Kept);
    let totals = audit(&world.shards).await.expect("the tables are there");
    assert_eq!((totals.issued, totals.used), (1, 0));
    world.with_orders(&[(1, 100)]).await;
    until("it is done", async || world.get("k").await.state() == State::Done).await;
    world.coordinator.all_ended().await;
    assert_eq!(world.uses().await, (vec![(one, 1)], vec![(one, 1)]));
}

async fn what_is_more_than_can_be_answered_at_a_time_is_told_at_once_to_come_again<Db: Databases>(
    mut world: World<Db>,
) {
    let one = world.own(universal(300, 2)).await;
    let few = world.another(Settings { calls_max: 1, ..Settings::default() }).await;
    // There is nobody to place its order, so it takes as long as it may.
    let (mut first, request) = (few.clone(), wanted("k", 1, &[one]));
    let waiting = tokio::spawn(async move { first.redeem(request).await });
    until("it is under way", async || world.redemption.clone().get_redemption(world::by_key("k")).await.is_ok()).await;
    let begun = Instant::now();
    let request = pb::ValidateRequest { user_id: USER, lines: vec![line(10_000)], coupon_ids: vec![one], shop_id: 0 };
    let shed = few.clone().validate(request.clone()).await.expect_err("it is full");
    assert_eq!(world::fault(&shed).code, Code::SystemBusy);
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    waiting.await.expect("it does not panic").expect("it is kept");
    few.clone().validate(request).await.expect("there is room again");
}

async fn an_order_takes_its_units_out_of_stock_and_a_refund_brings_them_back<Db: Databases>(mut world: World<Db>) {
    world.with_orders(&[(1, 10), (2, 3)]).await;
    let (one, two) = (world.own(universal(300, 2)).await, world.own(universal(500, 2)).await);
    let basket = |key: &str, order_id, coupon_id, lines: &[pb::OrderLine]| pb::RedeemRequest {
        lines: lines.to_vec(),
        ..wanted(key, order_id, &[coupon_id])
    };
    let lines = [units(1, 2_000, 2), units(2, 1_000, 1), units(1, 1_500, 3)];
    let view = world.redeem(&basket("k", 1, one, &lines)).await.expect("there is enough");
    assert_eq!(view.state(), State::Done);
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (7, 0, 6));
    let key = tercet_order::store::Key { shop_id: world::SHOP, order_id: 1 };
    let kept = tercet_order::lines(&world.orders, key).await.expect("the table is there");
    let kept: Vec<_> = kept.iter().map(|own| (own.product_id, own.price_cents, own.quantity)).collect();
    assert_eq!(kept, [(1, 2_000, 2), (2, 1_000, 1), (1, 1_500, 3)]);

    for (product, wanted_units, wanted_code) in [(2, 3, Code::OutOfStock), (9, 1, Code::NotStocked)] {
        let lines = [units(1, 1_000, 1), units(product, 1_000, wanted_units)];
        let fault = world.redeem(&basket(&product.to_string(), 2, two, &lines)).await.expect_err("there is not enough");
        assert_eq!((fault.code, fault.argument("product_id")), (wanted_code, Some(&*product.to_string())));
        assert!(fault.text(Language::Zh).contains(&product.to_string()), "{fault}");
    }
    world.coordinator.all_ended().await;
    assert_eq!((world.units().await, world.uses().await.0), ((7, 0, 6), vec![(one, 1)]), "nothing of it happened");
    let of_each = |count: i64| (1..=count).map(|product| units(product, 100, 1)).collect::<Vec<_>>();
    for (lines, field) in [
        (of_each(201), "lines"),
        (vec![units(1, 1, 600_000), units(1, 1, 600_000)], "lines"),
        (vec![units(1, 100, 1), units(1 << 48, 100, 1)], "lines[1].product_id"),
    ] {
        let fault = world.redeem(&basket("m", 3, two, &lines)).await.expect_err("it is too much");
        assert_eq!((fault.code, fault.argument("field")), (Code::Invalid, Some(field)));
    }
    // As many products as there may be, none of which was ever supplied.
    assert_eq!(code(world.redeem(&basket("n", 3, two, &of_each(200)[2..])).await), Code::NotStocked);

    assert_eq!(world.refund(refund(1)).await.expect("it is placed").state(), pb::RefundState::Done);
    assert_eq!((world.units().await, world.uses().await.0), ((13, 0, 0), vec![]));
}

async fn what_ended_long_ago_is_deleted_and_nothing_else_is<Db: Databases>(mut world: World<Db>) {
    const DAY_MS: i64 = 86_400_000;
    world.with_orders(&[(1, 100)]).await;
    let coupon = world.own(universal(300, 2)).await;
    for (key, order_id) in [("old", 1), ("taken back lately", 2), ("lately", 3)] {
        world.redeem(&wanted(key, order_id, &[coupon])).await.expect("it is granted");
        world.refund(refund(order_id)).await.expect("it is placed");
    }
    assert_eq!(code(world.redeem(&wanted("refused", 3, &[coupon])).await), Code::OrderExists);
    world.coordinator.all_ended().await;
    let lately = world.get("lately").await.updated_ms;
    let old = lately - 31 * DAY_MS;
    let ended = format!("due_ms = {old}, ended_ms = {old}");
    world.redemptions_by_hand(&format!("{ended}, refunded_ms = {old} WHERE idempotency_key = 'old'")).await;
    world.redemptions_by_hand(&format!("{ended} WHERE idempotency_key = 'taken back lately'")).await;
    world.redemptions_by_hand(&format!("{ended} WHERE idempotency_key = 'refused'")).await;
    let young = lately - 29 * DAY_MS;
    let ended = format!("due_ms = {young}, ended_ms = {young}, refunded_ms = {young}");
    world.redemptions_by_hand(&format!("{ended} WHERE idempotency_key = 'lately'")).await;
    let strict = world.another(Settings { retention_days: 30, ..Settings::default() }).await;
    let is_there = async |key: &str| strict.clone().get_redemption(world::by_key(key)).await.is_ok();
    until("both are gone", async || !is_there("old").await && !is_there("refused").await).await;
    assert!(is_there("taken back lately").await && is_there("lately").await);
}

/// A table that somebody has locked answers nothing, as a database that hangs does.
#[tokio::test]
async fn one_database_that_hangs_costs_its_own_users_alone() {
    let Some(mut world) = on_mariadb().await else { return };
    world.with_orders(&[(1, 100)]).await;
    let (one, template_id) = (world.own(universal(300, 2)).await, world.template(universal(300, 2)).await);
    let map = world.shards.map().clone();
    let database = |user_id| map.database(Slot::of_user(user_id));
    let other = (1..).find(|user_id| database(*user_id) != database(USER)).expect("there are many");
    let others = world.coupon(other, template_id, |_| {}).await;
    let few = world.another(Settings { calls_max: 8, ..Settings::default() }).await;
    let ask = async |user_id| {
        let answer = few.clone().get_redemption(pb::GetRedemptionRequest { user_id, ..world::by_key("none") }).await;
        world::fault(&answer.expect_err("there is none")).code
    };
    assert_eq!((ask(USER).await, ask(other).await), (Code::NotFound, Code::NotFound));
    // What is kept in the other one is to be submitted meanwhile.
    world.coordinator.crash().await;
    let request = pb::RedeemRequest { user_id: other, ..wanted("k", 1, &[others]) };
    let kept = world.redeem(&request).await.expect("it is kept");
    assert_eq!(kept.state(), State::Kept);
    let mut locked = world.shards.pools()[database(USER)].acquire().await.expect("it answers");
    sqlx::raw_sql("LOCK TABLES redemption WRITE").execute(&mut *locked).await.expect("it may");
    world.coordinator.start_again().await;
    let hanging: Vec<_> = (0..40)
        .map(|_| {
            let few = few.clone();
            tokio::spawn(async move {
                let begun = Instant::now();
                let answer = few.clone().get_redemption(world::by_key("none")).await.expect_err("there is none");
                (world::fault(&answer).code, begun.elapsed())
            })
        })
        .collect();
    let mut took = Vec::new();
    for _ in 0..200 {
        let begun = Instant::now();
        assert_eq!(ask(other).await, Code::NotFound);
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    assert!(took[197] < Duration::from_millis(500), "{:?}", took[197]);
    until("it is done", async || world.redeem(&request).await.is_ok_and(|view| view.state() == State::Done)).await;
    for one in hanging {
        let (code, took) = one.await.expect("it does not panic");
        assert_eq!(code, Code::SystemBusy);
        assert!(took < Duration::from_secs(5), "before its caller has gone: {took:?}");
    }
    sqlx::raw_sql("UNLOCK TABLES").execute(&mut *locked).await.expect("it may");
    drop(locked);
    until("it answers again", async || ask(USER).await == Code::NotFound).await;
    until("his is done", async || {
        world.redeem(&wanted("mine", 2, &[one])).await.is_ok_and(|view| view.state() == State::Done)
    })
    .await;
}

async fn shops_number_orders_and_make_keys_beside_each_other<Db: Databases>(mut world: World<Db>) {
    world.with_orders(&[(1, 100)]).await;
    let (one, two) = (world.own(universal(300, 2)).await, world.own(universal(500, 2)).await);
    let of_4 = |request: pb::RedeemRequest| {
        let lines = request.lines.iter().map(|own| pb::OrderLine { shop_id: 4, ..*own }).collect();
        pb::RedeemRequest { shop_id: 4, lines, ..request }
    };
    world.redeem(&wanted("k", 1, &[one])).await.expect("it is granted");
    let other = world.redeem(&of_4(wanted("k", 1, &[two]))).await.expect("it is another shop's");
    assert_eq!((other.state(), other.combination.map(|own| own.discount_cents)), (State::Done, Some(500)));
    assert_eq!(code(world.redeem(&of_4(wanted("l", 1, &[two]))).await), Code::CouponTaken);
    world.coordinator.all_ended().await;
    assert_eq!(world.uses().await, (vec![(one, 1), (two, 1)], vec![(one, 1), (two, 1)]));
    let told = world.refund(pb::RefundRequest { shop_id: 4, ..refund(1) }).await.expect("it is its own");
    assert_eq!(told.returned_coupon_ids, [two]);
    assert_eq!(world.get("k").await.state(), State::Done);
    assert_eq!(code(world.refund(pb::RefundRequest { shop_id: 5, ..refund(1) }).await), Code::NotFound);
    assert_eq!(world.uses().await, (vec![(one, 1)], vec![(one, 1)]));
}
