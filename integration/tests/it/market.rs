//! The whole platform as processes on sharded MariaDB and Kafka, under load, while its parts are killed in turn.

mod load;
mod occasions;
mod planted;
mod shoppers;
mod stage;

use std::collections::BTreeMap;
use std::time::Duration;

use load::Load;
use occasions::Welcome;
use shoppers::Shoppers;
use stage::{Market, until};

/// What may happen to a coupon after what.
fn follows(before: &str, action: &str) -> bool {
    matches!(
        (before, action),
        ("", "coupon issued")
            | ("coupon issued" | "coupon given back", "coupon used")
            | ("coupon used", "coupon given back")
    )
}

/// Where the log has left a coupon, in the table's words.
fn status(last: &str) -> i64 {
    match last {
        "coupon issued" | "coupon given back" => 1,
        "coupon used" => 3,
        other => panic!("nothing else happens here: {other:?}"),
    }
}

/// The log and the tables say the same, and every order knows what it is to know.
async fn log_equals_tables(market: &Market) {
    let coupons = market.coupons().await;
    let logged = market.logged().await;
    let mut last: BTreeMap<i64, &str> = BTreeMap::new();
    for (coupon_id, action) in &logged {
        let before = last.insert(*coupon_id, action).unwrap_or("");
        assert!(follows(before, action), "coupon {coupon_id}: {action:?} after {before:?}");
    }
    let log: BTreeMap<i64, i64> = last.into_iter().map(|(coupon_id, last)| (coupon_id, status(last))).collect();
    assert_eq!(log, coupons);
    // Each order was told of its coupon, of which the latest word counts.
    assert_eq!(market.orders_untold().await, 0);
}

#[tokio::test]
async fn slots_move_to_twice_as_many_databases_under_load_whatever_is_killed_or_frozen() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut market) = Market::start(folder.path()).await else { return };
    let template_id = market.publish().await;
    let (load, shoppers) = (Load::start(&market, template_id), Shoppers::start(&market, template_id));
    market.progress().await;
    market.grow().await;
    let twin = market.twin();
    // It gives coupons by batches.
    let welcome = Welcome::start(market.issuing(), template_id).await;
    market.progress().await;

    let mut mover = market.mover();
    for moment in 1..=3 {
        tokio::time::sleep(Duration::from_millis(300 * moment)).await;
        assert_eq!(mover.ended().expect("it is a process"), None, "it is too quick to be killed");
        mover.restart().expect("it starts");
    }
    // Nothing looks wrong while some of them are here and some are there.
    let report = market.check(Duration::from_secs(30)).await;
    assert!(report.sound() && report.coupons > 0, "{report}");
    // It goes on when all slots have moved, with what it knew of them, and what it had begun.
    twin.freeze().expect("it runs");
    // Events that the frozen one was to publish are waited for, and where that takes too long, slots move later.
    until("all slots have moved", async || match mover.ended().expect("it is a process") {
        Some(true) => Some(()),
        Some(false) => {
            mover.restart().expect("it starts");
            None
        }
        None => None,
    })
    .await;
    twin.thaw().expect("it is there");
    market.progress().await;
    let report = market.check(Duration::from_secs(30)).await;
    assert!(report.sound() && report.coupons > 0, "{report}");
    welcome.stop().await;
    let (done, bought) = (load.stop().await, shoppers.stop().await);
    market.settle().await;
    done.agrees(&market).await;
    bought.agrees(&market).await;
    let report = market.check(Duration::ZERO).await;
    assert!(report.sound(), "{report}");
    log_equals_tables(&market).await;
}

#[tokio::test]
async fn whatever_is_killed_no_event_of_a_coupon_is_lost_or_has_two_effects() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut market) = Market::start(folder.path()).await else { return };
    let template_id = market.publish().await;
    let welcome = Welcome::start(market.issuing(), template_id).await;
    let (load, mut shoppers) = (Load::start(&market, template_id), Shoppers::start(&market, template_id));
    market.progress().await;
    // The relay of a coupon service that was killed keeps others away for a while, in which the broker comes back.
    for victims in [
        ["coupon", "kafka"],
        ["order", "business_log"],
        ["issuing", "stock"],
        ["coupon_template", "issuing"],
        ["redemption", "gateway"],
        ["mariadb", "coordinator"],
    ] {
        for victim in victims {
            market.kill(victim).await;
        }
        market.progress().await;
        shoppers.progress().await;
    }
    // What is kept while there is no coordinator is done when there is one again, whoever kept it.
    let go = shoppers.hesitant(&market, template_id).await;
    market.process("coordinator").kill();
    go.send(()).expect("he waits");
    shoppers.kept().await;
    market.kill("redemption").await;
    market.process("coordinator").restart().expect("it starts");
    shoppers.progress().await;
    // Nothing looks wrong for longer than it is under way.
    let report = market.check(Duration::from_secs(30)).await;
    assert!(report.sound() && report.coupons > 0, "{report}");
    welcome.stop().await;
    let (done, bought) = (load.stop().await, shoppers.stop().await);
    assert!(bought.lost > 0, "nobody missed the gateway");
    market.settle().await;
    done.agrees(&market).await;
    bought.agrees(&market).await;
    log_equals_tables(&market).await;
    planted::each_is_named(&market, template_id).await;
    planted::each_past_a_limit_is_named(&market).await;
}
