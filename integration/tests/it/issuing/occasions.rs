//! Occasions over gRPC: who gets what by which event, once; what is refused, and what nobody may ask for.

use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon::v1::create_occasion_request::On;
use tercet_proto::coupon_template::v1 as templates;
use tercet_rules::{Code, Fault};

use super::Hands;
use super::world::{
    Databases, FROM_MS, TO_MS, World, change, fault, on_sqlite, rules, told_on_mariadb, told_on_sqlite, until,
};

/// The same test on both.
macro_rules! on_both {
    ($($name:ident;)*) => {
        mod sqlite {$(
            #[tokio::test]
            async fn $name() {
                super::$name(super::told_on_sqlite().await).await;
            }
        )*}
        mod mariadb_and_kafka {$(
            #[tokio::test]
            async fn $name() {
                let Some(world) = super::told_on_mariadb().await else { return };
                let pools = world.shards.pools().iter().chain([&world.stock]).cloned();
                let watch = crate::plans::Watch::new(pools.collect::<Vec<_>>());
                super::$name(world).await;
                watch.check().await;
            }
        )*}
    };
}

on_both! {
    each_user_gets_his_once_however_often_it_is_told;
    what_is_refused_says_why_and_can_be_tried_again;
    what_was_stopped_long_ago_is_deleted_and_all_else_knows_its_users;
    what_is_not_known_is_tried_again_and_is_no_refusal;
}

fn registered(group: &str) -> On {
    On::Registered(pb::OnRegistered { group: group.into() })
}

const fn campaign(campaign_id: i64) -> On {
    On::Campaign(pb::OnCampaign { campaign_id })
}

fn occasion(on: On, template_id: i64, coupons_per_user: u32, key: &str) -> pb::CreateOccasionRequest {
    pb::CreateOccasionRequest {
        on: Some(on),
        template_id,
        coupons_per_user,
        operator: "ann".into(),
        reason: "welcome".into(),
        idempotency_key: key.into(),
    }
}

impl<Db: Databases> World<Db> {
    async fn create(&mut self, request: pb::CreateOccasionRequest) -> Result<pb::ChangeOccasionResponse, Fault> {
        let answer = self.issuing.create_occasion(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| fault(&status))
    }

    /// The id of an occasion that is new.
    async fn on(&mut self, on: On, template_id: i64, coupons_per_user: u32, key: &str) -> i64 {
        let made = self.create(occasion(on, template_id, coupons_per_user, key)).await.expect("it is sound");
        assert!(made.changed);
        made.occasion.expect("an occasion").occasion_id
    }

    async fn tell(&mut self, user_id: i64, groups: &[&str]) {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let request = pb::TellRegisteredRequest { user_id, groups, operator: "signup".into() };
        self.issuing.tell_registered(request).await.expect("it is sound");
    }

    async fn start(&mut self, campaign_id: i64, user_ids: &[i64]) {
        let (operator, reason, user_ids) = ("ann".into(), "spring".into(), user_ids.to_vec());
        let request = pb::StartCampaignRequest { campaign_id, user_ids, operator, reason };
        self.issuing.start_campaign(request).await.expect("it is sound");
    }

    /// Told, given and refused.
    async fn counts(&mut self, occasion_id: i64) -> (u64, u64, u64) {
        let request = pb::GetOccasionRequest { occasion_id };
        let found = self.issuing.get_occasion(request).await.expect("it is there").into_inner().occasion;
        let pb::Occasion { users, given, refused, .. } = found.expect("an occasion");
        (users, given, refused)
    }

    async fn until_counts(&mut self, occasion_id: i64, wanted: (u64, u64, u64)) {
        until(&format!("{wanted:?}"), async || self.counts(occasion_id).await == wanted).await;
    }

    async fn coupons_of(&mut self, user_id: i64) -> Vec<i64> {
        let list = pb::ListUserCouponsRequest { user_id, ..pb::ListUserCouponsRequest::default() };
        let coupons = self.issuing.list_user_coupons(list).await.expect("the tables are there").into_inner().coupons;
        coupons.iter().map(|coupon| coupon.template_id).collect()
    }

    async fn refusals(&mut self, occasion_id: i64) -> Vec<(String, Vec<i64>)> {
        let state = pb::RunState::Refused.into();
        let request = pb::ListOccasionRunsRequest { occasion_id, state, limit: 100, before: 0 };
        let runs = self.issuing.list_occasion_runs(request).await.expect("it is there").into_inner().runs;
        runs.into_iter().map(|run| (run.refusal, run.user_ids)).collect()
    }

