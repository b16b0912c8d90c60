//! What is done by the clock: coupons expire, and stock that nobody claimed goes back.

use std::time::Duration;

use sqlx::MySql;
use tercet_coupon::store::jobs::Jobs as _;
use tercet_coupon::{Shards, audit, claim_by_hand, seed_coupons};
use tercet_integration::servers;
use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon_template::v1 as templates;
use tercet_shards::{ShardMap, Slot};

use super::world::{Databases, EVERY_SECOND, FROM_MS, World, change, on_mariadb, on_sqlite, rules, until};
use super::{Hands, coupon};

on_both! {
    what_has_ended_expires_and_unclaimed_stock_goes_back(super::EVERY_SECOND);
    a_database_and_a_template_that_fail_keep_nothing_else_from_being_done(super::EVERY_SECOND);
    stock_stays_while_an_audience_may_claim(super::EVERY_SECOND);
}

async fn what_has_ended_expires_and_unclaimed_stock_goes_back<Db: Databases + Hands>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(100, 1, FROM_MS)).await;
    let now_ms = coupon(world.claim(7, template_id, "k").await, true).claimed_ms;
    let open: Vec<_> = (2_001..=2_009).map(|number| claim_by_hand(number, 7, 9, 9_999)).collect();
    // What began before its end may still be under way.
    let lately = pb::Claim { valid_until_ms: now_ms, ..claim_by_hand(2_010, 7, 9, 9_999) };
    // More than one transaction of one table, with one end for many; and some in all tables.
    let of = |number: i64| if number <= 1_200 { 7 } else { number };
    let ended: Vec<_> = (1..=1_300)
        .map(|number| pb::Claim { valid_until_ms: 1 + number % 2, ..claim_by_hand(number, of(number), 9, 9_999) })
        .collect();
    for coupons in [&open[..], &[lately][..], &ended[..]] {
        seed_coupons(&world.shards, coupons).await.expect("they are new");
    }
    let get = templates::GetTemplateRequest { template_id };
    let found = world.templates.get_template(get).await.expect("it is there").into_inner().template;
    let request = templates::EndRequest { template_id, change: change(found.expect("a template").revision) };
    world.templates.end(request).await.expect("it is published");
    // Of another the claims alone have ended.
    let other = world.publish("b", rules(50, 1, FROM_MS)).await;
    coupon(world.claim(8, other, "k").await, true);
    let end = format!("UPDATE template SET start_time = 1, end_time = 2 WHERE template_id = {other}");
    Db::by_hand(&world.stock, end).await;
    // And of a third just now.
    let third = world.publish("c", rules(3, 1, FROM_MS)).await;
    coupon(world.claim(9, third, "k").await, true);
    let end = format!("UPDATE template SET start_time = 1, end_time = {now_ms} WHERE template_id = {third}");
    Db::by_hand(&world.stock, end).await;
    let shards = world.shards.clone();
    until("all that ended are expired", async || {
        let totals = audit(&shards).await.expect("the tables are there");
        totals.expired == 1_300 && totals.issued == 13
    })
    .await;
    until("nothing is left of the first two templates", async || world.units().await == (2, 0, 3)).await;
    // Another process has the jobs only when this one has been silent for long.
    let mut connection = shards.home().acquire().await.expect("the pool is open");
    assert!(!Db::lease_jobs(&mut connection, 77, 1_000).await.expect("the table is there"));
    // Had it them, this one would leave them alone.
    Db::by_hand(shards.home(), "UPDATE job SET runner = 77, lease_ms = 4000000000000".to_owned()).await;
    // A round that had begun is over by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let next = pb::Claim { valid_until_ms: 3, ..claim_by_hand(3_001, 7, 9, 9_999) };
    seed_coupons(&shards, &[next]).await.expect("it is new");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(audit(&shards).await.expect("the tables are there").expired, 1_300);
    Db::by_hand(shards.home(), "UPDATE job SET lease_ms = 0".to_owned()).await;
    until("it does them again", async || audit(&shards).await.expect("the tables are there").expired == 1_301).await;
    assert_eq!(world.units().await, (2, 0, 3), "claims of the third may be under way");
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
