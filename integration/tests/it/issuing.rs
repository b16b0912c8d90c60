//! The issuing service over gRPC, with a coordinator, stock, coupons and templates, on SQLite and on a real MariaDB, on
//! shards.

mod occasions;
mod usage;
pub(crate) mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::redemption::world::{Databases as Hands, stop};
use sqlx::MySql;
use tercet_coupon::issuing::{self, CRON};
use tercet_coupon::store::jobs::Jobs as _;
use tercet_coupon::{Shards, audit, claim_by_hand, seed_coupons};
use tercet_integration::servers;
use tercet_proto::coupon::v1::{self as pb, CouponStatus};
use tercet_proto::coupon_template::v1 as templates;
use tercet_rules::{Code, Fault};
use tercet_shards::{ShardMap, Slot};
use world::{Databases, EVERY_SECOND, FROM_MS, TO_MS, World, change, fault, on_mariadb, on_sqlite, rules, until};

/// The same test on both.
macro_rules! on_both {
    ($($name:ident($cron:expr);)*) => {
        mod sqlite {$(
            #[tokio::test]
            async fn $name() {
                super::$name(super::on_sqlite($cron).await).await;
            }
        )*}
        mod mariadb {$(
            #[tokio::test]
            async fn $name() {
                let Some(world) = super::on_mariadb($cron).await else { return };
                let pools = world.shards.pools().iter().chain([&world.stock]).cloned();
                let watch = crate::plans::Watch::new(pools.collect::<Vec<_>>());
                super::$name(world).await;
                watch.check().await;
            }
        )*}
    };
}

mod batches;

on_both! {
    a_user_claims_within_his_limits_and_a_key_finds_what_it_made(super::CRON);
    what_is_refused_has_its_code(super::CRON);
    a_key_makes_one_coupon_whatever_the_coordinator_forgets(super::CRON);
    a_claim_that_still_holds_is_no_limit_to_its_repeat(super::CRON);
    a_gray_version_is_for_its_audience(super::CRON);
    a_version_that_is_tried_beside_another_keeps_its_own_budget(super::EVERY_SECOND);
    a_change_of_the_template_takes_effect_within_a_second(super::CRON);
    coupons_are_listed_by_pages(super::CRON);
    what_has_ended_expires_and_unclaimed_stock_goes_back(super::EVERY_SECOND);
    a_database_and_a_template_that_fail_keep_nothing_else_from_being_done(super::EVERY_SECOND);
    stock_stays_while_an_audience_may_claim(super::EVERY_SECOND);
}

#[track_caller]
fn coupon(answer: Result<pb::ClaimResponse, Fault>, claimed: bool) -> pb::UserCoupon {
    let answer = answer.expect("it is granted");
    assert_eq!(answer.claimed, claimed);
    answer.coupon.expect("a coupon")
}

#[track_caller]
fn code<T: std::fmt::Debug>(answer: Result<T, Fault>) -> Code {
    answer.expect_err("it is refused").code
}

async fn a_user_claims_within_his_limits_and_a_key_finds_what_it_made<Db: Databases>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(3, 2, FROM_MS)).await;
    let other = world.publish("b", rules(3, 2, FROM_MS)).await;
    let first = coupon(world.claim(7, template_id, "k1").await, true);
    assert_eq!((first.user_id, first.template_id, first.version), (7, template_id, 1));
    assert_eq!(Slot::of_id(first.coupon_id), Slot::of_user(7));
    assert_eq!(first.status(), CouponStatus::Available);
    let days = (first.valid_until_ms - first.claimed_ms) / 86_400_000;
    assert!((7..=8).contains(&days), "{first:?}");
    assert_eq!(coupon(world.claim(7, template_id, "k1").await, false), first);
    assert_eq!(code(world.claim(7, other, "k1").await), Code::KeyReused);

    let second = coupon(world.claim(7, template_id, "k2").await, true);
    assert_ne!(second.coupon_id, first.coupon_id);
    let refused = world.claim(7, template_id, "k3").await.expect_err("it is his limit");
    assert_eq!((refused.code, refused.argument("limit")), (Code::PerUserLimit, Some("2")));
    // From memory now, and still.
    assert_eq!(code(world.claim(7, template_id, "k4").await), Code::PerUserLimit);
    // The key of another user is another key.
    coupon(world.claim(8, template_id, "k1").await, true);
    assert_eq!(code(world.claim(9, template_id, "k1").await), Code::SoldOut);
    assert_eq!(code(world.claim(10, template_id, "k1").await), Code::SoldOut);
    // Whoever has one is told so all the same.
    assert_eq!(coupon(world.claim(7, template_id, "k2").await, false), second);
    assert_eq!(code(world.claim(9, template_id, "k1").await), Code::SoldOut);

    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (3, 0, 3), "the other template has its own");
    let totals = audit(&world.shards).await.expect("the tables are there");
    assert_eq!((totals.issued, totals.pending, totals.miscounted, totals.over_limit), (3, 0, 0, 0));
}

