//! The text of the statements over orders, both dialects side by side.

/// The text of each statement for one database. Rows come sorted by key, so that two transactions lock in one order.
pub(super) struct Statements {
    pub(super) taken: &'static str,
    pub(super) drop_closed: &'static [&'static str],
    pub(super) insert: &'static str,
    pub(super) insert_coupons: &'static str,
    pub(super) insert_lines: &'static str,
    pub(super) lines_of: &'static str,
    pub(super) coupons_of: &'static str,
    pub(super) standings: &'static str,
    pub(super) look: &'static str,
    pub(super) of_shop: &'static str,
    pub(super) advance: &'static str,
    pub(super) settle: &'static str,
    pub(super) note_payment: &'static str,
    pub(super) note_uses: &'static str,
    pub(super) note_basket_uses: &'static str,
}

/// A shop's orders of up to as many statuses as there are, in one look at the table: the index has them by status,
/// each with the highest number first, so that no more rows of one are read than are wanted.
macro_rules! of_shop {
    ($one:literal) => {
        concat!(
            "-- order_of_shop\n        ",
            $one,
            " UNION ALL ",
            $one,
            " UNION ALL ",
            $one,
            " UNION ALL ",
            $one,
            " UNION ALL ",
            $one
        )
    };
}

#[cfg(feature = "sqlite")]
pub(super) const SQLITE: Statements = Statements {
    taken: "-- order_taken
        SELECT shop_id, order_id FROM orders
        WHERE (shop_id, order_id) IN (SELECT value->>0, value->>1 FROM json_each($1))",
    drop_closed: &[
        "-- order_drop_closed_coupons
        DELETE FROM basket_coupon
        WHERE (shop_id, order_id) IN (SELECT value->>0, value->>1 FROM json_each($1))",
        "-- order_drop_closed_lines
        DELETE FROM basket_line
        WHERE (shop_id, order_id) IN (SELECT value->>0, value->>1 FROM json_each($1))",
        "-- order_drop_closed
        DELETE FROM orders
        WHERE (shop_id, order_id) IN (SELECT value->>0, value->>1 FROM json_each($1)) AND status = 2",
    ],
    insert: "-- order_insert
        INSERT INTO orders(shop_id, order_id, user_id, item, count, coupon_id, amount_cents, discount_cents,
            pay_within_s, status)
        SELECT value->>'$.key[0]', value->>'$.key[1]', value->>'user_id', value->>'item', value->>'count',
            value->>'coupon_id', value->>'amount_cents', value->>'discount_cents', value->>'pay_within_s', 0
        FROM json_each($1)",
    insert_coupons: "-- order_insert_coupons
        INSERT INTO basket_coupon(shop_id, order_id, coupon_id, discount_cents)
        SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each($1)",
    insert_lines: "-- order_insert_lines
        INSERT INTO basket_line(shop_id, order_id, line, product_id, price_cents, quantity)
        SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM json_each($1)",
    lines_of: "-- order_lines_of
        SELECT line, product_id, price_cents, quantity FROM basket_line WHERE shop_id = $1 AND order_id = $2
        ORDER BY line",
    coupons_of: "-- order_coupons_of
        SELECT shop_id, order_id, coupon_id FROM basket_coupon
        WHERE (shop_id, order_id) IN (SELECT value->>0, value->>1 FROM json_each($1))
        ORDER BY shop_id, order_id, coupon_id",
    standings: "-- order_standings
        SELECT shop_id, order_id, user_id, amount_cents - discount_cents, coupon_id, item = 0, status, refunded_from,
            refunded_ms, payment_id, pay_by_ms, close_at_ms,
            COALESCE(pay_by_ms > CAST(unixepoch('subsec') * 1000 AS INTEGER), 0)
        FROM orders WHERE (shop_id, order_id) IN (SELECT value->>0, value->>1 FROM json_each($1))",
    look: "-- order_look
        SELECT shop_id, order_id, user_id, amount_cents - discount_cents, coupon_id, item = 0, status, refunded_from,
            refunded_ms, payment_id, pay_by_ms, close_at_ms,
            COALESCE(pay_by_ms > CAST(unixepoch('subsec') * 1000 AS INTEGER), 0)
        FROM orders WHERE shop_id = $1 AND order_id = $2",
    of_shop: of_shop!(
        "SELECT * FROM (SELECT shop_id, order_id, user_id, amount_cents - discount_cents, coupon_id, item = 0, status,
            refunded_from, refunded_ms, payment_id, pay_by_ms, close_at_ms,
            COALESCE(pay_by_ms > CAST(unixepoch('subsec') * 1000 AS INTEGER), 0)
        FROM orders INDEXED BY orders_of_shop
        WHERE shop_id = ? AND shop_id > 0 AND status = ? AND order_id < ? ORDER BY order_id DESC LIMIT +?)"
    ),
    advance: "-- order_advance
        UPDATE orders SET status = j.next, refunded_from = CASE j.next WHEN 4 THEN j.before END, refunded_ms = NULL,
            pay_by_ms = CASE WHEN j.before = 0 AND j.next = 1 THEN j.now_ms + pay_within_s * 1000 ELSE pay_by_ms END,
            close_at_ms = CASE WHEN j.next <> 1 OR pay_within_s IS NULL THEN NULL
                WHEN j.before = 0 THEN j.now_ms + pay_within_s * 1000
                ELSE MAX(COALESCE(pay_by_ms, 0), j.now_ms + $2) END
        FROM (SELECT value->>0 AS shop_id, value->>1 AS order_id, value->>2 AS before, value->>3 AS next,
                  CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now_ms FROM json_each($1)) AS j
        WHERE orders.shop_id = j.shop_id AND orders.order_id = j.order_id AND orders.status = j.before",
    settle: "-- order_settle
        UPDATE orders SET refunded_ms = CASE j.is_final WHEN 1 THEN CAST(unixepoch('subsec') * 1000 AS INTEGER) END
        FROM (SELECT value->>0 AS shop_id, value->>1 AS order_id, value->>2 AS is_final FROM json_each($1)) AS j
        WHERE orders.shop_id = j.shop_id AND orders.order_id = j.order_id AND orders.status = 4",
    note_payment: "-- order_note_payment
        UPDATE orders SET payment_id = $1 WHERE shop_id = $2 AND order_id = $3",
    note_uses: "-- order_note_uses
        UPDATE orders SET coupon_use = iif(j.step >= coupon_step, j.now, coupon_use),
            coupon_step = MAX(coupon_step, j.step)
        FROM (SELECT value->>0 AS shop_id, value->>1 AS order_id, value->>2 AS coupon_id, value->>3 AS now,
                  value->>4 AS discount_cents, value->>5 AS step FROM json_each($1)) AS j
        WHERE orders.shop_id = j.shop_id AND orders.order_id = j.order_id AND orders.coupon_id = j.coupon_id
            AND orders.status <> 2 AND orders.discount_cents = COALESCE(j.discount_cents, orders.discount_cents)",
    note_basket_uses: "-- order_note_basket_uses
        UPDATE basket_coupon SET coupon_use = iif(j.step >= coupon_step, j.now, coupon_use),
            coupon_step = MAX(coupon_step, j.step)
        FROM (SELECT value->>0 AS shop_id, value->>1 AS order_id, value->>2 AS coupon_id, value->>3 AS now,
                  value->>4 AS discount_cents, value->>5 AS step FROM json_each($1)) AS j
        WHERE basket_coupon.shop_id = j.shop_id AND basket_coupon.order_id = j.order_id
            AND basket_coupon.coupon_id = j.coupon_id
            AND basket_coupon.discount_cents = COALESCE(j.discount_cents, basket_coupon.discount_cents)
            AND EXISTS (SELECT 1 FROM orders
                WHERE orders.shop_id = j.shop_id AND orders.order_id = j.order_id AND orders.status <> 2)",
};

