//! Corruptions, each planted in what the market has left, named by the checker, and taken back.

use std::time::Duration;

use tercet_platform::flows::template_item;
use tercet_proto::coupon::v1::ClaimRequest;
use tercet_proto::coupon_template::v1::{Quota, Rules};

use super::stage::{ITEM, Market, until};
use crate::issuing::world::{FROM_MS, rules};

struct Planted {
    what: &'static str,
    database: &'static str,
    plant: String,
    undo: String,
    found: &'static str,
}

fn all(template_id: i64) -> Vec<Planted> {
    let mut all = Vec::from(of_coupons_and_orders(template_id));
    all.extend(of_events());
    all
}

fn of_coupons_and_orders(template_id: i64) -> [Planted; 6] {
    let item = template_item(template_id);
    let issued = |item: i64, by: &str| {
        format!("UPDATE stock SET free = free {by} 1, issued = issued - (0 {by} 1) WHERE item = {item}")
    };
    [
        Planted {
            what: "a unit that was issued is free again",
            database: "stock",
            plant: issued(item, "+"),
            undo: issued(item, "-"),
            found: "coupons exist, and",
        },
        Planted {
            what: "a unit that an order has is free again",
            database: "stock",
            plant: issued(ITEM, "+"),
            undo: issued(ITEM, "-"),
            found: "orders have",
        },
        Planted {
            what: "the order of a redemption is gone",
            database: "coupon_0",
            plant: "UPDATE redemption SET order_id = -order_id WHERE state = 2 ORDER BY redemption_id LIMIT 1".into(),
            undo: "UPDATE redemption SET order_id = -order_id WHERE order_id < 0".into(),
            found: "is done, and",
        },
        Planted {
            what: "a coupon is locked for an order that there never was",
            database: "coupon_0",
            plant: "UPDATE coupon_001 SET status = 2, shop_id = 9, order_id = -7, discount_cents = 500
                    WHERE status = 1 ORDER BY coupon_id LIMIT 1"
                .into(),
            undo: "UPDATE coupon_001 SET status = 1, shop_id = NULL, order_id = NULL, discount_cents = NULL
                    WHERE order_id = -7"
                .into(),
            found: "is locked for",
        },
        Planted {
            what: "the order of a used coupon is gone",
            database: "orders",
            plant: "UPDATE orders SET order_id = -order_id WHERE status = 1 ORDER BY order_id LIMIT 1".into(),
            undo: "UPDATE orders SET order_id = -order_id WHERE order_id < 0".into(),
            found: "which does not exist",
        },
        Planted {
            what: "an order took a cent more off than its coupon gave",
            database: "orders",
            plant: "UPDATE orders SET discount_cents = 501 WHERE status = 1 ORDER BY order_id LIMIT 1".into(),
            undo: "UPDATE orders SET discount_cents = 500 WHERE discount_cents = 501".into(),
            found: "gave 500 cents",
        },
    ]
}

fn of_events() -> [Planted; 3] {
    [
        Planted {
            what: "an event of a coupon is lost",
            database: "log",
            plant: "UPDATE business_log SET coupon_id = -coupon_id WHERE action = 'coupon issued'
                    ORDER BY log_id DESC LIMIT 1"
                .into(),
            undo: "UPDATE business_log SET coupon_id = -coupon_id WHERE coupon_id < 0".into(),
            found: "the log of coupon",
        },
        Planted {
            what: "an event of a coupon has two effects",
            database: "log",
            plant: "INSERT INTO business_log(at_ms, action, user_id, coupon_id, coupon_step, shop_id, order_id,
                        template_id, operator, reason, state_before, state_after, xid, source, sequence)
                    SELECT at_ms, action, user_id, coupon_id, coupon_step, shop_id, order_id, template_id, 'planted',
                        reason, state_before, state_after, xid, source, sequence
                    FROM business_log WHERE action = 'coupon used'
                    AND coupon_id NOT IN (SELECT coupon_id FROM business_log WHERE action LIKE '% given back') LIMIT 1"
                .into(),
            // Others may have come since.
            undo: "DELETE FROM business_log WHERE operator = 'planted'".into(),
            found: "says Used",
        },
        Planted {
            what: "one whom an occasion was told of is forgotten",
            database: "coupon_0",
            plant: "UPDATE occasion_user SET run = -run ORDER BY user_id LIMIT 1".into(),
            undo: "UPDATE occasion_user SET run = -run WHERE run < 0".into(),
            found: "users, and has",
        },
    ]
}