async fn a_key_makes_one_coupon_whatever_the_coordinator_forgets<Db: Databases>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(9, 9, FROM_MS)).await;
    let first = coupon(world.claim(7, template_id, "k").await, true);
    coupon(world.claim(7, template_id, "another").await, true);
    world.coordinator.all_ended().await;
    world.coordinator.forget().await;
    assert_eq!(coupon(world.claim(7, template_id, "k").await, false), first);
    // Many at once are one too.
    let asked = (0..8).map(|_| {
        let mut issuing = world.issuing.clone();
        let request = pb::ClaimRequest { user_id: 9, template_id, idempotency_key: "k".into(), groups: Vec::new() };
        async move { issuing.claim(request).await.map(tonic::Response::into_inner).map_err(|status| fault(&status)) }
    });
    let answers = futures_util::future::join_all(asked).await;
    let made: BTreeSet<i64> =
        answers.into_iter().map(|answer| answer.expect("it is granted").coupon.expect("a coupon").coupon_id).collect();
    assert_eq!(made.len(), 1);
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (6, 0, 3));
    // What is refused from memory needs nobody else.
    let one = world.publish("b", rules(5, 1, FROM_MS)).await;
    let last = coupon(world.claim(7, one, "last").await, true);
    world.coordinator.all_ended().await;
    assert_eq!(code(world.claim(7, one, "k1").await), Code::PerUserLimit);
    world.coordinator.crash().await;
    assert_eq!(code(world.claim(7, one, "k2").await), Code::PerUserLimit);
    assert_eq!(coupon(world.claim(7, one, "last").await, false), last);
}

/// The claim before is cancelled, and its coupon not deleted yet.
async fn a_claim_that_still_holds_is_no_limit_to_its_repeat<Db: Databases + Hands>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(9, 1, FROM_MS)).await;
    coupon(world.claim(7, template_id, "k").await, true);
    world.coordinator.all_ended().await;
    let (slot, map) = (Slot::of_user(7), world.shards.map().clone());
    let (pool, table) = (world.shards.pool(slot).expect("it is served").clone(), map.table(slot));
    Db::by_hand(&pool, format!("UPDATE coupon_{table:03} SET status = 0")).await;
    assert_eq!(code(world.claim(7, template_id, "k").await), Code::SystemBusy);
    Db::by_hand(&pool, format!("DELETE FROM coupon_{table:03}")).await;
    Db::by_hand(&pool, format!("UPDATE claimed_{table:03} SET claimed = 0, today = 0")).await;
    coupon(world.claim(7, template_id, "k").await, true);
}