// Without FORCE INDEX a small table is scanned, and every row in it locked.
#[cfg(feature = "mysql")]
pub(super) const MYSQL: Statements = Statements {
    taken: "-- order_taken
        SELECT o.shop_id, o.order_id FROM JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$[0]',
            order_id BIGINT PATH '$[1]')) AS j
        STRAIGHT_JOIN orders o FORCE INDEX (PRIMARY) ON o.shop_id = j.shop_id AND o.order_id = j.order_id",
    drop_closed: &["-- order_drop_closed
        DELETE o, c, l FROM JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$[0]',
            order_id BIGINT PATH '$[1]')) AS j
        STRAIGHT_JOIN orders o FORCE INDEX (PRIMARY) ON o.shop_id = j.shop_id AND o.order_id = j.order_id
        LEFT JOIN basket_coupon c ON c.shop_id = o.shop_id AND c.order_id = o.order_id
        LEFT JOIN basket_line l ON l.shop_id = o.shop_id AND l.order_id = o.order_id
        WHERE o.status = 2"],
    insert: "-- order_insert
        INSERT INTO orders(shop_id, order_id, user_id, item, count, coupon_id, amount_cents, discount_cents,
            pay_within_s, status)
        SELECT shop_id, order_id, user_id, item, count, coupon_id, amount_cents, discount_cents, pay_within_s, 0
        FROM JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$.key[0]', order_id BIGINT PATH '$.key[1]',
            user_id BIGINT PATH '$.user_id', item BIGINT PATH '$.item', count BIGINT PATH '$.count',
            coupon_id BIGINT PATH '$.coupon_id', amount_cents BIGINT PATH '$.amount_cents',
            discount_cents BIGINT PATH '$.discount_cents', pay_within_s BIGINT PATH '$.pay_within_s')) AS j",
    insert_coupons: "-- order_insert_coupons
        INSERT INTO basket_coupon(shop_id, order_id, coupon_id, discount_cents)
        SELECT * FROM JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$[0]', order_id BIGINT PATH '$[1]',
            coupon_id BIGINT PATH '$[2]', discount_cents BIGINT PATH '$[3]')) AS j",
    insert_lines: "-- order_insert_lines
        INSERT INTO basket_line(shop_id, order_id, line, product_id, price_cents, quantity)
        SELECT * FROM JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$[0]', order_id BIGINT PATH '$[1]',
            line BIGINT PATH '$[2]', product_id BIGINT PATH '$[3]', price_cents BIGINT PATH '$[4]',
            quantity BIGINT PATH '$[5]')) AS j",
    lines_of: "-- order_lines_of
        SELECT line, product_id, price_cents, quantity FROM basket_line FORCE INDEX (PRIMARY)
        WHERE shop_id = ? AND order_id = ? ORDER BY line",
    coupons_of: "-- order_coupons_of
        SELECT b.shop_id, b.order_id, b.coupon_id FROM JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$[0]',
            order_id BIGINT PATH '$[1]')) AS j
        STRAIGHT_JOIN basket_coupon b FORCE INDEX (PRIMARY) ON b.shop_id = j.shop_id AND b.order_id = j.order_id
        ORDER BY b.shop_id, b.order_id, b.coupon_id",
    standings: "-- order_standings
        SELECT o.shop_id, o.order_id, o.user_id, o.amount_cents - o.discount_cents, o.coupon_id,
            o.item = 0, CAST(o.status AS SIGNED), CAST(o.refunded_from AS SIGNED), o.refunded_ms,
            o.payment_id, o.pay_by_ms, o.close_at_ms,
            COALESCE(o.pay_by_ms > CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), 0)
        FROM JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$[0]', order_id BIGINT PATH '$[1]')) AS j
        STRAIGHT_JOIN orders o FORCE INDEX (PRIMARY) ON o.shop_id = j.shop_id AND o.order_id = j.order_id
        FOR UPDATE",
    look: "-- order_look
        SELECT shop_id, order_id, user_id, amount_cents - discount_cents, coupon_id, item = 0, CAST(status AS SIGNED),
            CAST(refunded_from AS SIGNED), refunded_ms, payment_id, pay_by_ms, close_at_ms,
            COALESCE(pay_by_ms > CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), 0)
        FROM orders FORCE INDEX (PRIMARY) WHERE shop_id = ? AND order_id = ?",
    of_shop: of_shop!(
        "(SELECT shop_id, order_id, user_id, amount_cents - discount_cents, coupon_id, item = 0,
            CAST(status AS SIGNED), CAST(refunded_from AS SIGNED), refunded_ms, payment_id, pay_by_ms, close_at_ms,
            COALESCE(pay_by_ms > CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), 0)
        FROM orders FORCE INDEX (orders_of_shop) WHERE shop_id = ? AND status = ? AND order_id < ?
        ORDER BY order_id DESC LIMIT ?)"
    ),
    advance: "-- order_advance
        UPDATE JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$[0]', order_id BIGINT PATH '$[1]',
            before_ TINYINT PATH '$[2]', next_ TINYINT PATH '$[3]')) AS j
        STRAIGHT_JOIN orders o FORCE INDEX (PRIMARY) ON o.shop_id = j.shop_id AND o.order_id = j.order_id
        SET o.status = j.next_, o.refunded_from = CASE j.next_ WHEN 4 THEN j.before_ END, o.refunded_ms = NULL,
            o.pay_by_ms = CASE WHEN j.before_ = 0 AND j.next_ = 1
                THEN CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + o.pay_within_s * 1000 ELSE o.pay_by_ms END,
            o.close_at_ms = CASE WHEN j.next_ <> 1 OR o.pay_within_s IS NULL THEN NULL
                WHEN j.before_ = 0 THEN CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + o.pay_within_s * 1000
                ELSE GREATEST(COALESCE(o.pay_by_ms, 0), CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + ?) END
        WHERE o.status = j.before_",
    settle: "-- order_settle
        UPDATE JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$[0]', order_id BIGINT PATH '$[1]',
            is_final TINYINT PATH '$[2]')) AS j
        STRAIGHT_JOIN orders o FORCE INDEX (PRIMARY) ON o.shop_id = j.shop_id AND o.order_id = j.order_id
        SET o.refunded_ms = CASE j.is_final WHEN 1 THEN CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) END
        WHERE o.status = 4",
    note_payment: "-- order_note_payment
        UPDATE orders FORCE INDEX (PRIMARY) SET payment_id = ? WHERE shop_id = ? AND order_id = ?",
    // Right in whichever order the server sets the two columns.
    note_uses: "-- order_note_uses
        UPDATE JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$[0]', order_id BIGINT PATH '$[1]',
            coupon_id BIGINT PATH '$[2]', now_ TINYINT PATH '$[3]', discount_cents BIGINT PATH '$[4]',
            step BIGINT PATH '$[5]')) AS j
        STRAIGHT_JOIN orders o FORCE INDEX (PRIMARY) ON o.shop_id = j.shop_id AND o.order_id = j.order_id
        SET o.coupon_use = IF(j.step >= o.coupon_step, j.now_, o.coupon_use),
            o.coupon_step = GREATEST(o.coupon_step, j.step)
        WHERE o.coupon_id = j.coupon_id AND o.status <> 2
            AND o.discount_cents = COALESCE(j.discount_cents, o.discount_cents)",
    note_basket_uses: "-- order_note_basket_uses
        UPDATE JSON_TABLE(?, '$[*]' COLUMNS (shop_id BIGINT PATH '$[0]', order_id BIGINT PATH '$[1]',
            coupon_id BIGINT PATH '$[2]', now_ TINYINT PATH '$[3]', discount_cents BIGINT PATH '$[4]',
            step BIGINT PATH '$[5]')) AS j
        STRAIGHT_JOIN basket_coupon b FORCE INDEX (PRIMARY)
            ON b.shop_id = j.shop_id AND b.order_id = j.order_id AND b.coupon_id = j.coupon_id
        STRAIGHT_JOIN orders o FORCE INDEX (PRIMARY) ON o.shop_id = j.shop_id AND o.order_id = j.order_id
        SET b.coupon_use = IF(j.step >= b.coupon_step, j.now_, b.coupon_use),
            b.coupon_step = GREATEST(b.coupon_step, j.step)
        WHERE o.status <> 2 AND b.discount_cents = COALESCE(j.discount_cents, b.discount_cents)",
};

