//! Batches: issued once, to their end, or until an operator ends them.

use std::ops::RangeInclusive;

use sqlx::Pool;
use tercet_coupon::audit;
use tercet_coupon::issuing::CRON;
use tercet_proto::coupon::v1::{self as pb, CouponStatus};
use tercet_proto::coupon_template::v1 as templates;
use tercet_rules::Code;
use tercet_shards::Slot;

use super::world::{Databases, EVERY_SECOND, FROM_MS, World, change, on_mariadb, on_sqlite, rules, until};
use super::{Hands, code, coupon};

on_both! {
    a_batch_is_issued_once_however_often_it_is_asked_for(super::CRON);
    a_batch_is_issued_to_its_end_when_its_process_and_its_caller_are_gone(super::CRON);
    a_batch_that_an_operator_ends_gives_the_rest_back(super::CRON);
    a_batch_that_is_ended_while_its_last_coupons_are_written_ends(super::CRON);
    what_a_batch_gives_back_when_its_template_has_ended_is_returned(super::EVERY_SECOND);
    batches_are_listed_by_pages(super::CRON);
}

/// One of Ann's for these users.
fn batch(batch_id: &str, template_id: i64, users: RangeInclusive<i64>, coupons_per_user: u32) -> pb::IssueRequest {
    pb::IssueRequest {
        batch_id: batch_id.to_owned(),
        template_id,
        user_ids: users.collect(),
        coupons_per_user,
        operator: "ann".into(),
        reason: "spring".into(),
    }
}

/// Ann ends it.
fn end(batch_id: &str) -> pb::EndIssueRequest {
    pb::EndIssueRequest { batch_id: batch_id.to_owned(), operator: "ann".into(), reason: "too many".into() }
}

async fn a_batch_is_issued_once_however_often_it_is_asked_for<Db: Databases + Hands>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(10_000, 1, FROM_MS)).await;
    let request = batch("spring/1", template_id, 1..=3_000, 2);
    // Hung up on at once, wherever that leaves it, and asked for by two at a time.
    drop(world.issuing.issue(request.clone()).await.expect("it begins"));
    let mut other = world.issuing.clone();
    let twice = request.clone();
    let beside = tokio::spawn(async move {
        let mut stream = other.issue(twice).await.expect("it goes on").into_inner();
        let mut last = None;
        while let Ok(Some(batch)) = stream.message().await {
            last = Some(batch);
        }
        last
    });
    let mut told = Vec::new();
    until("the batch is done", async || match world.issue(&request).await {
        Ok(batches) => {
            told = batches;
            true
        }
        // The one beside is just opening it.
        Err(fault) if fault.code == Code::SystemBusy => false,
        Err(fault) => panic!("{fault}"),
    })
    .await;
    let last = told.last().expect("it is told").clone();
    assert_eq!((last.state(), last.coupons, last.issued), (pb::BatchState::Done, 6_000, 6_000));
    assert!(told.iter().map(|batch| batch.issued).is_sorted(), "{told:?}");
    beside.await.expect("it does not panic");

    let again = world.issue(&request).await.expect("it is done");
    assert_eq!(again, std::slice::from_ref(&last));
    // One that has stopped goes on when it is asked for.
    Db::by_hand(world.shards.home(), "UPDATE issue_batch SET state = 3, lease_ms = 0".to_owned()).await;
    let told = world.issue(&request).await.expect("it goes on");
    let states: Vec<_> = told.iter().map(pb::Batch::state).collect();
    assert_eq!((states[0], states.last()), (pb::BatchState::Stopped, Some(&pb::BatchState::Done)));
    let last = told.last().expect("it is told").clone();
    let get = pb::GetIssueRequest { batch_id: "spring/1".into() };
    let found = world.issuing.get_issue(get).await.expect("it is there").into_inner().batch;
    assert_eq!(found, Some(last));
    let differs = pb::IssueRequest { coupons_per_user: 1, ..request };
    assert_eq!(code(world.issue(&differs).await), Code::KeyReused);

    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (4_000, 0, 6_000));
    let totals = audit(&world.shards).await.expect("the tables are there");
    assert_eq!((totals.issued, totals.miscounted, totals.over_limit), (6_000, 0, 0));
    for user_id in [1, 2, 2_999, 3_000] {
        let list = pb::ListUserCouponsRequest { user_id, ..pb::ListUserCouponsRequest::default() };
        let coupons = world.issuing.list_user_coupons(list).await.expect("the tables are there").into_inner().coupons;
        assert_eq!(coupons.len(), 2, "user {user_id}");
        assert!(coupons.iter().all(|coupon| coupon.status() == CouponStatus::Available && coupon.version == 1));
    }
    // A batch takes nothing from what a user may claim.
    coupon(world.claim(1, template_id, "k").await, true);
    assert_eq!(code(world.claim(1, template_id, "k2").await), Code::PerUserLimit);
}

