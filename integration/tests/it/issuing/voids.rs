//! Coupons that operators take from their users.

use tercet_coupon::{audit, claim_by_hand, seed_coupons};
use tercet_proto::coupon::v1::{self as pb, CouponStatus};
use tercet_rules::{Code, Fault};
use tercet_shards::Slot;
use tokio::task::JoinSet;

use super::world::{Databases, FROM_MS, World, fault, rules};
use super::{CRON, Hands, code, coupon, on_mariadb, on_sqlite};

on_both! {
    a_coupon_is_voided_once_and_only_while_nobody_uses_it(super::CRON);
    what_is_voided_stays_within_its_budget_and_its_user_s_limit(super::CRON);
}

async fn void<Db: Databases>(world: &World<Db>, coupon_id: i64) -> Result<pb::UserCoupon, Fault> {
    let (operator, reason) = ("ann".to_owned(), "a stolen account".to_owned());
    let mut issuing = world.issuing.clone();
    let told = issuing.void_coupon(pb::VoidCouponRequest { coupon_id, operator, reason }).await;
    Ok(told.map_err(|status| fault(&status))?.into_inner().coupon.expect("a coupon"))
}

async fn a_coupon_is_voided_once_and_only_while_nobody_uses_it<Db: Databases + Hands>(world: World<Db>) {
    let all: Vec<_> = (1..=7).map(|number| claim_by_hand(number, 7, 9, 99)).collect();
    let [open, early, ended, expired, locked, used, pending] = [0, 1, 2, 3, 4, 5, 6].map(|at| all[at].coupon_id);
    seed_coupons(&world.shards, &all).await.expect("they are new");
    let slot = Slot::of_user(7);
    let (pool, table) = (world.shards.pool(slot).expect("it is served"), world.shards.map().table(slot));
    let order = "shop_id = 9, order_id = 1, discount_cents = 5";
    for (set, coupon_id) in [
        ("valid_from_ms = 4000000000000".to_owned(), early),
        ("valid_from_ms = 1, valid_until_ms = 2".to_owned(), ended),
        ("status = 4".to_owned(), expired),
        (format!("status = 2, {order}"), locked),
        (format!("status = 3, used_ms = 1, {order}"), used),
        ("status = 0".to_owned(), pending),
    ] {
        Db::by_hand(pool, format!("UPDATE coupon_{table:03} SET {set} WHERE coupon_id = {coupon_id}")).await;
    }
    for coupon_id in [open, early] {
        assert_eq!(void(&world, coupon_id).await.map(|coupon| coupon.status()), Ok(CouponStatus::Voided));
    }
    for (coupon_id, status) in [(locked, "locked"), (used, "used"), (pending, "claiming")] {
        let refused = void(&world, coupon_id).await.expect_err("it is taken");
        assert_eq!((refused.code, refused.argument("status")), (Code::CouponTaken, Some(status)));
    }
    for coupon_id in [ended, expired] {
        assert_eq!(code(void(&world, coupon_id).await), Code::Expired);
    }
    assert_eq!(code(void(&world, claim_by_hand(8, 7, 9, 99).coupon_id).await), Code::NotFound);
    assert_eq!(code(void(&world, 0).await), Code::Invalid);
    let nobody = pb::VoidCouponRequest { coupon_id: open, reason: "r".to_owned(), ..Default::default() };
    let refused = world.issuing.clone().void_coupon(nobody).await.expect_err("it is nobody's act");
    assert_eq!(fault(&refused).argument("field"), Some("operator"));

    // Its step has risen once, however often it was asked for.
    let before = void(&world, open).await;
    assert_eq!(void(&world, open).await, before);
    let totals = audit(&world.shards).await.expect("the tables are there");
    // The job of a minute that begins meanwhile expires what has ended.
    assert_eq!((totals.voided, totals.issued + totals.expired, totals.used), (2, 2, 1), "{totals:?}");
    for (status, most) in [(CouponStatus::Voided.into(), 2), (0, 7)] {
        let request = pb::ListUserCouponsRequest { user_id: 7, status, limit: 100, after: String::new() };
        let found = world.issuing.clone().list_user_coupons(request).await.expect("it is a page").into_inner();
        let voided = found.coupons.iter().filter(|coupon| coupon.status() == CouponStatus::Voided).count();
        assert_eq!((found.coupons.len(), voided), (most, 2));
    }
}

async fn what_is_voided_stays_within_its_budget_and_its_user_s_limit<Db: Databases>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(3, 1, FROM_MS)).await;
    let own = coupon(world.claim(7, template_id, "k").await, true);
    let mut many = JoinSet::new();
    for _ in 0..8 {
        let (mut issuing, coupon_id) = (world.issuing.clone(), own.coupon_id);
        let (operator, reason) = ("ann".to_owned(), "r".to_owned());
        many.spawn(async move { issuing.void_coupon(pb::VoidCouponRequest { coupon_id, operator, reason }).await });
    }
    let mut ended_ms = None;
    while let Some(told) = many.join_next().await {
        let told = told.expect("no panic").expect("it is voided").into_inner().coupon.expect("a coupon");
        // All are told the moment at which its time has ended.
        let ended_ms = *ended_ms.get_or_insert(told.valid_until_ms);
        assert!((own.claimed_ms..own.valid_until_ms).contains(&ended_ms), "{told:?}");
        let voided = pb::UserCoupon { status: CouponStatus::Voided.into(), valid_until_ms: ended_ms, ..own };
        assert_eq!(told, voided);
    }
    assert_eq!(code(world.claim(7, template_id, "l").await), Code::PerUserLimit);
    assert_eq!(coupon(world.claim(7, template_id, "k").await, false).status(), CouponStatus::Voided, "its key's");
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (2, 0, 1));
    let totals = audit(&world.shards).await.expect("the tables are there");
    assert_eq!((totals.voided, totals.miscounted, totals.over_limit), (1, 0, 0));
}
