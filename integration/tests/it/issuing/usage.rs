//! What is done with coupons of a version that is tried, beside what is done with all others, from claims and
//! redemptions to the comparison.

use tercet::client::Wait;
use tercet::plan;
use tercet_coupon::{GIVE_BACK, REDEEM, issuing};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon_template::v1 as templates;

use super::world::{Databases, FROM_MS, World, change, rules, told_on_mariadb, told_on_sqlite, until};

#[tokio::test]
async fn what_is_done_with_a_version_that_is_tried_is_compared() {
    compared(told_on_sqlite().await).await;
}

#[tokio::test]
async fn what_is_done_with_a_version_that_is_tried_is_compared_through_kafka() {
    let Some(world) = told_on_mariadb().await else { return };
    compared(world).await;
}

async fn compared<Db: Databases>(mut world: World<Db>) {
    let template_id = world.publish("a", rules(100, 9, FROM_MS)).await;
    // Claimed before anything is tried beside it, and used meanwhile.
    let early = world.claim(7, template_id, "early").await.expect("it is granted").coupon.expect("a coupon");
    let get = templates::GetTemplateRequest { template_id };
    let found = world.templates.get_template(get).await.expect("it is there").into_inner().template;
    let request = templates::SetRulesRequest {
        template_id,
        rules: Some(rules(50, 9, FROM_MS)),
        change: change(found.expect("a template").revision),
    };
    let written = world.templates.set_rules(request).await.expect("it is sound").into_inner().template;
    world.gray(&written.expect("a template"), 42).await;
    // The offer that the early claim was made by is good for so long.
    tokio::time::sleep(issuing::FRESH).await;
    let mut coupons = Vec::new();
    for (user_id, key) in [(42, "a"), (42, "b"), (7, "a"), (8, "a"), (9, "a")] {
        let made = world.claim(user_id, template_id, key).await.expect("it is granted").coupon;
        coupons.push(made.expect("a coupon"));
    }
    assert_eq!(coupons.iter().map(|coupon| coupon.version).collect::<Vec<_>>(), [2, 2, 1, 1, 1]);
    for (order_id, coupon) in [(1_000, &early), (1_001, &coupons[0]), (1_002, &coupons[2])] {
        let redeem = pb::Redeem {
            coupon_id: coupon.coupon_id,
            user_id: coupon.user_id,
            order_id,
            amount_cents: 3_000,
            discount_cents: 500,
            shop_id: 3,
            ..pb::Redeem::default()
        };
        let mut plan = plan::tcc();
        plan.branch(REDEEM.with(&redeem).expect("it has a form"));
        let plan = plan.build().expect("it is sound");
        let view = world.coordinator.client().submit(plan, Wait::Ended).await.expect("it is decided");
        view.confirmed().expect("it is his");
    }
    let back = pb::GiveBack {
        coupon_id: coupons[2].coupon_id,
        order_id: 1_002,
        discount_cents: 500,
        shop_id: 3,
        amount_cents: 3_000,
    };
    let mut plan = plan::saga();
    plan.branch(GIVE_BACK.with(&back).expect("it has a form"));
    let plan = plan.build().expect("it is sound");
    let view = world.coordinator.client().submit(plan, Wait::Ended).await.expect("it is decided");
    view.confirmed().expect("its order used it");
    let totals = |claimed, refunded, use_basis_points| {
        let (discount_cents, order_cents) = (500 * (1 - refunded), 3_000 * (1 - refunded));
        Some(templates::UsageTotals { claimed, used: 1, refunded, discount_cents, order_cents, use_basis_points })
    };
    let wanted = (totals(2, 0, 5_000), totals(3, 1, 0));
    until("all of it is counted", async || {
        let request = templates::CompareUsageRequest { template_id, version: 2 };
        let found = world.templates.compare_usage(request).await.expect("it exists").into_inner();
        (found.gray, found.rest) == wanted
    })
    .await;
}