/// Lets a database take no coupon.
pub(super) async fn close<Db: Hands>(pool: &Pool<Db>) {
    for n in 0..4 {
        Db::by_hand(pool, format!("ALTER TABLE coupon_00{n} RENAME TO away_00{n}")).await;
    }
}

/// Lets it take them again.
pub(super) async fn open<Db: Hands>(pool: &Pool<Db>) {
    for n in 0..4 {
        Db::by_hand(pool, format!("ALTER TABLE away_00{n} RENAME TO coupon_00{n}")).await;
    }
}

async fn a_batch_is_issued_to_its_end_when_its_process_and_its_caller_are_gone<Db: Databases + Hands>(
    mut world: World<Db>,
) {
    let template_id = world.publish("a", rules(30_000, 1, FROM_MS)).await;
    let request = batch("spring/2", template_id, 1..=12_000, 1);
    // It gets as far as one of the databases lets it.
    let (process, mut second) = world.second().await;
    let closed = world.shards.pools()[1].clone();
    close::<Db>(&closed).await;
    let stream = second.issue(request).await.expect("it begins").into_inner();
    let progress = async |world: &mut World<Db>| {
        let found = world.issuing.get_issue(pb::GetIssueRequest { batch_id: "spring/2".into() }).await;
        found.ok().and_then(|found| found.into_inner().batch)
    };
    let home = world.shards.home().clone();
    until("some of it is issued", async || {
        let mut connection = home.acquire().await.expect("the pool is open");
        let batch = Db::batch(&mut connection, "spring/2").await.expect("the table is there");
        let Some(batch) = batch else { return false };
        !Db::chunks(&mut connection, batch.batch).await.expect("the table is there").is_empty()
    })
    .await;
    drop((stream, second));
    process.shutdown_background();
    // Nobody would look again for those whose time has ended by now.
    Db::by_hand(&home, "UPDATE issue_batch SET valid_until_ms = 1".to_owned()).await;
    open::<Db>(&closed).await;
    until("it is done, though nobody asked again", async || {
        progress(&mut world).await.is_some_and(|batch| batch.state() == pb::BatchState::Done)
    })
    .await;
    assert_eq!(progress(&mut world).await.expect("it is there").issued, 12_000);
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (18_000, 0, 12_000));
    let totals = audit(&world.shards).await.expect("the tables are there");
    assert!(totals.expired > 0 && totals.issued + totals.expired == 12_000, "{totals:?}");
    let mut connection = home.acquire().await.expect("the pool is open");
    let batch = Db::batch(&mut connection, "spring/2").await.expect("the table is there").expect("it is there");
    assert!(Db::users(&mut connection, batch.batch).await.expect("the table is there").is_empty());
}

async fn a_batch_that_an_operator_ends_gives_the_rest_back<Db: Databases + Hands>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(2_000, 1, FROM_MS)).await;
    let request = batch("spring/3", template_id, 1..=2_000, 1);
    let closed = world.shards.pools()[1].clone();
    close::<Db>(&closed).await;
    let stream = world.issuing.issue(request.clone()).await.expect("it begins");
    let home = world.shards.home().clone();
    until("some of it is issued", async || {
        let mut connection = home.acquire().await.expect("the pool is open");
        let batch = Db::batch(&mut connection, "spring/3").await.expect("the table is there");
        let Some(batch) = batch else { return false };
        !Db::chunks(&mut connection, batch.batch).await.expect("the table is there").is_empty()
    })
    .await;
    drop(stream);
    let map = world.shards.map().clone();
    let late = (9_999..).find(|user_id| map.database(Slot::of_user(*user_id)) == 0).expect("there are many");
    assert_eq!(code(world.claim(late, template_id, "k").await), Code::SoldOut);
    let end = end("spring/3");
    let ending = world.issuing.end_issue(end.clone()).await.expect("it runs").into_inner().batch;
    assert_eq!(ending.expect("a batch").state(), pb::BatchState::Ending);
    // Nobody is told that it is sold out once some are free, however often that was true.
    let mut number = 0;
    until("what comes back is claimed", async || {
        let (free, ..) = world.units().await;
        let told = world.claim(late, template_id, &format!("k{number}")).await;
        if told.is_ok() {
            return true;
        }
        let code = code(told);
        // Of one that is busy nobody knows what came: the same again finds it.
        if code != Code::SystemBusy {
            assert!(code == Code::SoldOut && free == 0, "{free} are free: {code:?}");
            number += 1;
        }
        false
    })
    .await;
    let list = pb::ListIssuesRequest { state: pb::BatchState::Ended.into(), ..pb::ListIssuesRequest::default() };
    let mut ended = Vec::new();
    until("it has ended", async || {
        ended = world.issuing.list_issues(list).await.expect("a page").into_inner().batches;
        ended.len() == 1
    })
    .await;
    open::<Db>(&closed).await;
    let issued = ended[0].issued;
    assert!(issued > 0 && issued < 2_000, "{ended:?}");
    world.coordinator.all_ended().await;
    let issued = issued as i64;
    let claimed = issued + 1;
    assert_eq!(world.units().await, (2_000 - claimed, 0, claimed));
    assert_eq!(audit(&world.shards).await.expect("the tables are there").issued, claimed);
    // Again, it stays as it is, and so does the same batch.
    let again = world.issuing.end_issue(end).await.expect("it has ended").into_inner().batch;
    assert_eq!(again.as_ref(), ended.first());
    let told = world.issue(&request).await.expect("it is there");
    assert_eq!(told.last().map(pb::Batch::state), Some(pb::BatchState::Ended));
}