async fn what_is_refused_has_its_code<Db: Databases>(mut world: World<Db>) {
    let draft = world.draft("draft", rules(3, 2, FROM_MS)).await.template_id;
    let early = world.publish("early", rules(3, 2, TO_MS - 1)).await;
    let open = world.publish("open", rules(3, 2, FROM_MS)).await;
    for (user_id, template_id, key, wanted) in [
        (7, draft, "k", Code::NotOffered),
        (7, early, "k", Code::NotStarted),
        (7, 77_777, "k", Code::NotFound),
        (0, open, "k", Code::Invalid),
        (7, 0, "k", Code::Invalid),
        (7, open, "", Code::Invalid),
    ] {
        assert_eq!(code(world.claim(user_id, template_id, key).await), wanted, "{user_id} {template_id} {key:?}");
    }
    let issue = |user_ids: Vec<i64>, coupons_per_user| pb::IssueRequest {
        batch_id: "b".into(),
        template_id: open,
        user_ids,
        coupons_per_user,
        operator: "ann".into(),
        reason: "spring".into(),
    };
    for (request, field) in [
        (issue(vec![], 1), "user_ids"),
        (issue(vec![5, 0], 1), "user_ids[1]"),
        (issue(vec![5, 6, 5], 1), "user_ids[2]"),
        (issue(vec![5], 0), "coupons_per_user"),
        (issue(vec![5], 101), "coupons_per_user"),
        (pb::IssueRequest { batch_id: String::new(), ..issue(vec![5], 1) }, "batch_id"),
        // It would be taken for what an occasion gives.
        (pb::IssueRequest { batch_id: "occasion/7".into(), ..issue(vec![5], 1) }, "batch_id"),
        (pb::IssueRequest { operator: String::new(), ..issue(vec![5], 1) }, "operator"),
    ] {
        let refused = world.issue(&request).await.expect_err("it is refused");
        assert_eq!((refused.code, refused.argument("field")), (Code::Invalid, Some(field)));
    }
    assert_eq!(code(world.issue(&issue(vec![5, 6], 2)).await), Code::SoldOut);
    assert_eq!(
        code(world.issue(&pb::IssueRequest { template_id: draft, ..issue(vec![5], 1) }).await),
        Code::NotOffered
    );
    let missing = world.issuing.get_coupon(pb::GetCouponRequest { coupon_id: 77, user_id: 0 }).await;
    assert_eq!(fault(&missing.expect_err("there is none")).code, Code::NotFound);
    let missing = world.issuing.get_issue(pb::GetIssueRequest { batch_id: "b".into() }).await;
    assert_eq!(fault(&missing.expect_err("it was sold out")).code, Code::NotFound);
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (6, 0, 0), "the draft has no stock yet");
}

async fn a_gray_version_is_for_its_audience<Db: Databases>(mut world: World<Db>) {
    let draft = world.draft("a", rules(5, 2, FROM_MS)).await;
    let gray = world.gray(&draft, 42).await;
    let template_id = gray.template_id;
    assert_eq!(coupon(world.claim(42, template_id, "k").await, true).version, 1);
    assert_eq!(code(world.claim(7, template_id, "k").await), Code::NotOffered);
    let request = templates::PromoteRequest { template_id, version: 1, change: change(gray.revision) };
    world.templates.promote(request).await.expect("it is tried");
    until("everyone is offered it", async || world.claim(7, template_id, "k2").await.is_ok()).await;
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (3, 0, 2));
}

async fn a_version_that_is_tried_beside_another_keeps_its_own_budget<Db: Databases>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(1_000, 2, FROM_MS)).await;
    coupon(world.claim(1, template_id, "k").await, true);
    let get = templates::GetTemplateRequest { template_id };
    let found = world.templates.get_template(get).await.expect("it is there").into_inner().template;
    let next = rules(1, 1, FROM_MS);
    let request = templates::SetRulesRequest {
        template_id,
        rules: Some(next),
        change: change(found.expect("a template").revision),
    };
    let written = world.templates.set_rules(request).await.expect("it is sound").into_inner().template;
    let audience = templates::Audience { basis_points: 0, groups: vec!["gray".into()], user_ids: Vec::new() };
    let revision = written.expect("a template").revision;
    let request = templates::StartGrayRequest { template_id, audience: Some(audience), change: change(revision) };
    let gray = world.templates.start_gray(request).await.expect("it has a version").into_inner().template;
    let ask = |user_id| pb::ClaimRequest {
        user_id,
        template_id,
        idempotency_key: "gray".into(),
        groups: vec!["gray".into()],
    };
    let mut issuing = world.issuing.clone();
    tokio::time::sleep(issuing::FRESH).await;
    let first = issuing.claim(ask(7)).await.expect("it is granted").into_inner().coupon;
    assert_eq!(first.expect("a coupon").version, 2);
    for user_id in [8, 9, 8] {
        let refused = issuing.claim(ask(user_id)).await.expect_err("the budget is one coupon");
        assert_eq!(fault(&refused).code, Code::SoldOut);
    }
    assert_eq!(coupon(world.claim(8, template_id, "k").await, true).version, 1, "the others have the live one's");
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (997, 0, 4), "three of the template's, one of the candidate's");
    // What is not tried any more has no units, and leaves none.
    let revision = gray.expect("a template").revision;
    let request = templates::RollBackRequest { template_id, version: 2, change: change(revision) };
    world.templates.roll_back(request).await.expect("it is tried");
    tokio::time::sleep(issuing::FRESH).await;
    assert_eq!(issuing.claim(ask(9)).await.expect("it is granted").into_inner().coupon.expect("a coupon").version, 1);
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (996, 0, 5));
}