pub(super) const TOTALS: &str = "-- order_totals
    SELECT
        (SELECT COUNT(*) FROM orders WHERE status = 0), (SELECT COUNT(*) FROM orders WHERE status = 1),
        (SELECT COUNT(*) FROM orders WHERE status = 2), (SELECT COUNT(*) FROM orders WHERE status = 3),
        (SELECT COUNT(*) FROM orders WHERE status = 4),
        (SELECT COUNT(*) FROM (
            SELECT 1 FROM (SELECT coupon_id FROM orders WHERE status IN (1, 3) AND coupon_id IS NOT NULL
                           UNION ALL SELECT b.coupon_id FROM basket_coupon b
                               JOIN orders o ON o.shop_id = b.shop_id AND o.order_id = b.order_id
                               WHERE o.status IN (1, 3)) AS c
            GROUP BY coupon_id HAVING COUNT(*) > 1) AS a),
        (SELECT COUNT(*) FROM orders WHERE status IN (1, 3) AND coupon_id IS NOT NULL AND coupon_use <> 1)
        + (SELECT COUNT(*) FROM orders o WHERE o.status IN (1, 3) AND EXISTS (SELECT 1 FROM basket_coupon b
               WHERE b.shop_id = o.shop_id AND b.order_id = o.order_id AND b.coupon_use <> 1))";

