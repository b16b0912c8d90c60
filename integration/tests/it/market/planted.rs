//! Corruptions, each planted in what the market has left, named by the checker, and taken back.

use std::time::Duration;

use tercet_platform::flows::template_item;

use super::stage::{ITEM, Market};

struct Planted {
    what: &'static str,
    database: &'static str,
    plant: String,
    undo: String,
    found: &'static str,
}

fn all(template_id: i64) -> [Planted; 8] {
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
            what: "a user has more coupons than he is allowed to",
            database: "coupon_0",
            plant: "UPDATE claimed_001 SET per_user = per_user - 1000 ORDER BY user_id LIMIT 1".into(),
            undo: "UPDATE claimed_001 SET per_user = per_user + 1000 ORDER BY user_id LIMIT 1".into(),
            found: "and may 0",
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
            plant:
                "INSERT INTO business_log(at_ms, action, user_id, coupon_id, coupon_step, shop_id, order_id, template_id,
                        operator, reason, state_before, state_after, xid, source, sequence)
                    SELECT at_ms, action, user_id, coupon_id, coupon_step, shop_id, order_id, template_id, 'planted', reason,
                        state_before, state_after, xid, source, sequence FROM business_log WHERE action = 'coupon used'
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
