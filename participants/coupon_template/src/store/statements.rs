//! The statements. A table, a parameter and a sum read alike in both dialects, so that most have one text; what differs
//! is named in [`Words`].

macro_rules! template_columns {
    () => {
        "template_id, name, status, revision, live, candidate, newest, previous, audience, start_time, end_time, \
         created_ms, updated_ms"
    };
}

/// The list of one status. Both databases are told the index: on a small table they would not ask for it. SQLite plans
/// by a parameter that is a LIMIT, and so prepares the statement anew whenever it is bound; behind a plus it does not.
macro_rules! list_status {
    ($hint:literal, $limit:literal) => {
        concat!(
            "-- template_list_status
            SELECT ",
            template_columns!(),
            " FROM template ",
            $hint,
            "
            WHERE status = ? AND start_time >= ? AND start_time <= ? AND end_time > ?
                AND (start_time > ? OR end_time > ? OR (end_time = ? AND template_id > ?))
            ORDER BY start_time, end_time, template_id LIMIT ",
            $limit
        )
    };
}

/// What the dialects say differently. A coupon of the version that is tried itself is counted for it though its clock
/// was behind, since nobody could claim that before.
pub(super) struct Words {
    pub(super) now_ms: &'static str,
    pub(super) list_status: &'static str,
    pub(super) named: &'static str,
    pub(super) put_version: &'static str,
    pub(super) first_report: &'static str,
    pub(super) unknown: &'static str,
    pub(super) count: &'static str,
}

#[cfg(feature = "sqlite")]
pub(super) const SQLITE: Words = Words {
    now_ms: "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    list_status: list_status!("INDEXED BY template_listed", "+?"),
    named: "-- template_named
        SELECT v.template_id, t.name, v.version, v.rules FROM json_each(?) AS j
        CROSS JOIN template_version AS v ON v.template_id = j.value->>0 AND v.version = j.value->>1
        CROSS JOIN template AS t ON t.template_id = v.template_id
        WHERE v.published_ms > 0 OR v.tried_ms > 0",
    put_version: "-- template_put_version
        INSERT INTO template_version(template_id, version, rules) VALUES (?, ?, ?)
        ON CONFLICT(template_id, version) DO UPDATE SET rules = excluded.rules",
    first_report: "-- template_first_report
        INSERT INTO template_usage_source(source, last) VALUES (?, 0) ON CONFLICT DO NOTHING",
    unknown: "-- template_unknown
        SELECT j.value->>0, j.value->>1 FROM json_each(?) AS j
        LEFT JOIN template AS t ON t.template_id = j.value->>0 AND j.value->>1 BETWEEN 1 AND t.newest
        WHERE t.template_id IS NULL LIMIT 1",
    count: "-- template_count
        INSERT INTO template_usage(template_id, tried, version, claimed, used, refunded, discount_cents, order_cents)
        SELECT j.value->>0 AS template_id, COALESCE((
                SELECT MAX(v.version) FROM template_version AS v
                WHERE v.template_id = j.value->>0
                    AND (v.tried_ms <= j.value->>2 OR (v.tried_ms > 0 AND v.version = j.value->>1))
                    AND (v.untried_ms IS NULL OR v.untried_ms > j.value->>2)), 0) AS tried, j.value->>1 AS version,
            SUM(j.value->>3), SUM(j.value->>4), SUM(j.value->>5), SUM(j.value->>6), SUM(j.value->>7)
        FROM json_each(?) AS j JOIN template AS t ON t.template_id = j.value->>0 WHERE true GROUP BY 1, 2, 3
        ON CONFLICT(template_id, tried, version) DO UPDATE SET claimed = claimed + excluded.claimed,
            used = used + excluded.used, refunded = refunded + excluded.refunded,
            discount_cents = discount_cents + excluded.discount_cents,
            order_cents = order_cents + excluded.order_cents",
};

