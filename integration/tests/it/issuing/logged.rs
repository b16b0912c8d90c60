//! What the business log has of what issuing does by itself, and of what operators do with batches.

use tercet_coupon::{claim_by_hand, seed_coupons};
use tercet_proto::coupon::v1 as pb;

use super::Hands;
use super::batches::{close, open};
use super::world::{Databases, FROM_MS, World, logged_on_mariadb, logged_on_sqlite, rules, until};

#[tokio::test]
async fn what_expires_and_what_is_done_with_batches_is_logged() {
    logged(logged_on_sqlite().await).await;
}

#[tokio::test]
async fn what_expires_and_what_is_done_with_batches_is_logged_through_kafka() {
    let Some(world) = logged_on_mariadb().await else { return };
    logged(world).await;
}

async fn logged<Db: Databases + Hands>(mut world: World<Db>) {
    let ended: Vec<_> =
        (1..=20).map(|number| pb::Claim { valid_until_ms: 1, ..claim_by_hand(number, number, 9, 1) }).collect();
    seed_coupons(&world.shards, &ended).await.expect("they are new");
    let template_id = world.publish("a", rules(300, 1, FROM_MS)).await;
    let request = pb::IssueRequest {
        batch_id: "spring".into(),
        template_id,
        user_ids: (1..=200).collect(),
        coupons_per_user: 1,
        operator: "ann".into(),
        reason: "sale".into(),
    };
    let closed = world.shards.pools()[1].clone();
    close::<Db>(&closed).await;
    let mut stream = world.issuing.issue(request).await.expect("it begins").into_inner();
    stream.message().await.expect("it is told").expect("a batch");
    let end = pb::EndIssueRequest { batch_id: "spring".into(), operator: "bob".into(), reason: "too many".into() };
    world.issuing.end_issue(end).await.expect("it runs");
    let get = || pb::GetIssueRequest { batch_id: "spring".into() };
    let (mut issuing, mut issued) = (world.issuing.clone(), 0);
    until("it has ended", async || {
        let found = issuing.get_issue(get()).await.expect("it is there").into_inner().batch.expect("a batch");
        issued = found.issued as i64;
        found.state() == pb::BatchState::Ended
    })
    .await;
    open::<Db>(&closed).await;
    let wanted = [
        ("action = 'coupon expired' AND template_id = 9 AND state_before <> '' AND state_after <> ''", 20),
        (
            "action = 'coupon issued' AND operator = 'ann' AND reason = 'sale'
                AND state_after LIKE '%\"batch_id\":\"spring\"%'",
            issued,
        ),
        ("action = 'batch issue' AND operator = 'ann' AND reason = 'sale' AND state_after <> '' AND about_id > 0", 1),
        (
            "action = 'batch end' AND operator = 'bob' AND reason = 'too many' AND about_id > 0
                AND state_before LIKE '%\"batch_id\":\"spring\"%' AND state_after LIKE '%\"state\":\"ending\"%'",
            1,
        ),
    ];
    let log = world.log.clone().expect("there is one");
    for (entries, count) in wanted {
        let sql = format!("SELECT COUNT(*) FROM business_log WHERE {entries}");
        until(entries, async || Db::number(&log, sql.clone()).await == count).await;
    }
}