/// The counter of a user who claims is set back, and he claims again.
async fn set_back(market: &Market, (user_id, template_id): (i64, i64), set: &str) {
    let mut changed = 0;
    for database in market.coupon_databases() {
        let mut connection = market.connect(database).await;
        for table in 0..4 {
            let sql = format!(
                "UPDATE claimed_{table:03} SET {set} WHERE user_id = {user_id} AND template_id = {template_id}"
            );
            let done = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.expect("it is sound");
            changed += done.rows_affected();
        }
    }
    assert_eq!(changed, 1, "he has one counter");
}

async fn claim(market: &Market, (user_id, template_id): (i64, i64), key: &str) {
    let request = ClaimRequest { user_id, template_id, idempotency_key: key.into(), groups: Vec::new() };
    until("he gets one", async || market.issuing().claim(request.clone()).await.ok()).await;
}

/// Coupons that their users have past a limit, with everything that belongs to them. They stay.
pub(super) async fn each_past_a_limit_is_named(market: &Market) {
    let template_id = market.template("twice, once a day", limited(market, 2, 1).await).await;
    let (of_a_day, of_all) = ((71, template_id), (72, template_id));
    claim(market, of_a_day, "first").await;
    // The log has it later.
    let report = market.check(Duration::from_secs(30)).await;
    assert!(report.sound(), "{report}");
    set_back(market, of_a_day, "today = 0").await;
    claim(market, of_a_day, "second").await;
    named(market, &format!("a user has claimed 2 of template {template_id} on a day, which gives 1")).await;
    named(market, &format!("user 71 has claimed 1 of template {template_id} on the latest day, and has 2")).await;
    for key in ["first", "second", "third"] {
        claim(market, of_all, key).await;
        set_back(market, of_all, "claimed = 0, today = 0").await;
    }
    // Nothing is miscounted any more.
    set_back(market, of_all, "claimed = 3, today = 3").await;
    named(market, &format!("user 72 has claimed 3 of template {template_id}, and may 2")).await;
}

async fn named(market: &Market, text: &str) {
    let report = market.check(Duration::ZERO).await;
    assert!(report.findings.iter().any(|finding| finding.text.contains(text)), "{text}: {report}");
}

/// So many for each user, whose days are such that none ends soon.
async fn limited(market: &Market, per_user: u32, per_user_day: u32) -> Rules {
    let mut rules = rules(100, per_user, FROM_MS);
    rules.quota = Some(Quota { per_user, per_user_day });
    let hour = sqlx::query_scalar("SELECT CAST(UNIX_TIMESTAMP() DIV 3600 % 24 AS SIGNED)");
    let hour: i32 = hour.fetch_one(&mut market.connect("log").await).await.expect("it has a clock");
    rules.validity.as_mut().expect("there is one").utc_offset_minutes = (12 - hour) * 60;
    rules
}

/// Sound before, each of them named, and sound again.
pub(super) async fn each_is_named(market: &Market, template_id: i64) {
    let report = market.check(Duration::ZERO).await;
    assert!(report.sound(), "{report}");
    for planted in all(template_id) {
        let mut connection = market.connect(planted.database).await;
        for (sql, sound) in [(planted.plant, false), (planted.undo, true)] {
            let changed = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.expect("it is sound");
            assert_eq!(changed.rows_affected(), 1, "nothing to corrupt: {}", planted.what);
            let report = market.check(Duration::ZERO).await;
            assert_eq!(report.sound(), sound, "{}: {report}", planted.what);
            let named = report.findings.iter().any(|finding| finding.text.contains(planted.found));
            assert!(sound || named, "{}: {report}", planted.what);
        }
    }
}
