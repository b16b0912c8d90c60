//! The issuing service over gRPC, with a coordinator, stock, coupons and templates, on SQLite and on a real MariaDB, on
//! shards.

mod occasions;
mod usage;
pub(crate) mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::redemption::world::{Databases as Hands, stop};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, MySql, Pool, Sqlite};
use tercet_coupon::issuing::{self, CRON};
use tercet_coupon::{audit, claim_by_hand, seed_coupons};
use tercet_proto::admin::v1::ListTransactionsRequest;
use tercet_proto::admin::v1::admin_client::AdminClient;
use tercet_proto::coordinator::v1::Status as Ended;
use tercet_proto::coupon::v1::{self as pb, CouponStatus};
use tercet_proto::coupon_template::v1 as templates;
use tercet_rules::{Code, Fault};
use tercet_shards::Slot;
use tokio::task::JoinSet;
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
mod jobs;
mod logged;
mod voids;

on_both! {
    a_user_claims_within_his_limits_and_a_key_finds_what_it_made(super::CRON);
    what_is_refused_has_its_code(super::CRON);
    a_key_makes_one_coupon_whatever_the_coordinator_forgets(super::CRON);
    without_a_key_each_claim_is_another_one(super::CRON);
    a_claim_that_still_holds_is_no_limit_to_its_repeat(super::CRON);
    a_gray_version_is_for_its_audience(super::CRON);
    a_version_that_is_tried_beside_another_keeps_its_own_budget(super::EVERY_SECOND);
    a_change_of_the_template_takes_effect_within_a_second(super::CRON);
    coupons_are_listed_by_pages(super::CRON);
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
    assert_eq!(code(world.claim(8, one, "k").await), Code::SystemBusy, "nobody has said no");
}

async fn without_a_key_each_claim_is_another_one<Db: Databases>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(9, 3, FROM_MS)).await;
    let made = [
        coupon(world.claim(7, template_id, "").await, true).coupon_id,
        coupon(world.claim(7, template_id, "").await, true).coupon_id,
        coupon(world.claim(7, template_id, "k").await, true).coupon_id,
    ];
    assert_eq!(BTreeSet::from(made).len(), 3);
    assert_eq!(code(world.claim(7, template_id, "").await), Code::PerUserLimit);
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (6, 0, 3));
}

#[tokio::test]
async fn what_refuses_a_claim_without_a_key_needs_no_database() {
    let mut world = on_sqlite(CRON).await;
    let early = world.publish("early", rules(3, 2, TO_MS - 1)).await;
    let draft = world.draft("gray", rules(3, 2, FROM_MS)).await;
    let gray = world.gray(&draft, 8).await.template_id;
    let limited = world.publish("limited", rules(5, 1, FROM_MS)).await;
    coupon(world.claim(7, limited, "").await, true);
    world.coordinator.all_ended().await;
    let all = [(limited, Code::PerUserLimit), (early, Code::NotStarted), (gray, Code::NotOffered)];
    for (template_id, wanted) in all {
        assert_eq!(code(world.claim(7, template_id, "").await), wanted);
    }
    world.coordinator.crash().await;
    for pool in world.shards.pools() {
        pool.close().await;
    }
    for (template_id, wanted) in all {
        assert_eq!(code(world.claim(7, template_id, "").await), wanted);
        // It may be a repeat of one that was granted.
        assert_eq!(code(world.claim(7, template_id, "k").await), Code::SystemBusy);
    }
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
    let cancelled = async || {
        let mut admin = AdminClient::connect(world.coordinator.admin_url()).await.expect("it listens");
        let request = ListTransactionsRequest { status: Ended::Cancelled.into(), ..ListTransactionsRequest::default() };
        admin.list_transactions(request).await.expect("it lists").into_inner().transactions.len()
    };
    // It is deleted while whoever asks again waits for it.
    let (before, mut issuing) = (cancelled().await, world.issuing.clone());
    let request = pb::ClaimRequest { user_id: 7, template_id, idempotency_key: "k".into(), groups: Vec::new() };
    let again = tokio::spawn(async move { issuing.claim(request).await });
    until("its transaction came to nothing", async || cancelled().await > before).await;
    Db::by_hand(&pool, format!("DELETE FROM coupon_{table:03}")).await;
    let refused = again.await.expect("it does not panic").expect_err("it came to nothing");
    assert_eq!(fault(&refused).code, Code::SystemBusy, "its key is free again");
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
        (7, open, &*"k".repeat(129), Code::Invalid),
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
    for (template_id, wanted) in [(draft, Code::NotOffered), (early, Code::NotStarted), (77_777, Code::NotFound)] {
        assert_eq!(code(world.issue(&pb::IssueRequest { template_id, ..issue(vec![5], 1) }).await), wanted);
    }
    let lists = Db::number(world.shards.home(), "SELECT COUNT(*) FROM issue_user".to_owned()).await;
    assert_eq!(lists, 0, "nobody needs to know whom it was for");
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
    let gray = world.beside(template_id, rules(1, 1, FROM_MS)).await;
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
    let request = templates::RollBackRequest { template_id, version: 2, change: change(gray.revision) };
    world.templates.roll_back(request).await.expect("it is tried");
    let mut version = async |user_id| {
        tokio::time::sleep(issuing::FRESH).await;
        issuing.claim(ask(user_id)).await.expect("it is granted").into_inner().coupon.expect("a coupon").version
    };
    assert_eq!(version(9).await, 1);
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (996, 0, 5));
    // What is not tried any more has no units, and leaves none.
    let gray = world.beside(template_id, rules(5, 1, FROM_MS)).await;
    assert_eq!(version(10).await, 3);
    let request = templates::RollBackRequest { template_id, version: 3, change: change(gray.revision) };
    world.templates.roll_back(request).await.expect("it is tried");
    assert_eq!(version(11).await, 1);
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (994, 0, 8));
    // Nor does what is tried when the template ends.
    let gray = world.beside(template_id, rules(5, 1, FROM_MS)).await;
    assert_eq!(version(12).await, 4);
    let request = templates::EndRequest { template_id, change: change(gray.revision) };
    world.templates.end(request).await.expect("it is tried");
    until("nothing is left of either", async || world.units().await == (0, 0, 10)).await;
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
    assert_eq!(code(world.claim(9, template_id, "k1").await), Code::Paused);
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (1, 0, 4));
}