    /// Runs, users and batches of occasions, and chunks in all databases.
    async fn left(&self) -> [i64; 4] {
        let count = async |pool, table: &str| Db::number(pool, format!("SELECT COUNT(*) FROM {table}")).await;
        let home = self.shards.home();
        let mut chunks = 0;
        for pool in self.shards.pools() {
            chunks += count(pool, "issue_chunk").await;
        }
        [
            count(home, "occasion_run").await,
            count(home, "occasion_user").await,
            count(home, "issue_batch WHERE batch_id LIKE 'occasion/%'").await,
            chunks,
        ]
    }

    async fn revision(&mut self, template_id: i64) -> u64 {
        let get = templates::GetTemplateRequest { template_id };
        let found = self.templates.get_template(get).await.expect("it is there").into_inner().template;
        found.expect("a template").revision
    }
}

async fn each_user_gets_his_once_however_often_it_is_told<Db: Databases>(mut world: World<Db>) {
    let (welcome, extra) =
        (world.publish("a", rules(100, 1, FROM_MS)).await, world.publish("b", rules(100, 1, FROM_MS)).await);
    let everyone = world.on(registered(""), welcome, 1, "k1").await;
    let vips = world.on(registered("vip"), extra, 2, "k2").await;
    let spring = world.on(campaign(7), extra, 1, "k3").await;
    for _ in 0..2 {
        world.tell(41, &["cn"]).await;
        world.tell(42, &["cn", "vip"]).await;
        world.start(7, &[42, 50, 51]).await;
        // Nobody waits for that one.
        world.start(8, &[60]).await;
    }
    // Some again, and one who was forgotten.
    world.start(7, &[52, 51, 50]).await;
    world.until_counts(everyone, (2, 2, 0)).await;
    world.until_counts(vips, (1, 1, 0)).await;
    world.until_counts(spring, (4, 4, 0)).await;
    let again = world.create(occasion(registered(""), welcome, 1, "k1")).await.expect("it is the same");
    assert_eq!((again.changed, again.occasion.map(|own| own.occasion_id)), (false, Some(everyone)));

    let stop = pb::StopOccasionRequest { occasion_id: everyone, operator: "bob".into(), reason: "enough".into() };
    for changed in [true, false] {
        let stopped = world.issuing.stop_occasion(stop.clone()).await.expect("it is there").into_inner();
        let occasion = stopped.occasion.expect("an occasion");
        assert_eq!((stopped.changed, occasion.state()), (changed, pb::OccasionState::Stopped));
    }
    world.tell(43, &["vip"]).await;
    // Both were told in one commit, if at all.
    world.until_counts(vips, (2, 2, 0)).await;
    for (user_id, wanted) in [
        (41, vec![welcome]),
        (42, vec![welcome, extra, extra, extra]),
        (43, vec![extra, extra]),
        (50, vec![extra]),
        (51, vec![extra]),
        (52, vec![extra]),
        (60, vec![]),
    ] {
        let mut found = world.coupons_of(user_id).await;
        found.sort_unstable();
        assert_eq!(found, wanted, "user {user_id}");
    }
    assert_eq!(world.counts(everyone).await, (2, 2, 0));
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (190, 0, 10));
    // What they were given takes nothing from what they may claim.
    world.claim(41, welcome, "k").await.expect("it is his first");

    let list = async |world: &mut World<Db>, state: i32, limit, before| {
        let request = pb::ListOccasionsRequest { state, limit, before };
        let page = world.issuing.list_occasions(request).await.expect("it is a page").into_inner();
        (page.occasions.iter().map(|own| own.occasion_id).collect::<Vec<_>>(), page.next)
    };
    assert_eq!(list(&mut world, 0, 2, 0).await, (vec![spring, vips], vips), "newest first");
    assert_eq!(list(&mut world, 0, 2, vips).await, (vec![everyone], 0));
    assert_eq!(list(&mut world, pb::OccasionState::Active.into(), 20, 0).await, (vec![spring, vips], 0));
}