pub(super) const COUPONS: &str = "-- order_coupons
    SELECT coupon_id, order_id FROM orders WHERE status IN (1, 3) AND coupon_id IS NOT NULL
    UNION ALL SELECT b.coupon_id, b.order_id FROM basket_coupon b JOIN orders o
        ON o.shop_id = b.shop_id AND o.order_id = b.order_id WHERE o.status IN (1, 3)
    ORDER BY coupon_id";

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use sqlx::sqlite::SqlitePoolOptions;
    use sqlx::{AssertSqlSafe, Row as _, Sqlite};

    use super::SQLITE;
    use crate::store::Store as _;

    #[tokio::test]
    async fn an_order_is_found_by_its_key_and_the_orders_of_a_shop_by_their_index() {
        let options = SqlitePoolOptions::new().max_connections(1);
        let pool = options.connect("sqlite::memory:").await.expect("memory is there");
        Sqlite::migrate(&pool).await.expect("the schema is sound");
        let key = "INDEX sqlite_autoindex_orders_1 (order_id=? AND shop_id=?)";
        let list = "INDEX orders_of_shop (shop_id=? AND status=? AND order_id<?)";
        for (text, index) in [
            (SQLITE.drop_closed[2], key),
            (SQLITE.standings, key),
            (SQLITE.look, key),
            (SQLITE.advance, key),
            (SQLITE.settle, key),
            (SQLITE.note_payment, key),
            (SQLITE.note_uses, key),
            (SQLITE.of_shop, list),
        ] {
            let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
            let plan = sqlx::raw_sql(explain).fetch_all(&pool).await.expect("the statement is sound");
            let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
            let mut found = steps.iter().filter(|step| step.contains(" orders ")).peekable();
            assert!(found.peek().is_some() && found.all(|step| step.ends_with(index)), "{text}: {steps:?}");
            assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{text}: {steps:?}");
        }
    }
}