/// Its tables are away, so it has no answer.
#[tokio::test]
async fn without_the_template_service_what_was_known_is_good_to_grant_by_for_a_while_and_never_to_refuse_by() {
    let mut world = on_sqlite(CRON).await;
    let template_id = world.publish("a", rules(10_000, 1, FROM_MS)).await;
    coupon(world.claim(7, template_id, "k").await, true);
    world.coordinator.all_ended().await;
    assert_eq!(code(world.claim(7, template_id, "k1").await), Code::PerUserLimit);
    Sqlite::by_hand(&world.stock, "ALTER TABLE template RENAME TO away".to_owned()).await;
    tokio::time::sleep(issuing::FRESH).await;
    assert_eq!(code(world.claim(7, template_id, "k2").await), Code::SystemBusy, "he may have more by now");
    coupon(world.claim(8, template_id, "k").await, true);
    let mut user_id = 8;
    until("it is too old to grant by", async || {
        user_id += 1;
        world.claim(user_id, template_id, "k").await.is_err_and(|fault| fault.code == Code::SystemBusy)
    })
    .await;
    Sqlite::by_hand(&world.stock, "ALTER TABLE away RENAME TO template".to_owned()).await;
    until("it is known again", async || {
        world.claim(7, template_id, "k3").await.is_err_and(|fault| fault.code == Code::PerUserLimit)
    })
    .await;
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

/// Holds all tables of a database until the connection is closed.
async fn hang(pool: &Pool<MySql>) -> PoolConnection<MySql> {
    let mut held = pool.acquire().await.expect("it answers");
    const TABLES: &str = "SELECT GROUP_CONCAT(CONCAT('`', table_name, '` WRITE')) FROM information_schema.tables \
         WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'";
    let tables: String = sqlx::query_scalar(TABLES).fetch_one(&mut *held).await.expect("it has tables");
    sqlx::raw_sql(AssertSqlSafe(format!("LOCK TABLES {tables}"))).execute(&mut *held).await.expect("it may");
    held
}

#[tokio::test]
async fn a_database_that_hangs_keeps_nobody_of_the_others_from_a_coupon() {
    let Some(mut world) = on_mariadb(CRON).await else { return };
    let template_id = world.publish("a", rules(10_000, 1, FROM_MS)).await;
    let map = world.shards.map().clone();
    let of = |database| {
        let map = map.clone();
        (1_i64..).filter(move |user_id| map.database(Slot::of_user(*user_id)) == database)
    };
    let (mut hanging, mut others) = (of(0), of(1));
    coupon(world.claim(hanging.next().expect("one"), template_id, "k").await, true);
    coupon(world.claim(others.next().expect("one"), template_id, "k").await, true);
    let held = hang(&world.shards.pools()[0]).await;
    // More than the batches that the service takes at a time; all have another one's coupon under way meanwhile.
    let mut waiting = JoinSet::new();
    for user_id in hanging.by_ref().take(64) {
        let mut issuing = world.issuing.clone();
        let request = pb::ClaimRequest { user_id, template_id, idempotency_key: "k".into(), groups: Vec::new() };
        waiting.spawn(async move { issuing.claim(request).await.map_err(|status| fault(&status).code) });
    }
    let mut took = Vec::new();
    for user_id in others.take(100) {
        let begun = Instant::now();
        coupon(world.claim(user_id, template_id, "k").await, true);
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    assert!(took[90] < Duration::from_secs(2), "{took:?}");
    held.close().await.expect("it is closed");
    while let Some(claimed) = waiting.join_next().await {
        assert!(matches!(claimed.expect("no panic"), Ok(_) | Err(Code::SystemBusy)));
    }
    until("it answers again", async || world.claim(hanging.next().expect("one"), template_id, "k").await.is_ok()).await;
    world.coordinator.all_ended().await;
}

async fn coupons_are_listed_by_pages<Db: Databases + Hands>(mut world: World<Db>) {
    let all: Vec<_> = (1..=120).map(|number| claim_by_hand(number, 1 + number % 12, 1 + number % 3, 99)).collect();
    seed_coupons(&world.shards, &all).await.expect("they are new");
    let of_5 = all.iter().filter(|claim| claim.user_id == 5).map(|claim| claim.coupon_id);
    let of_5: Vec<i64> = of_5.rev().collect();
    let (ended, open): (Vec<_>, Vec<_>) = of_5.iter().enumerate().partition(|(at, _)| at % 2 == 1);
    let [ended, open] = [ended, open].map(|all| all.into_iter().map(|(_, id)| *id).collect::<Vec<i64>>());
    let (slot, listed) = (Slot::of_user(5), ended.iter().map(i64::to_string).collect::<Vec<_>>().join(","));
    let (pool, table) = (world.shards.pool(slot).expect("it is served"), world.shards.map().table(slot));
    Db::by_hand(pool, format!("UPDATE coupon_{table:03} SET status = 4 WHERE coupon_id IN ({listed})")).await;
    let of_status = [(0, &of_5), (CouponStatus::Available.into(), &open), (CouponStatus::Expired.into(), &ended)];
    for (status, expected) in of_status {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let request = pb::ListUserCouponsRequest { user_id: 5, status, limit: 4, after };
            let page = world.issuing.list_user_coupons(request).await.expect("it is a page").into_inner();
            assert!(page.coupons.len() == 4 || page.coupons.len() < 4 && page.next.is_empty(), "{page:?}");
            found.extend(page.coupons.iter().map(|coupon| coupon.coupon_id));
            after = page.next;
            if after.is_empty() {
                break;
            }
        }
        assert_eq!(found, *expected, "newest first");
    }
    // Where a page of one user ends, none of another begins.
    let request = |user_id, after| pb::ListUserCouponsRequest { user_id, status: 0, limit: 4, after };
    let page = world.issuing.list_user_coupons(request(5, String::new())).await.expect("it is a page").into_inner();
    let refused = world.issuing.list_user_coupons(request(6, page.next)).await.expect_err("it is of another");
    let refused = fault(&refused);
    assert_eq!((refused.code, refused.argument("field")), (Code::Invalid, Some("after")));

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
    let of_template = all.iter().filter(|claim| claim.template_id == 2).map(|claim| claim.coupon_id);
    let expected: BTreeSet<i64> = of_template.filter(|coupon_id| !ended.contains(coupon_id)).collect();
    assert_eq!(found, expected);
    let own = pb::GetCouponRequest { coupon_id: of_5[0], user_id: 5 };
    let shown = world.issuing.get_coupon(own).await.expect("it is his").into_inner().coupon.expect("a coupon");
    assert_eq!((shown.coupon_id, shown.user_id), (of_5[0], 5));
    let another = pb::GetCouponRequest { user_id: 6, ..own };
    let refused = world.issuing.get_coupon(another).await.expect_err("it is another's");
    assert_eq!(fault(&refused).code, Code::NotFound);
}
