//! What has to hold, each as a query that finds where it does not.
//!
//! Numbers: a transaction's status 4 is confirmed, 5 cancelled; its mode 2 is a saga, whose branches end as tried. A
//! fence's state 1 is tried, 2 confirmed, 3 cancelled, 4 refused. A coupon's status 0 is pending, 1 issued, 2 locked,
//! 3 used, 4 expired, 5 voided; an order's 0 frozen, 1 placed, 2 closed, 3 paid, 4 refunded. Items above 2^48 are
//! templates' coupons.

use super::Kind;

/// What a rule reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// The coordinator's store.
    Coordinator,
    /// The participants' fences.
    Fences,
    /// Stock, coupon and order.
    Shop,
    /// What the clients were told.
    History,
}

/// A query that has a row of text for each violation.
pub(super) struct Rule {
    pub(super) kind: Kind,
    pub(super) needs: &'static [Needs],
    pub(super) sql: &'static str,
}

/// Where the history goes.
pub(super) const TOLD: &str = "-- told
    CREATE TEMP TABLE told (xid BLOB, key TEXT, confirmed INTEGER, flow TEXT, coupon_id INTEGER, template_id INTEGER,
        user_id INTEGER, order_id INTEGER, item INTEGER, count INTEGER, amount_cents INTEGER, discount_cents INTEGER)";

/// Its parameter is a JSON array of answers.
pub(super) const REMEMBER: &str = "-- remember
    INSERT INTO told SELECT unhex(value->>'xid', '-'), value->>'key', value->>'told' = 'confirmed', value->>'flow',
        value->>'coupon_id', value->>'template_id', value->>'user_id', value->>'order_id', value->>'item',
        value->>'count', value->>'amount_cents', value->>'discount_cents' FROM json_each($1)";

const LOST: &[Needs] = &[Needs::Coordinator, Needs::History];
const LOST_SHOP: &[Needs] = &[Needs::Shop, Needs::History];
const SPLIT: &[Needs] = &[Needs::Coordinator, Needs::Fences];
const STORE: &[Needs] = &[Needs::Coordinator];
const SHOP: &[Needs] = &[Needs::Shop];