#[cfg(feature = "mysql")]
pub(super) const MYSQL: Words = Words {
    now_ms: "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
    list_status: list_status!("FORCE INDEX (template_listed)", "?"),
    named: "-- template_named
        SELECT v.template_id, t.name, v.version, v.rules
        FROM JSON_TABLE(?, '$[*]' COLUMNS (template_id BIGINT PATH '$[0]', version BIGINT PATH '$[1]')) AS j
        STRAIGHT_JOIN template_version AS v FORCE INDEX (PRIMARY)
            ON v.template_id = j.template_id AND v.version = j.version
        STRAIGHT_JOIN template AS t FORCE INDEX (PRIMARY) ON t.template_id = v.template_id
        WHERE v.published_ms > 0 OR v.tried_ms > 0",
    put_version: "-- template_put_version
        INSERT INTO template_version(template_id, version, rules) VALUES (?, ?, ?)
        ON DUPLICATE KEY UPDATE rules = VALUES(rules)",
    first_report: "-- template_first_report
        INSERT IGNORE INTO template_usage_source(source, last) VALUES (?, 0)",
    unknown: "-- template_unknown
        SELECT j.template_id, j.version
        FROM JSON_TABLE(?, '$[*]' COLUMNS (template_id BIGINT PATH '$[0]', version BIGINT PATH '$[1]')) AS j
        LEFT JOIN template AS t ON t.template_id = j.template_id AND j.version BETWEEN 1 AND t.newest
        WHERE t.template_id IS NULL LIMIT 1",
    count: "-- template_count
        INSERT INTO template_usage(template_id, tried, version, claimed, used, refunded, discount_cents, order_cents)
        SELECT j.template_id, COALESCE((
                SELECT MAX(v.version) FROM template_version AS v FORCE INDEX (PRIMARY)
                WHERE v.template_id = j.template_id
                    AND (v.tried_ms <= j.claimed_ms OR (v.tried_ms > 0 AND v.version = j.version))
                    AND (v.untried_ms IS NULL OR v.untried_ms > j.claimed_ms)), 0) AS tried, j.version,
            SUM(j.claimed), SUM(j.used), SUM(j.refunded), SUM(j.discount), SUM(j.ordered)
        FROM JSON_TABLE(?, '$[*]' COLUMNS (template_id BIGINT PATH '$[0]', version BIGINT PATH '$[1]',
            claimed_ms BIGINT PATH '$[2]', claimed BIGINT PATH '$[3]', used BIGINT PATH '$[4]',
            refunded BIGINT PATH '$[5]', discount BIGINT PATH '$[6]', ordered BIGINT PATH '$[7]')) AS j
        STRAIGHT_JOIN template AS t FORCE INDEX (PRIMARY) ON t.template_id = j.template_id
        GROUP BY j.template_id, tried, j.version
        ON DUPLICATE KEY UPDATE claimed = template_usage.claimed + VALUES(claimed),
            used = template_usage.used + VALUES(used), refunded = template_usage.refunded + VALUES(refunded),
            discount_cents = template_usage.discount_cents + VALUES(discount_cents),
            order_cents = template_usage.order_cents + VALUES(order_cents)",
};

pub(super) const CREATE: &str = "-- template_create
    INSERT INTO template(name, status, revision, live, candidate, newest, previous, audience, start_time, end_time,
        created_ms, updated_ms, idempotency_key, request_hash)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
pub(super) const MADE_BY: &str = "-- template_made_by
    SELECT template_id, request_hash FROM template WHERE idempotency_key = ?";
pub(super) const TEMPLATE: &str =
    concat!("-- template_get\nSELECT ", template_columns!(), " FROM template WHERE template_id = ?");
pub(super) const REPLACE: &str = "-- template_replace
    UPDATE template SET status = ?, revision = ?, live = ?, candidate = ?, newest = ?, previous = ?, audience = ?,
        start_time = ?, end_time = ?, updated_ms = ?
    WHERE template_id = ? AND revision = ?";
pub(super) const VERSION: &str = "-- template_version
    SELECT rules, published_ms FROM template_version WHERE template_id = ? AND version = ?";
pub(super) const NOTE_PUBLISHED: &str = "-- template_note_published
    UPDATE template_version SET published_ms = ? WHERE template_id = ? AND version = ? AND published_ms IS NULL";
pub(super) const NOTE_TRIED: &str = "-- template_note_tried
    UPDATE template_version SET tried_ms = ? WHERE template_id = ? AND version = ? AND tried_ms IS NULL";
pub(super) const NOTE_UNTRIED: &str = "-- template_note_untried
    UPDATE template_version SET untried_ms = ? WHERE template_id = ? AND version = ? AND untried_ms IS NULL";
pub(super) const LOG: &str = "-- template_log
    INSERT INTO template_change(template_id, revision, at_ms, operator, action, reason, state_before, state_after)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
pub(super) const LIST_ALL: &str = concat!(
    "-- template_list_all\nSELECT ",
    template_columns!(),
    " FROM template WHERE template_id > ? ORDER BY template_id LIMIT ?"
);

macro_rules! changes {
    ($name:literal, $where:literal) => {
        concat!(
            "-- template_changes_",
            $name,
            "
            SELECT change_id, template_id, revision, at_ms, operator, action, reason, state_before, state_after
            FROM template_change WHERE ",
            $where,
            " change_id < ? ORDER BY change_id DESC LIMIT ?"
        )
    };
}

pub(super) const CHANGES: &str = changes!("all", "");
pub(super) const CHANGES_OF_TEMPLATE: &str =
    changes!("of_template", "template_id = ? AND (? = '' OR operator = ?) AND");
pub(super) const CHANGES_OF_OPERATOR: &str = changes!("of_operator", "operator = ? AND");
pub(super) const TAKE_REPORT: &str = "-- template_take_report
    UPDATE template_usage_source SET last = ? WHERE source = ? AND last < ?";
pub(super) const COMPARE: &str = "-- template_compare
    SELECT CAST(COALESCE(SUM(claimed), 0) AS SIGNED), CAST(COALESCE(SUM(used), 0) AS SIGNED),
        CAST(COALESCE(SUM(refunded), 0) AS SIGNED), CAST(COALESCE(SUM(discount_cents), 0) AS SIGNED),
        CAST(COALESCE(SUM(order_cents), 0) AS SIGNED)
    FROM template_usage WHERE template_id = ? AND tried = ? AND (version = ?) = ?";