/// There may be nothing left to give back: all the same somebody has to end it.
async fn a_batch_that_is_ended_while_its_last_coupons_are_written_ends<Db: Databases + Hands>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(1_000, 1, FROM_MS)).await;
    let request = batch("spring/4", template_id, 1..=200, 1);
    let closed = world.shards.pools()[1].clone();
    close::<Db>(&closed).await;
    let mut stream = world.issuing.issue(request).await.expect("it begins").into_inner();
    let told = stream.message().await.expect("it is told").expect("a batch");
    assert_eq!(told.state(), pb::BatchState::Running);
    let end = end("spring/4");
    world.issuing.end_issue(end).await.expect("it runs");
    // Its process looks once a second whether it goes on.
    open::<Db>(&closed).await;
    let mut issued = 0;
    until("it has ended", async || {
        let get = pb::GetIssueRequest { batch_id: "spring/4".into() };
        let found = world.issuing.get_issue(get).await.expect("it is there").into_inner().batch.expect("a batch");
        issued = found.issued as i64;
        found.state() == pb::BatchState::Ended
    })
    .await;
    world.coordinator.all_ended().await;
    assert_eq!(world.units().await, (1_000 - issued, 0, issued));
    assert_eq!(audit(&world.shards).await.expect("the tables are there").issued, issued);
}

async fn what_a_batch_gives_back_when_its_template_has_ended_is_returned<Db: Databases + Hands>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(300, 1, FROM_MS)).await;
    let request = batch("spring/5", template_id, 1..=200, 1);
    let closed = world.shards.pools()[1].clone();
    close::<Db>(&closed).await;
    let mut stream = world.issuing.issue(request).await.expect("it begins").into_inner();
    stream.message().await.expect("it is told").expect("a batch");
    let get = templates::GetTemplateRequest { template_id };
    let found = world.templates.get_template(get).await.expect("it is there").into_inner().template;
    let request = templates::EndRequest { template_id, change: change(found.expect("a template").revision) };
    world.templates.end(request).await.expect("it is published");
    until("what nobody wants is returned", async || world.units().await == (0, 0, 200)).await;
    let end = end("spring/5");
    world.issuing.end_issue(end).await.expect("it runs");
    until("and so is what was wanted and not issued", async || {
        let (free, reserved, issued) = world.units().await;
        free + reserved == 0 && issued < 200
    })
    .await;
    open::<Db>(&closed).await;
}

async fn batches_are_listed_by_pages<Db: Databases>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(300, 1, FROM_MS)).await;
    for batch_id in ["a", "b", "c"] {
        let request = pb::IssueRequest {
            batch_id: batch_id.into(),
            template_id,
            user_ids: vec![7],
            coupons_per_user: 1,
            operator: "ann".into(),
            reason: "spring".into(),
        };
        world.issue(&request).await.expect("it is done");
    }
    for state in [pb::BatchState::Unspecified, pb::BatchState::Done] {
        let list = pb::ListIssuesRequest { state: state.into(), limit: 2, ..pb::ListIssuesRequest::default() };
        let first = world.issuing.list_issues(list).await.expect("a page").into_inner();
        let list = pb::ListIssuesRequest { before: first.next, ..list };
        let second = world.issuing.list_issues(list).await.expect("a page").into_inner();
        let ids = |page: &pb::ListIssuesResponse| -> Vec<String> {
            page.batches.iter().map(|batch| batch.batch_id.clone()).collect()
        };
        assert_eq!(ids(&first), ["c", "b"], "newest first");
        assert_eq!((ids(&second), second.next), (vec!["a".to_owned()], 0));
    }
}
