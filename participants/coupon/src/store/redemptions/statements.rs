//! The text of the statements over redemptions, both dialects side by side.

/// The text of each statement for one database.
pub(super) struct Statements {
    pub(super) keep: &'static str,
    pub(super) by_key: &'static str,
    pub(super) by_order: &'static str,
    pub(super) refuse: &'static str,
    pub(super) again: &'static str,
    pub(super) promise: &'static str,
    pub(super) give_up: &'static str,
    pub(super) forget: &'static str,
    pub(super) taken_back: &'static str,
    pub(super) due: &'static str,
    pub(super) take: &'static str,
    pub(super) ended: &'static str,
    pub(super) delete: &'static str,
    pub(super) kept: &'static str,
    pub(super) standings: &'static str,
    pub(super) step: &'static str,
}

macro_rules! columns {
    ($key:literal, $now:literal, $rest:literal) => {
        concat!(
            "SELECT redemption_id, user_id, shop_id, order_id, ",
            $key,
            ", digest, content, state, refusal, attempt, tries,
            due_ms, promised, created_ms, ended_ms, refunded_ms, refund_xid, ",
            $now,
            " - created_ms FROM redemption ",
            $rest
        )
    };
}

#[cfg(feature = "sqlite")]
macro_rules! sqlite {
    ($name:literal, $rest:literal) => {
        concat!("-- ", $name, "\n", columns!("idempotency_key", "CAST(unixepoch('subsec') * 1000 AS INTEGER)", $rest))
    };
}

#[cfg(feature = "sqlite")]
pub(super) const SQLITE: Statements = Statements {
    keep: "-- redemption_keep
        INSERT INTO redemption(redemption_id, user_id, shop_id, order_id, idempotency_key, digest, content, state,
            due_ms, created_ms)
        SELECT $1, $2, $3, $4, $5, $6, $7, 0, CAST(unixepoch('subsec') * 1000 AS INTEGER) + $8,
            CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM tercet_fence_meta WHERE epoch = $9 ON CONFLICT DO NOTHING",
    by_key: sqlite!("redemption_by_key", "WHERE user_id = $1 AND shop_id = $2 AND idempotency_key = $3"),
    by_order: sqlite!(
        "redemption_by_order",
        "WHERE user_id = $1 AND shop_id = $2 AND order_id = $3 AND state NOT IN (3, 5)
        ORDER BY redemption_id DESC LIMIT 1"
    ),
    refuse: "-- redemption_refuse
        UPDATE redemption SET state = iif(promised = 1, 5, 3), refusal = $1,
            ended_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER)
        WHERE redemption_id = $2 AND attempt = $3 AND state IN (0, 1)
            AND (SELECT epoch FROM tercet_fence_meta) = $4",
    again: "-- redemption_again
        UPDATE redemption SET state = 0, attempt = attempt + 1,
            due_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) + $1
        WHERE redemption_id = $2 AND attempt = $3 AND state IN (0, 1)
            AND (SELECT epoch FROM tercet_fence_meta) = $4",
    promise: "-- redemption_promise
        UPDATE redemption SET promised = 1
        WHERE redemption_id = $1 AND state IN (0, 1) AND (SELECT epoch FROM tercet_fence_meta) = $2",
    give_up: "-- redemption_give_up
        UPDATE redemption SET state = 5, refusal = $1, ended_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER)
        WHERE redemption_id = $2 AND state = 0 AND (SELECT epoch FROM tercet_fence_meta) = $3",
    forget: "-- redemption_forget
        DELETE FROM redemption
        WHERE redemption_id = $1 AND state = 0 AND promised = 0 AND (SELECT epoch FROM tercet_fence_meta) = $2",
    taken_back: "-- redemption_taken_back
        UPDATE redemption SET state = 4, refunded_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER)
        WHERE redemption_id = $1 AND refund_xid = $2 AND state = 6
            AND (SELECT epoch FROM tercet_fence_meta) = $3",
    due: sqlite!(
        "redemption_due",
        "WHERE state = $1 AND due_ms <= CAST(unixepoch('subsec') * 1000 AS INTEGER)
        AND NOT EXISTS (SELECT 1 FROM slot AS s WHERE s.slot = (redemption_id & 1023) AND s.state <> 1)
        ORDER BY due_ms LIMIT $2"
    ),
    take: "-- redemption_take
        UPDATE redemption SET tries = tries + 1, due_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER) + $1
        WHERE redemption_id = $2 AND due_ms = $3 AND state IN (0, 5, 6)
            AND (SELECT epoch FROM tercet_fence_meta) = $4",
    ended: "-- redemption_ended
        SELECT redemption_id FROM redemption INDEXED BY redemption_by_due
        WHERE state IN (2, 3, 4) AND due_ms < CAST(unixepoch('subsec') * 1000 AS INTEGER) - $1
            AND COALESCE(refunded_ms, ended_ms) < CAST(unixepoch('subsec') * 1000 AS INTEGER) - $1 LIMIT $2",
    delete: "-- redemption_delete
        DELETE FROM redemption WHERE redemption_id IN (SELECT value FROM json_each($1)) AND state IN (2, 3, 4)
            AND (SELECT epoch FROM tercet_fence_meta) = $2",
    kept: "-- redemption_kept
        SELECT COUNT(*) FROM (SELECT 1 FROM redemption WHERE state = 0 LIMIT $1) AS k",
    standings: "-- redemption_standings
        SELECT redemption_id, state, attempt FROM redemption
        WHERE redemption_id IN (SELECT value FROM json_each($1))",
    step: "-- redemption_step
        UPDATE redemption SET state = j.next,
            ended_ms = iif(j.next = 2 AND j.before = 1, CAST(unixepoch('subsec') * 1000 AS INTEGER), ended_ms),
            refunded_ms = iif(j.next = 6, CAST(unixepoch('subsec') * 1000 AS INTEGER), NULL),
            refund_xid = j.xid, refund_operator = j.operator, refund_reason = j.reason
        FROM (SELECT value->>0 AS id, value->>1 AS before, value->>2 AS next, value->>3 AS attempt,
                  value->>4 AS xid, value->>5 AS operator, value->>6 AS reason FROM json_each($1)) AS j
        WHERE redemption.redemption_id = j.id AND redemption.state = j.before
            AND redemption.attempt = COALESCE(j.attempt, redemption.attempt)",
};