async fn what_is_refused_says_why_and_can_be_tried_again<Db: Databases>(mut world: World<Db>) {
    let (few, later) = (world.publish("a", rules(7, 1, FROM_MS)).await, world.draft("b", rules(9, 1, FROM_MS)).await);
    let spring = world.on(campaign(7), few, 2, "k1").await;
    let autumn = world.on(campaign(8), later.template_id, 1, "k2").await;
    world.start(7, &[1, 2, 3, 4, 5]).await;
    world.start(8, &[1, 2]).await;
    // Enough for three of them.
    world.until_counts(spring, (5, 3, 2)).await;
    world.until_counts(autumn, (2, 0, 2)).await;
    assert_eq!(world.refusals(spring).await, [("SOLD_OUT".to_owned(), vec![4, 5])]);
    assert_eq!(world.refusals(autumn).await, [("NOT_OFFERED".to_owned(), vec![1, 2])]);
    assert_eq!(world.coupons_of(3).await, [few, few]);

    // More of the one, and the other begins.
    let request = templates::SetRulesRequest {
        template_id: few,
        rules: Some(rules(20, 1, FROM_MS)),
        change: change(world.revision(few).await),
    };
    let written = world.templates.set_rules(request).await.expect("it is sound").into_inner().template;
    for template in [written.expect("a template"), later] {
        let gray = world.gray(&template, 77).await;
        let (template_id, version) = (gray.template_id, gray.candidate_version);
        let request = templates::PromoteRequest { template_id, version, change: change(gray.revision) };
        world.templates.promote(request).await.expect("it is tried");
    }
    for (occasion_id, wanted) in [(spring, (5, 5, 0)), (autumn, (2, 2, 0))] {
        // An offer is a second old at most.
        until("all are given", async || {
            let (operator, reason) = ("ann".into(), "more".into());
            let retry = pb::RetryOccasionRequest { occasion_id, operator, reason };
            world.issuing.retry_occasion(retry).await.expect("it is there");
            world.counts(occasion_id).await == wanted
        })
        .await;
        assert_eq!(world.refusals(occasion_id).await, []);
    }
    for user_id in 1..=5 {
        assert_eq!(world.coupons_of(user_id).await.len(), if user_id < 3 { 3 } else { 2 }, "user {user_id}");
    }
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (17, 0, 12));
}

async fn what_was_stopped_long_ago_is_deleted_and_all_else_knows_its_users<Db: Databases + Hands>(
    mut world: World<Db>,
) {
    let template_id = world.publish("a", rules(100, 1, FROM_MS)).await;
    let scarce = world.publish("b", rules(1, 1, FROM_MS)).await;
    let mut occasions = Vec::new();
    for (campaign_id, template_id, per_user, user_ids) in [
        (7, template_id, 1, &[1, 2][..]),
        (8, scarce, 2, &[1, 2]),
        // Active, stopped lately, and stopped long ago with a run that waits.
        (9, template_id, 1, &[1, 2]),
        (10, template_id, 1, &[1]),
        (11, template_id, 1, &[1]),
    ] {
        let own = world.on(campaign(campaign_id), template_id, per_user, &campaign_id.to_string()).await;
        world.start(campaign_id, user_ids).await;
        let users = user_ids.len() as u64;
        world.until_counts(own, if template_id == scarce { (users, 0, users) } else { (users, users, 0) }).await;
        occasions.push(own);
    }
    let [old, refused, active, lately, waiting] = occasions[..] else { panic!("five") };
    let home = world.shards.home().clone();
    let by_hand = async |sql: String| Db::by_hand(&home, sql).await;
    by_hand(format!("UPDATE occasion_run SET state = 0, due_ms = {TO_MS} WHERE occasion_id = {waiting}")).await;
    for (occasion_id, days) in [(old, 31_i64), (refused, 31), (lately, 29), (waiting, 31)] {
        let stop = pb::StopOccasionRequest { occasion_id, operator: "bob".into(), reason: "enough".into() };
        world.issuing.stop_occasion(stop).await.expect("it is there");
        let ms = days * 86_400_000;
        by_hand(format!("UPDATE occasion SET stopped_ms = stopped_ms - {ms} WHERE occasion_id = {occasion_id}")).await;
    }
    // Runs, users, batches and chunks: of the other three.
    until("the two are gone", async || world.left().await == [3, 4, 3, 4]).await;
    assert_eq!((world.counts(old).await, world.counts(refused).await), ((2, 2, 0), (2, 0, 2)), "their counts stay");
    assert_eq!(world.refusals(refused).await, []);
    let retry = pb::RetryOccasionRequest { occasion_id: refused, operator: "ann".into(), reason: "more".into() };
    let retried = world.issuing.retry_occasion(retry).await.expect("it is there").into_inner();
    assert!(!retried.changed);

    // Whoever hears of the last has heard of the others.
    for campaign_id in 7..=11 {
        world.start(campaign_id, &[1, 2]).await;
    }
    world.start(9, &[1, 2, 3]).await;
    world.until_counts(active, (3, 3, 0)).await;
    for (user_id, wanted) in [(1, 4), (2, 2), (3, 1)] {
        assert_eq!(world.coupons_of(user_id).await.len(), wanted, "user {user_id}");
    }
    by_hand(format!("UPDATE occasion_run SET state = 1 WHERE occasion_id = {waiting}")).await;
    until("the third is gone", async || world.left().await == [3, 4, 3, 4]).await;
    assert_eq!((world.counts(lately).await, world.counts(waiting).await), ((1, 1, 0), (1, 1, 0)));
}