pub(super) const RULES: &[Rule] = &[
    Rule {
        kind: Kind::Lost,
        needs: LOST,
        sql: "-- lost_transaction
            SELECT t.key || ': told ' || iif(t.confirmed, 'confirmed', 'cancelled') || ', the store '
                || coalesce('has it with status ' || x.status, 'does not know it')
            FROM told t LEFT JOIN coordinator.tx x ON x.xid = t.xid
            WHERE x.xid IS NULL OR x.status NOT IN (iif(t.confirmed, 4, 5), iif(t.confirmed, 2, 3))",
    },
    Rule {
        kind: Kind::Lost,
        needs: LOST,
        sql: "-- lost_same_answer
            SELECT key || ': told different things' FROM told
            GROUP BY key HAVING COUNT(DISTINCT xid) > 1 OR COUNT(DISTINCT confirmed) > 1",
    },
    Rule {
        kind: Kind::Lost,
        needs: LOST_SHOP,
        sql: "-- lost_claim
            SELECT t.key || ': told confirmed, the user does not have the coupon' FROM told t
            LEFT JOIN coupon.coupon_000 c ON c.coupon_id = t.coupon_id
            WHERE t.flow = 'claim' AND t.confirmed AND (c.coupon_id IS NULL OR c.status = 0
                OR c.template_id <> t.template_id OR c.user_id <> t.user_id)",
    },
    Rule {
        kind: Kind::Lost,
        needs: LOST_SHOP,
        sql: "-- lost_cancelled_claim
            SELECT t.key || ': told cancelled, the coupon is there' FROM told t
            JOIN coupon.coupon_000 c ON c.coupon_id = t.coupon_id WHERE t.flow = 'claim' AND NOT t.confirmed",
    },
    Rule {
        kind: Kind::Lost,
        needs: LOST_SHOP,
        sql: "-- lost_checkout
            SELECT t.key || ': told confirmed, there is no such order' FROM told t
            LEFT JOIN \"order\".orders o ON o.order_id = t.order_id
            WHERE t.flow = 'checkout' AND t.confirmed AND (o.order_id IS NULL OR o.status NOT IN (1, 3, 4)
                OR o.user_id <> t.user_id OR o.item <> t.item OR o.count <> t.count
                OR coalesce(o.coupon_id, 0) <> t.coupon_id OR o.amount_cents <> t.amount_cents
                OR o.discount_cents <> t.discount_cents)",
    },
    Rule {
        kind: Kind::Lost,
        needs: LOST_SHOP,
        sql: "-- lost_cancelled_checkout
            SELECT t.key || ': told cancelled, the order has status ' || o.status FROM told t
            JOIN \"order\".orders o ON o.order_id = t.order_id
            WHERE t.flow = 'checkout' AND NOT t.confirmed AND o.status <> 2",
    },
    Rule {
        kind: Kind::Split,
        needs: SPLIT,
        sql: "-- split_branches
            SELECT lower(hex(xid)) || ': ' || group_concat(service || ' ' || CASE state WHEN 1 THEN 'tried'
                WHEN 2 THEN 'confirmed' WHEN 3 THEN 'cancelled' ELSE 'refused' END, ', ')
            FROM fence GROUP BY xid HAVING SUM(state = 2) BETWEEN 1 AND COUNT(*) - 1",
    },
    Rule {
        kind: Kind::Split,
        needs: SPLIT,
        sql: "-- split_decision
            SELECT lower(hex(f.xid)) || ': the coordinator ' || iif(x.status = 4, 'confirmed', 'cancelled')
                || ' it, branch ' || f.branch || ' at ' || f.service || ' has state ' || f.state
            FROM fence f JOIN coordinator.tx x ON x.xid = f.xid
            WHERE (x.status = 4 AND f.state <> iif(x.mode = 2, 1, 2)) OR (x.status = 5 AND f.state NOT IN (3, 4))",
    },
    Rule {
        kind: Kind::Split,
        needs: SPLIT,
        sql: "-- split_unknown
            SELECT lower(hex(f.xid)) || ': ' || f.service || ' was called, the store does not know it' FROM fence f
            WHERE NOT EXISTS (SELECT 1 FROM coordinator.tx x WHERE x.xid = f.xid)",
    },
    Rule {
        kind: Kind::Unfinished,
        needs: STORE,
        sql: "-- unfinished_transaction
            SELECT lower(hex(xid)) || ': has not ended, status ' || status FROM coordinator.tx
            WHERE ended_at IS NULL OR status NOT IN (4, 5)",
    },
    Rule {
        kind: Kind::Unfinished,
        needs: STORE,
        sql: "-- unfinished_compensation
            SELECT 'compensation ' || id || ': has status ' || status FROM coordinator.compensation_log
            WHERE status <> 1",
    },
    Rule {
        kind: Kind::Unfinished,
        needs: SPLIT,
        sql: "-- unfinished_branch
            SELECT lower(hex(f.xid)) || ': branch ' || f.branch || ' at ' || f.service || ' is only tried'
            FROM fence f JOIN coordinator.tx x ON x.xid = f.xid WHERE f.state = 1 AND x.mode <> 2",
    },
    Rule {
        kind: Kind::Unfinished,
        needs: LOST_SHOP,
        sql: "-- unfinished_shop
            SELECT 'item ' || item || ': ' || reserved || ' reserved' FROM stock.stock WHERE reserved <> 0
            UNION ALL SELECT 'coupon ' || coupon_id || ': ' || iif(status = 0, 'pending', 'locked')
                FROM coupon.coupon_000 WHERE status IN (0, 2)
            UNION ALL SELECT 'order ' || order_id || ': frozen' FROM \"order\".orders WHERE status = 0",
    },
    Rule {
        kind: Kind::Conservation,
        needs: SHOP,
        sql: "-- conservation_units
            SELECT 'item ' || item || ': ' || free || ' free + ' || reserved || ' reserved + ' || issued
                || ' issued of ' || total FROM stock.stock
            WHERE free + reserved + issued <> total OR min(free, reserved, issued) < 0",
    },
    Rule {
        kind: Kind::Conservation,
        needs: SHOP,
        sql: "-- conservation_coupons
            SELECT 'template ' || (s.item - (1 << 48)) || ': ' || s.issued || ' issued from stock, '
                || coalesce(c.n, 0) || ' coupons' FROM stock.stock s
            LEFT JOIN (SELECT template_id, COUNT(*) AS n FROM coupon.coupon_000 WHERE status > 0 GROUP BY 1) c
                ON c.template_id = s.item - (1 << 48)
            WHERE s.item > (1 << 48) AND s.issued <> coalesce(c.n, 0)",
    },
    Rule {
        kind: Kind::Conservation,
        needs: SHOP,
        sql: "-- conservation_goods
            SELECT 'item ' || s.item || ': ' || s.issued || ' issued from stock, ' || coalesce(o.n, 0) || ' ordered'
            FROM stock.stock s
            LEFT JOIN (SELECT item, SUM(count) AS n FROM \"order\".orders WHERE status IN (1, 3) GROUP BY 1) o
                ON o.item = s.item
            WHERE s.item < (1 << 48) AND s.issued <> coalesce(o.n, 0)",
    },
    Rule {
        kind: Kind::Conservation,
        needs: SHOP,
        sql: "-- conservation_used_twice
            SELECT 'coupon ' || coupon_id || ': used by ' || COUNT(*) || ' orders' FROM \"order\".orders
            WHERE status IN (1, 3) AND coupon_id IS NOT NULL GROUP BY coupon_id HAVING COUNT(*) > 1",
    },
    Rule {
        kind: Kind::Conservation,
        needs: SHOP,
        sql: "-- conservation_order_without_coupon
            SELECT 'order ' || o.order_id || ': its coupon ' || o.coupon_id || ' is not used by it'
            FROM \"order\".orders o LEFT JOIN coupon.coupon_000 c ON c.coupon_id = o.coupon_id
            WHERE o.status IN (1, 3) AND o.coupon_id IS NOT NULL
                AND (c.coupon_id IS NULL OR c.status <> 3 OR c.order_id <> o.order_id
                OR c.shop_id <> o.shop_id)",
    },
    Rule {
        kind: Kind::Conservation,
        needs: SHOP,
        sql: "-- conservation_coupon_without_order
            SELECT 'coupon ' || c.coupon_id || ': used, but not by order ' || c.order_id
            FROM coupon.coupon_000 c LEFT JOIN \"order\".orders o ON o.order_id = c.order_id AND o.shop_id = c.shop_id
            WHERE c.status = 3 AND (o.order_id IS NULL OR o.status NOT IN (1, 3) OR o.coupon_id IS NOT c.coupon_id)",
    },
    Rule {
        kind: Kind::Conservation,
        needs: SHOP,
        sql: "-- conservation_money
            SELECT 'order ' || o.order_id || ': ' || o.discount_cents || ' cents off, its coupon was used for '
                || coalesce(c.discount_cents, 0)
            FROM \"order\".orders o LEFT JOIN coupon.coupon_000 c ON c.coupon_id = o.coupon_id
            WHERE o.status IN (1, 3) AND (o.discount_cents <> coalesce(c.discount_cents, 0)
                OR o.user_id <> coalesce(c.user_id, o.user_id))",
    },
    Rule {
        kind: Kind::Conservation,
        needs: SHOP,
        sql: "-- conservation_limits
            SELECT 'user ' || u.user_id || ', template ' || u.template_id || ': ' || u.claimed || ' claimed, '
                || coalesce(c.n, 0) || ' coupons, at most ' || u.per_user
            FROM coupon.claimed_000 u
            LEFT JOIN (SELECT user_id, template_id, COUNT(*) AS n FROM coupon.coupon_000 WHERE batch = 0
                       GROUP BY 1, 2) c
                ON c.user_id = u.user_id AND c.template_id = u.template_id
            WHERE u.claimed <> coalesce(c.n, 0) OR u.claimed > u.per_user",
    },
];