async fn a_change_of_the_template_takes_effect_within_a_second<Db: Databases>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(2, 2, FROM_MS)).await;
    coupon(world.claim(7, template_id, "k1").await, true);
    coupon(world.claim(7, template_id, "k2").await, true);
    assert_eq!(code(world.claim(8, template_id, "k1").await), Code::SoldOut);
    // The next version has more, and the stock follows.
    let get = templates::GetTemplateRequest { template_id };
    let found = world.templates.get_template(get).await.expect("it is there").into_inner().template;
    let found = found.expect("a template");
    let more = Some(rules(5, 5, FROM_MS));
    let request = templates::SetRulesRequest { template_id, rules: more, change: change(found.revision) };
    let written = world.templates.set_rules(request).await.expect("it is sound").into_inner().template;
    let gray = world.gray(&written.expect("a template"), 1).await;
    let request = templates::PromoteRequest { template_id, version: 2, change: change(gray.revision) };
    let promoted = world.templates.promote(request).await.expect("it is tried").into_inner().template;
    let mut number = 0;
    until("there are more", async || {
        number += 1;
        world.claim(8, template_id, &format!("again{number}")).await.is_ok()
    })
    .await;
    assert_eq!(coupon(world.claim(8, template_id, "k9").await, true).version, 2);
    let revision = promoted.expect("a template").revision;
    let request = templates::PauseRequest { template_id, change: change(revision) };
    world.templates.pause(request).await.expect("it is published");
    tokio::time::sleep(issuing::FRESH).await;
    assert_eq!(code(world.claim(9, template_id, "k1").await), Code::NotOffered);
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (1, 0, 4));
}

/// Longer away than a supply is tried for.
#[tokio::test]
async fn a_template_can_be_claimed_once_stock_is_back() {
    let mut world = world::without_stock_on_sqlite().await;
    let template_id = world.publish("a", rules(3, 2, FROM_MS)).await;
    assert_eq!(code(world.claim(7, template_id, "k").await), Code::SystemBusy);
    tokio::time::sleep(issuing::limits::CALL_TIMEOUT + Duration::from_secs(2)).await;
    world.serve_stock().await;
    until("it is granted", async || world.claim(7, template_id, "k").await.is_ok()).await;
}

/// In words that a participant might have used.
#[tokio::test]
async fn a_claim_that_a_person_stopped_is_not_refused() {
    let mut world = world::without_stock_on_sqlite().await;
    let stock = world.passing_stock();
    let template_id = world.publish("a", rules(3, 2, FROM_MS)).await;
    until("there is stock", async || world.claim(7, template_id, "first").await.is_ok()).await;
    world.coordinator.all_ended().await;
    stock.shutdown_background();
    let request = pb::ClaimRequest { user_id: 7, template_id, idempotency_key: "k".into(), groups: Vec::new() };
    let mut issuing = world.issuing.clone();
    let asked = tokio::spawn(async move { issuing.claim(request).await });
    stop(&world.coordinator, "claim", "stock refused: SOLD_OUT: All are gone").await;
    let told = asked.await.expect("no panic").expect_err("it was stopped");
    assert_eq!(fault(&told).code, Code::SystemBusy, "nobody has said no");
    world.serve_stock().await;
    until("nothing was learnt of it", async || world.claim(7, template_id, "k").await.is_ok()).await;
}