async fn what_is_not_known_is_tried_again_and_is_no_refusal<Db: Databases>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(100, 1, FROM_MS)).await;
    let spring = world.on(campaign(7), template_id, 1, "k").await;
    // From now on its stock is there, and events come.
    world.start(7, &[9]).await;
    world.until_counts(spring, (1, 1, 0)).await;
    world.coordinator.crash().await;
    world.start(7, &[1, 2]).await;
    let home = world.shards.home().clone();
    until("it was tried in vain", async || {
        let sql = "SELECT COUNT(*) FROM occasion_run WHERE state = 0 AND tries > 1";
        Db::number(&home, sql.to_owned()).await == 1
    })
    .await;
    world.coordinator.start_again().await;
    world.until_counts(spring, (3, 3, 0)).await;
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (97, 0, 3));
}

#[tokio::test]
async fn what_an_occasion_can_not_be_is_named() {
    let mut world = told_on_sqlite().await;
    let template_id = world.publish("a", rules(3, 2, FROM_MS)).await;
    let sound = occasion(registered(""), template_id, 1, "k");
    for (request, code, field) in [
        (pb::CreateOccasionRequest { on: None, ..sound.clone() }, Code::Invalid, "on"),
        (occasion(campaign(0), template_id, 1, "k"), Code::Invalid, "on.campaign.campaign_id"),
        (occasion(registered(&"x".repeat(65)), template_id, 1, "k"), Code::Invalid, "on.registered.group"),
        (occasion(registered(""), 0, 1, "k"), Code::Invalid, "template_id"),
        (occasion(registered(""), template_id, 0, "k"), Code::Invalid, "coupons_per_user"),
        (occasion(registered(""), template_id, 21, "k"), Code::Invalid, "coupons_per_user"),
        (occasion(registered(""), template_id, 1, ""), Code::Invalid, "idempotency_key"),
        (pb::CreateOccasionRequest { reason: String::new(), ..sound.clone() }, Code::Invalid, "reason"),
        (pb::CreateOccasionRequest { operator: String::new(), ..sound.clone() }, Code::Invalid, "operator"),
        (occasion(registered(""), 77_777, 1, "k"), Code::NotFound, ""),
    ] {
        let refused = world.create(request).await.expect_err("it is refused");
        assert_eq!((refused.code, refused.argument("field").unwrap_or_default()), (code, field));
    }
    world.create(sound).await.expect("it is sound");
    let refused = world.create(occasion(registered(""), template_id, 2, "k")).await;
    assert_eq!(refused.expect_err("it is another").code, Code::KeyReused);
    let stop = pb::StopOccasionRequest { occasion_id: 5, operator: "ann".into(), reason: "r".into() };
    assert_eq!(fault(&world.issuing.stop_occasion(stop).await.expect_err("none")).code, Code::NotFound);
    let told =
        pb::StartCampaignRequest { campaign_id: 7, user_ids: vec![5, 5], operator: "ann".into(), reason: "r".into() };
    let refused = fault(&world.issuing.start_campaign(told).await.expect_err("one is there twice"));
    assert_eq!((refused.code, refused.argument("field")), (Code::Invalid, Some("user_ids[1]")));
    let many = "INSERT INTO occasion(occasion_id, idempotency_key, digest, what, user_group, campaign_id, template_id,
            coupons_per_user, state, revision, operator, reason, created_ms)
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 999)
        SELECT i, 'by hand ' || i, '', 2, '', 1, 1, 1, 1, 1, 'ann', 'r', 1 FROM n";
    sqlx::Sqlite::by_hand(world.shards.home(), many.to_owned()).await;
    let refused = world.create(occasion(registered(""), template_id, 1, "l")).await.expect_err("there are enough");
    assert_eq!((refused.code, refused.argument("field")), (Code::Invalid, Some("occasions")));
}

#[tokio::test]
async fn without_events_nobody_waits_for_an_occasion() {
    let mut world = on_sqlite(super::CRON).await;
    let template_id = world.publish("a", rules(3, 2, FROM_MS)).await;
    let refused = world.create(occasion(registered(""), template_id, 1, "k")).await.expect_err("it never comes");
    let tell = pb::TellRegisteredRequest { user_id: 7, groups: Vec::new(), operator: "signup".into() };
    let told = fault(&world.issuing.tell_registered(tell).await.expect_err("nobody would hear it"));
    assert_eq!((refused.code, told.code), (Code::NoEvents, Code::NoEvents));
}