#[cfg(feature = "mysql")]
macro_rules! mysql {
    ($name:literal, $rest:literal) => {
        concat!(
            "-- ",
            $name,
            "\n",
            columns!(
                "CAST(idempotency_key AS CHAR CHARACTER SET utf8mb4)",
                "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
                $rest
            )
        )
    };
}

#[cfg(feature = "mysql")]
pub(super) const MYSQL: Statements = Statements {
    keep: "-- redemption_keep
        INSERT IGNORE INTO redemption(redemption_id, user_id, shop_id, order_id, idempotency_key, digest, content,
            state, due_ms, created_ms)
        SELECT ?, ?, ?, ?, ?, ?, ?, 0, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + ?,
            CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) FROM tercet_fence_meta WHERE epoch = ? LOCK IN SHARE MODE",
    by_key: mysql!(
        "redemption_by_key",
        "FORCE INDEX (by_key) WHERE user_id = ? AND shop_id = ? AND idempotency_key = ?"
    ),
    by_order: mysql!(
        "redemption_by_order",
        "FORCE INDEX (of_order) WHERE user_id = ? AND shop_id = ? AND order_id = ?
        AND state NOT IN (3, 5) ORDER BY redemption_id DESC LIMIT 1"
    ),
    refuse: "-- redemption_refuse
        UPDATE redemption SET state = IF(promised = 1, 5, 3), refusal = ?,
            ended_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        WHERE redemption_id = ? AND attempt = ? AND state IN (0, 1)
            AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    again: "-- redemption_again
        UPDATE redemption SET state = 0, attempt = attempt + 1,
            due_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + ?
        WHERE redemption_id = ? AND attempt = ? AND state IN (0, 1)
            AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    promise: "-- redemption_promise
        UPDATE redemption SET promised = 1
        WHERE redemption_id = ? AND state IN (0, 1)
            AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    give_up: "-- redemption_give_up
        UPDATE redemption SET state = 5, refusal = ?, ended_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        WHERE redemption_id = ? AND state = 0 AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    forget: "-- redemption_forget
        DELETE FROM redemption
        WHERE redemption_id = ? AND state = 0 AND promised = 0
            AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    taken_back: "-- redemption_taken_back
        UPDATE redemption SET state = 4, refunded_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        WHERE redemption_id = ? AND refund_xid = ? AND state = 6
            AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    due: mysql!(
        "redemption_due",
        "FORCE INDEX (by_due) WHERE state = ?
        AND due_ms <= CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        AND NOT EXISTS (SELECT 1 FROM slot AS s WHERE s.slot = (redemption_id & 1023) AND s.state <> 1)
        ORDER BY due_ms LIMIT ?"
    ),
    take: "-- redemption_take
        UPDATE redemption SET tries = tries + 1, due_ms = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) + ?
        WHERE redemption_id = ? AND due_ms = ? AND state IN (0, 5, 6)
            AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    ended: "-- redemption_ended
        SELECT r.redemption_id
        FROM (SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) - ? AS until_ms) AS j
        STRAIGHT_JOIN redemption r FORCE INDEX (by_due)
        WHERE r.state IN (2, 3, 4) AND r.due_ms < j.until_ms AND COALESCE(r.refunded_ms, r.ended_ms) < j.until_ms
        LIMIT ?",
    delete: "-- redemption_delete
        DELETE r FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) AS j
        STRAIGHT_JOIN redemption r FORCE INDEX (PRIMARY) ON r.redemption_id = j.id
        WHERE r.state IN (2, 3, 4) AND (SELECT epoch FROM tercet_fence_meta LOCK IN SHARE MODE) = ?",
    kept: "-- redemption_kept
        SELECT COUNT(*) FROM (SELECT 1 FROM redemption FORCE INDEX (by_due) WHERE state = 0 LIMIT ?) AS k",
    standings: "-- redemption_standings
        SELECT r.redemption_id, r.state, r.attempt FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) AS j
        STRAIGHT_JOIN redemption r FORCE INDEX (PRIMARY) ON r.redemption_id = j.id FOR UPDATE",
    step: "-- redemption_step
        UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$[0]', before_ BIGINT PATH '$[1]',
            next_ BIGINT PATH '$[2]', attempt BIGINT PATH '$[3]', xid CHAR(36) CHARACTER SET ascii PATH '$[4]',
            operator VARCHAR(64) CHARACTER SET utf8mb4 PATH '$[5]',
            reason VARCHAR(512) CHARACTER SET utf8mb4 PATH '$[6]')) AS j
        STRAIGHT_JOIN redemption r FORCE INDEX (PRIMARY) ON r.redemption_id = j.id
        SET r.state = j.next_,
            r.ended_ms = IF(j.next_ = 2 AND j.before_ = 1, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), r.ended_ms),
            r.refunded_ms = IF(j.next_ = 6, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), NULL),
            r.refund_xid = j.xid, r.refund_operator = j.operator, r.refund_reason = j.reason
        WHERE r.state = j.before_ AND r.attempt = COALESCE(j.attempt, r.attempt)",
};