async fn coupons_are_listed_by_pages<Db: Databases>(mut world: World<Db>) {
    let all: Vec<_> = (1..=120).map(|number| claim_by_hand(number, 1 + number % 12, 1 + number % 3, 99)).collect();
    seed_coupons(&world.shards, &all).await.expect("they are new");
    let mut after = String::new();
    let mut of_user = Vec::new();
    loop {
        let request = pb::ListUserCouponsRequest { user_id: 5, status: 0, limit: 4, after };
        let page = world.issuing.list_user_coupons(request).await.expect("it is a page").into_inner();
        assert!(page.coupons.len() <= 4);
        of_user.extend(page.coupons.iter().map(|coupon| coupon.coupon_id));
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    let expected: BTreeSet<i64> = all.iter().filter(|claim| claim.user_id == 5).map(|claim| claim.coupon_id).collect();
    assert_eq!(of_user, expected.iter().rev().copied().collect::<Vec<_>>(), "newest first");

    let (mut found, mut after) = (BTreeSet::new(), String::new());
    loop {
        let status = CouponStatus::Available.into();
        let request = pb::ListCouponsRequest { template_id: 2, status, limit: 7, after };
        let page = world.issuing.list_coupons(request).await.expect("it is a page").into_inner();
        assert!(page.coupons.len() <= 7);
        for coupon in &page.coupons {
            assert!(coupon.template_id == 2 && found.insert(coupon.coupon_id), "{coupon:?}");
        }
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    let expected: BTreeSet<i64> =
        all.iter().filter(|claim| claim.template_id == 2).map(|claim| claim.coupon_id).collect();
    assert_eq!(found, expected);
    let own = pb::GetCouponRequest { coupon_id: of_user[0], user_id: 5 };
    let shown = world.issuing.get_coupon(own).await.expect("it is his").into_inner().coupon.expect("a coupon");
    assert_eq!((shown.coupon_id, shown.user_id), (of_user[0], 5));
    let another = pb::GetCouponRequest { user_id: 6, ..own };
    let refused = world.issuing.get_coupon(another).await.expect_err("it is another's");
    assert_eq!(fault(&refused).code, Code::NotFound);
}

async fn what_has_ended_expires_and_unclaimed_stock_goes_back<Db: Databases + Hands>(mut world: World<Db>) {
    // More than one transaction of one table, with one end for many.
    let ended: Vec<_> = (1..=1_300)
        .map(|number| pb::Claim { valid_until_ms: 1 + number % 2, ..claim_by_hand(number, 1 + number % 40, 9, 9_999) })
        .collect();
    let open: Vec<_> = (2_001..=2_010).map(|number| claim_by_hand(number, 7, 9, 9_999)).collect();
    seed_coupons(&world.shards, &ended).await.expect("they are new");
    seed_coupons(&world.shards, &open).await.expect("they are new");
    let template_id = world.publish("a", rules(100, 1, FROM_MS)).await;
    coupon(world.claim(7, template_id, "k").await, true);
    let get = templates::GetTemplateRequest { template_id };
    let found = world.templates.get_template(get).await.expect("it is there").into_inner().template;
    let request = templates::EndRequest { template_id, change: change(found.expect("a template").revision) };
    world.templates.end(request).await.expect("it is published");
    // Of another the claims alone have ended.
    let other = world.publish("b", rules(50, 1, FROM_MS)).await;
    coupon(world.claim(8, other, "k").await, true);
    let end = format!("UPDATE template SET start_time = 1, end_time = 2 WHERE template_id = {other}");
    Db::by_hand(&world.stock, end).await;
    let shards = world.shards.clone();
    until("all that ended are expired", async || {
        let totals = audit(&shards).await.expect("the tables are there");
        totals.expired == 1_300 && totals.issued == 12
    })
    .await;
    let (stock, wanted) = (world.stock.clone(), (0, 0, 2));
    until("nothing is left of both templates", async || {
        let totals = tercet_stock::audit(&stock).await.expect("the table is there");
        (totals.free, totals.reserved, totals.issued) == wanted && totals.total == 2
    })
    .await;
    // Another process has the jobs only when this one has been silent for long.
    let mut connection = shards.home().acquire().await.expect("the pool is open");
    assert!(!Db::lease_jobs(&mut connection, 77, 1_000).await.expect("the table is there"));
}

async fn a_database_and_a_template_that_fail_keep_nothing_else_from_being_done<Db: Databases + Hands>(
    mut world: World<Db>,
) {
    let ended: Vec<_> = (1..=400)
        .map(|number| pb::Claim { valid_until_ms: 1, ..claim_by_hand(number, 1 + number % 40, 9, 9_999) })
        .collect();
    Db::by_hand(world.shards.home(), "ALTER TABLE expiry RENAME TO away".to_owned()).await;
    let unknown = world.draft("first", rules(3, 1, FROM_MS)).await.template_id;
    Db::by_hand(&world.stock, format!("DELETE FROM template WHERE template_id = {unknown}")).await;
    let mut connection = world.shards.home().acquire().await.expect("the pool is open");
    Db::supplied(&mut connection, unknown, 1, 0).await.expect("the table is there");
    drop(connection);
    let template_id = world.publish("a", rules(100, 1, FROM_MS)).await;
    assert!(template_id > unknown);
    coupon(world.claim(7, template_id, "k").await, true);
    seed_coupons(&world.shards, &ended).await.expect("they are new");
    let end = format!("UPDATE template SET start_time = 1, end_time = 2 WHERE template_id = {template_id}");
    Db::by_hand(&world.stock, end).await;
    let elsewhere = ended.iter().filter(|claim| world.shards.map().database(Slot::of_id(claim.coupon_id)) == 1).count();
    let shards = world.shards.clone();
    until("those of the other database are expired, and the other stock is returned", async || {
        let expired = audit(&shards).await.expect("the tables are there").expired;
        expired == elsewhere as i64 && world.units().await == (0, 0, 1)
    })
    .await;
    Db::by_hand(world.shards.home(), "ALTER TABLE away RENAME TO expiry".to_owned()).await;
    until("and the rest once it is possible", async || {
        audit(&shards).await.expect("the tables are there").expired == 400
    })
    .await;
}

/// The live version's claims have ended, those of the version that is tried have not.
async fn stock_stays_while_an_audience_may_claim<Db: Databases + Hands>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(10, 2, FROM_MS)).await;
    let get = templates::GetTemplateRequest { template_id };
    let found = world.templates.get_template(get).await.expect("it is there").into_inner().template;
    let request = templates::SetRulesRequest {
        template_id,
        rules: Some(rules(10, 2, FROM_MS)),
        change: change(found.expect("a template").revision),
    };
    let written = world.templates.set_rules(request).await.expect("it is sound").into_inner().template;
    world.gray(&written.expect("a template"), 42).await;
    coupon(world.claim(42, template_id, "k").await, true);
    let other = world.publish("b", rules(50, 1, FROM_MS)).await;
    coupon(world.claim(8, other, "k").await, true);
    let end = format!("UPDATE template SET start_time = 1, end_time = 2 WHERE template_id IN ({template_id}, {other})");
    Db::by_hand(&world.stock, end).await;
    let stock = world.stock.clone();
    until("what nobody can claim is returned", async || {
        let totals = tercet_stock::audit(&stock).await.expect("the table is there");
        totals.free < 20
    })
    .await;
    // Both are looked at in one round, the first one first.
    coupon(world.claim(42, template_id, "k2").await, true);
}

#[tokio::test]
async fn the_jobs_of_a_process_that_died_are_taken_over_on_mariadb() {
    let Some(url) = servers::mariadb().await.expect("the server answers") else { return };
    let shards = Shards::<MySql>::open(ShardMap::one(), &[url]).await.expect("the database is there");
    shards.migrate().await.expect("the schema is sound");
    let mut connection = shards.home().acquire().await.expect("the pool is open");
    let mut lease = async |runner, length_ms| {
        MySql::lease_jobs(&mut connection, runner, length_ms).await.expect("the table is there")
    };
    assert!(lease(1, 300).await && lease(1, 300).await, "its holder keeps it");
    assert!(!lease(2, 300).await, "nobody else has it meanwhile");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(lease(2, 60_000).await, "it has ended by itself");
    assert!(!lease(1, 300).await, "and is gone for the one who was away");
    MySql::leave_jobs(&mut connection, 2).await.expect("the table is there");
    assert!(MySql::lease_jobs(&mut connection, 1, 300).await.expect("the table is there"), "given up, it is free");
}
