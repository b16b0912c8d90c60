//! Every statement that names a table of a shard, in both dialects side by side; nothing else makes such names.
//!
//! `{n}` is the number of the table. What a statement is about is a JSON array of whole numbers, or of rows of them. On
//! SQLite it is the parameter `$1`, or each of its numbers a parameter, and the text stays prepared. On MariaDB it is
//! part of the text, as `{rows}`, or a number of it as `{0}`: the statements of a slice on all of its tables go over in
//! one message, and none has to be prepared for each table. Only digits, signs and brackets come into a text this way.
//!
//! Rows come sorted by key, so that two transactions lock in one order.

use std::sync::{Arc, OnceLock};

use tercet_shards::TABLES_MAX;

/// A statement on one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Makes and locks the counters of (user, template), where a row that does not exist can not be locked.
    LockCounts,
    /// What stands in the way of claims: (at, claimed, day, today, whether the coupon exists, the coupon of the user
    /// with the key or 0) for rows of (at, coupon, template, user, key).
    Standings,
    /// Writes coupons.
    Insert,
    /// Counts claims: (user, template, n, the limit, the day).
    Count,
    /// Deletes pending coupons.
    Delete,
    /// Takes claims from the counters: (user, template, n, the day, n of the day).
    Uncount,
    /// Locks and reads coupons.
    Coupons,
    /// Moves coupons: (coupon, status before, status after, shop, order, discount).
    Advance,
    /// Whether any claims of these users are under way.
    Pending,
    /// One coupon.
    Coupon,
    /// A user's coupon by the key of its claim: (user, key).
    Keyed,
    /// Reads coupons of one user, with the clock.
    Look,
    /// A user's coupons that are issued and have not ended, by their end, with the clock: (user, how many).
    Usable,
    /// A user's coupons of one status, newest first: (user, status, below which coupon, how many).
    OfUser,
    /// A user's coupons, of each status the newest: (user, below which coupon, how many of a status).
    OfUserAll,
    /// Coupons, newest first: (below which coupon, of which template or 0, status or -1, how many to look at).
    Page,
    /// Locks and reads coupons that end with the mark, above its coupon: (time, coupon, by when, how many).
    EndedWith,
    /// Those that end after the mark.
    EndedAfter,
    /// Coupons by status, and what must not be.
    Totals,
    /// Every used coupon with its order.
    Used,
    /// Voids a coupon that is issued, and ends its time.
    Void,
}

/// How many there are.
pub(super) const KINDS: usize = 21;

impl Kind {
    /// Whether it returns rows.
    pub(super) const fn reads(self) -> bool {
        match self {
            Self::Standings
            | Self::Coupons
            | Self::Pending
            | Self::Coupon
            | Self::Keyed
            | Self::Look
            | Self::Usable
            | Self::OfUser
            | Self::OfUserAll
            | Self::Page
            | Self::EndedWith
            | Self::EndedAfter
            | Self::Totals
            | Self::Used => true,
            Self::LockCounts
            | Self::Insert
            | Self::Count
            | Self::Delete
            | Self::Uncount
            | Self::Advance
            | Self::Void => false,
        }
    }

    /// Whether it is about numbers, not about rows of them.
    #[cfg(feature = "sqlite")]
    pub(super) const fn is_about_numbers(self) -> bool {
        match self {
            Self::Coupon
            | Self::Keyed
            | Self::Usable
            | Self::OfUser
            | Self::OfUserAll
            | Self::Page
            | Self::EndedWith
            | Self::EndedAfter => true,
            Self::LockCounts
            | Self::Standings
            | Self::Insert
            | Self::Count
            | Self::Delete
            | Self::Uncount
            | Self::Coupons
            | Self::Advance
            | Self::Pending
            | Self::Look
            | Self::Totals
            | Self::Used
            | Self::Void => false,
        }
    }
}

/// The names of the tables of this number.
pub(super) fn tables(n: usize) -> [String; 2] {
    [format!("coupon_{n:03}"), format!("claimed_{n:03}")]
}

/// The schema of the tables of this number, of so many. The count is part of the text: with another, rows would be
/// looked for in the wrong table, so a start with it fails.
pub(super) fn schema(pattern: &str, n: usize, of: usize) -> String {
    numbered(pattern, n).replace("{of}", &of.to_string())
}

fn numbered(pattern: &str, n: usize) -> String {
    pattern.replace("{n}", &format!("{n:03}"))
}

/// The text of a statement on the table `n`, with parameters for what it is about.
#[cfg(feature = "sqlite")]
pub(super) fn sqlite(kind: Kind, n: usize) -> Arc<str> {
    static TEXTS: [OnceLock<Arc<str>>; KINDS * TABLES_MAX] = [const { OnceLock::new() }; KINDS * TABLES_MAX];
    let text = TEXTS[kind as usize * TABLES_MAX + n].get_or_init(|| numbered(SQLITE.of(kind), n).into());
    Arc::clone(text)
}

/// Appends a statement on the table `n` with what it is about, and a semicolon.
#[cfg(feature = "mysql")]
pub(super) fn mysql(text: &mut String, kind: Kind, n: usize, about: &str) {
    static TEXTS: [OnceLock<Arc<str>>; KINDS * TABLES_MAX] = [const { OnceLock::new() }; KINDS * TABLES_MAX];
    let pattern = TEXTS[kind as usize * TABLES_MAX + n].get_or_init(|| numbered(MYSQL.of(kind), n).into());
    let number = |at: usize| about.trim_matches(['[', ']']).split(',').nth(at).unwrap_or("NULL");
    let mut rest = &**pattern;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        text.push_str(before);
        match name.parse() {
            Ok(at) => text.push_str(number(at)),
            Err(_) if name == "values" => {
                // [[1,2],[3,4]] is (1,2),(3,4).
                let rows = about.strip_prefix('[').and_then(|rows| rows.strip_suffix(']')).unwrap_or(about);
                text.push_str(&rows.replace('[', "(").replace(']', ")"));
            }
            Err(_) => text.extend(["'", about, "'"]),
        }
        rest = after;
    }
    text.push_str(rest);
    text.push_str(";\n");
}

/// The text of each kind for one database.
struct Statements {
    lock_counts: &'static str,
    standings: &'static str,
    insert: &'static str,
    count: &'static str,
    delete: &'static str,
    uncount: &'static str,
    coupons: &'static str,
    advance: &'static str,
    pending: &'static str,
    coupon: &'static str,
    keyed: &'static str,
    look: &'static str,
    usable: &'static str,
    of_user: &'static str,
    of_user_all: &'static str,
    page: &'static str,
    ended_with: &'static str,
    ended_after: &'static str,
    totals: &'static str,
    used: &'static str,
    void: &'static str,
}

impl Statements {
    const fn of(&self, kind: Kind) -> &'static str {
        match kind {
            Kind::LockCounts => self.lock_counts,
            Kind::Standings => self.standings,
            Kind::Insert => self.insert,
            Kind::Count => self.count,
            Kind::Delete => self.delete,
            Kind::Uncount => self.uncount,
            Kind::Coupons => self.coupons,
            Kind::Advance => self.advance,
            Kind::Pending => self.pending,
            Kind::Coupon => self.coupon,
            Kind::Keyed => self.keyed,
            Kind::Look => self.look,
            Kind::Usable => self.usable,
            Kind::OfUser => self.of_user,
            Kind::OfUserAll => self.of_user_all,
            Kind::Page => self.page,
            Kind::EndedWith => self.ended_with,
            Kind::EndedAfter => self.ended_after,
            Kind::Totals => self.totals,
            Kind::Used => self.used,
            Kind::Void => self.void,
        }
    }
}

/// A user's coupons of one status: the index has them by status, each newest first, so that no more rows are read than
/// are wanted.
macro_rules! of_status {
    ($status:literal, $hint:literal, [$user:literal, $below:literal, $most:literal]) => {
        concat!(
            "SELECT coupon_id, user_id, template_id, version, status, shop_id, order_id, discount_cents, claimed_ms,
            valid_from_ms, valid_until_ms, used_ms, step FROM coupon_{n} ",
            $hint,
            " WHERE user_id = ",
            $user,
            " AND status = ",
            $status,
            " AND coupon_id < ",
            $below,
            " ORDER BY coupon_id DESC LIMIT ",
            $most
        )
    };
}

/// The same of every status, in one look at the table. `open` and `close` make a part of the whole.
macro_rules! of_user_all {
    ($open:literal, $close:literal, $hint:literal, $about:tt) => {
        concat!(
            "-- coupon_of_user_all\n        ",
            $open,
            of_status!("0", $hint, $about),
            $close,
            " UNION ALL ",
            $open,
            of_status!("1", $hint, $about),
            $close,
            " UNION ALL ",
            $open,
            of_status!("2", $hint, $about),
            $close,
            " UNION ALL ",
            $open,
            of_status!("3", $hint, $about),
            $close,
            " UNION ALL ",
            $open,
            of_status!("4", $hint, $about),
            $close,
            " UNION ALL ",
            $open,
            of_status!("5", $hint, $about),
            $close
        )
    };
}

const TOTALS: &str = "-- coupon_totals
    SELECT
        (SELECT COUNT(*) FROM coupon_{n} WHERE status = 0), (SELECT COUNT(*) FROM coupon_{n} WHERE status = 1),
        (SELECT COUNT(*) FROM coupon_{n} WHERE status = 2), (SELECT COUNT(*) FROM coupon_{n} WHERE status = 3),
        (SELECT COUNT(*) FROM coupon_{n} WHERE status = 4), (SELECT COUNT(*) FROM coupon_{n} WHERE status = 5),
        (SELECT COUNT(*) FROM (
            SELECT 1 FROM (SELECT user_id, template_id, claimed AS n FROM claimed_{n}
                           UNION ALL SELECT user_id, template_id, -1 FROM coupon_{n} WHERE batch = 0) AS a
            GROUP BY user_id, template_id HAVING SUM(n) <> 0) AS b),
        (SELECT COUNT(*) FROM claimed_{n} WHERE claimed > per_user)";

// SQLite plans by a parameter that is a LIMIT, and so prepares the statement anew whenever it is bound; behind a plus
// it does not.
#[cfg(feature = "sqlite")]
const SQLITE: Statements = Statements {
    // The one writer has locked everything.
    lock_counts: "",
    standings: "-- coupon_standings
        SELECT j.value->>0, COALESCE(u.claimed, 0), COALESCE(u.day, 0), COALESCE(u.today, 0),
            c.coupon_id IS NOT NULL, COALESCE(k.coupon_id, 0) FROM json_each($1) AS j
        LEFT JOIN claimed_{n} u ON u.user_id = j.value->>3 AND u.template_id = j.value->>2
        LEFT JOIN coupon_{n} c ON c.coupon_id = j.value->>1
        LEFT JOIN coupon_{n} k ON k.user_id = j.value->>3 AND k.claim_key = j.value->>4",
    insert: "-- coupon_insert
        INSERT INTO coupon_{n}(coupon_id, user_id, template_id, version, status, claimed_ms, valid_from_ms,
            valid_until_ms, batch, claim_key)
        SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8,
            value->>9 FROM json_each($1)",
    count: "-- coupon_count
        INSERT INTO claimed_{n}(user_id, template_id, claimed, per_user, day, today)
        SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>2 FROM json_each($1) WHERE true
        ON CONFLICT(user_id, template_id) DO UPDATE SET claimed = claimed + excluded.claimed,
            per_user = MAX(per_user, excluded.per_user),
            today = excluded.today + iif(day >= excluded.day, today, 0), day = MAX(day, excluded.day)",
    delete: "-- coupon_delete
        DELETE FROM coupon_{n} WHERE status = 0 AND coupon_id IN (SELECT value FROM json_each($1))",
    uncount: "-- coupon_uncount
        UPDATE claimed_{n} SET claimed = claimed - j.n, today = today - iif(claimed_{n}.day = j.day, j.of_day, 0)
        FROM (SELECT value->>0 AS user_id, value->>1 AS template_id, value->>2 AS n, value->>3 AS day,
                  value->>4 AS of_day FROM json_each($1)) AS j
        WHERE claimed_{n}.user_id = j.user_id AND claimed_{n}.template_id = j.template_id",
    coupons: "-- coupon_coupons
        SELECT coupon_id, user_id, template_id, version, status, shop_id, order_id, discount_cents, claimed_ms,
            valid_from_ms, valid_until_ms, used_ms, step, CAST(unixepoch('subsec') * 1000 AS INTEGER)
        FROM coupon_{n} WHERE coupon_id IN (SELECT value FROM json_each($1))",
    advance: "-- coupon_advance
        UPDATE coupon_{n} SET
            status = iif(j.next = 1 AND valid_until_ms <= CAST(unixepoch('subsec') * 1000 AS INTEGER), 4, j.next),
            shop_id = j.shop_id, order_id = j.order_id, discount_cents = j.discount_cents,
            used_ms = iif(j.next = 3, CAST(unixepoch('subsec') * 1000 AS INTEGER), NULL), step = step + 2
        FROM (SELECT value->>0 AS coupon_id, value->>1 AS before, value->>2 AS next, value->>3 AS shop_id,
                  value->>4 AS order_id, value->>5 AS discount_cents FROM json_each($1)) AS j
        WHERE coupon_{n}.coupon_id = j.coupon_id AND coupon_{n}.status = j.before",
    pending: "-- coupon_pending
        SELECT c.user_id, c.template_id FROM json_each($1) AS j
        JOIN coupon_{n} c ON c.user_id = j.value AND c.status = 0",
    coupon: "-- coupon_coupon
        SELECT coupon_id, user_id, template_id, version, status, shop_id, order_id, discount_cents, claimed_ms,
            valid_from_ms, valid_until_ms, used_ms, step FROM coupon_{n} WHERE coupon_id = $1",
    keyed: "-- coupon_keyed
        SELECT coupon_id, user_id, template_id, version, status, shop_id, order_id, discount_cents, claimed_ms,
            valid_from_ms, valid_until_ms, used_ms, step FROM coupon_{n} INDEXED BY coupon_{n}_by_key
        WHERE user_id = $1 AND claim_key = $2",
    look: "-- coupon_look
        SELECT coupon_id, user_id, template_id, version, status, shop_id, order_id, discount_cents, claimed_ms,
            valid_from_ms, valid_until_ms, used_ms, step, CAST(unixepoch('subsec') * 1000 AS INTEGER)
        FROM coupon_{n} WHERE coupon_id IN (SELECT value FROM json_each($1))",
    usable: "-- coupon_usable
        SELECT coupon_id, user_id, template_id, version, status, shop_id, order_id, discount_cents, claimed_ms,
            valid_from_ms, valid_until_ms, used_ms, step, CAST(unixepoch('subsec') * 1000 AS INTEGER)
        FROM coupon_{n} INDEXED BY coupon_{n}_of_user WHERE user_id = $1 AND status = 1
            AND valid_until_ms > CAST(unixepoch('subsec') * 1000 AS INTEGER)
        ORDER BY valid_until_ms, coupon_id LIMIT +$2",
    of_user: concat!(
        "-- coupon_of_user\n        ",
        of_status!("$2", "INDEXED BY coupon_{n}_of_user", ["$1", "$3", "+$4"])
    ),
    of_user_all: of_user_all!("SELECT * FROM (", ")", "INDEXED BY coupon_{n}_of_user", ["$1", "$2", "+$3"]),
    page: "-- coupon_page
        SELECT coupon_id, user_id, template_id, version, status, shop_id, order_id, discount_cents, claimed_ms,
            valid_from_ms, valid_until_ms, used_ms, step, $2 IN (0, template_id) AND $3 IN (-1, status)
        FROM coupon_{n} WHERE coupon_id < $1 ORDER BY coupon_id DESC LIMIT +$4",
    ended_with: "-- coupon_ended_with
        SELECT coupon_id, valid_until_ms, status, user_id, template_id, step
        FROM coupon_{n} INDEXED BY coupon_{n}_by_end
        WHERE valid_until_ms = $1 AND coupon_id > $2 ORDER BY coupon_id LIMIT +$4",
    ended_after: "-- coupon_ended_after
        SELECT coupon_id, valid_until_ms, status, user_id, template_id, step
        FROM coupon_{n} INDEXED BY coupon_{n}_by_end WHERE valid_until_ms > $1 AND valid_until_ms <= $3
        ORDER BY valid_until_ms, coupon_id LIMIT +$4",
    totals: TOTALS,
    used: "-- coupon_used
        SELECT coupon_id, order_id FROM coupon_{n} WHERE status = 3 ORDER BY coupon_id",
    void: "-- coupon_void
        UPDATE coupon_{n} SET status = 5, step = step + 2,
            valid_until_ms = MIN(valid_until_ms, CAST(unixepoch('subsec') * 1000 AS INTEGER))
        WHERE coupon_id IN (SELECT value FROM json_each($1)) AND status = 1",
};

// Without FORCE INDEX a small table is scanned, and every row in it locked.
#[cfg(feature = "mysql")]
const MYSQL: Statements = Statements {
    lock_counts: "-- coupon_lock_counts
        INSERT INTO claimed_{n}(user_id, template_id, claimed, per_user, day, today)
        SELECT DISTINCT j.user_id, j.template_id, 0, 0, 0, 0 FROM JSON_TABLE({rows}, '$[*]' COLUMNS (
            template_id BIGINT PATH '$[2]', user_id BIGINT PATH '$[3]')) AS j ORDER BY 1, 2
        ON DUPLICATE KEY UPDATE claimed = claimed_{n}.claimed",
    standings: "-- coupon_standings
        SELECT j.at, COALESCE(u.claimed, 0), COALESCE(u.day, 0), COALESCE(u.today, 0), c.coupon_id IS NOT NULL,
            COALESCE(k.coupon_id, 0)
        FROM JSON_TABLE({rows}, '$[*]' COLUMNS (at BIGINT PATH '$[0]', coupon_id BIGINT PATH '$[1]',
            template_id BIGINT PATH '$[2]', user_id BIGINT PATH '$[3]', claim_key BIGINT PATH '$[4]')) AS j
        LEFT JOIN claimed_{n} u FORCE INDEX (PRIMARY)
            ON u.user_id = j.user_id AND u.template_id = j.template_id
        LEFT JOIN coupon_{n} c FORCE INDEX (PRIMARY) ON c.coupon_id = j.coupon_id
        LEFT JOIN coupon_{n} k FORCE INDEX (by_key) ON k.user_id = j.user_id AND k.claim_key = j.claim_key",
    insert: "-- coupon_insert
        INSERT INTO coupon_{n}(coupon_id, user_id, template_id, version, status, claimed_ms, valid_from_ms,
            valid_until_ms, batch, claim_key) VALUES {values}",
    count: "-- coupon_count
        INSERT INTO claimed_{n}(user_id, template_id, claimed, per_user, day, today)
        SELECT j.user_id, j.template_id, j.n, j.per_user, j.day, j.n FROM JSON_TABLE({rows}, '$[*]' COLUMNS (
            user_id BIGINT PATH '$[0]', template_id BIGINT PATH '$[1]', n BIGINT PATH '$[2]',
            per_user BIGINT PATH '$[3]', day BIGINT PATH '$[4]')) AS j
        ON DUPLICATE KEY UPDATE claimed = claimed_{n}.claimed + VALUES(claimed),
            per_user = GREATEST(claimed_{n}.per_user, VALUES(per_user)),
            today = VALUES(today) + IF(claimed_{n}.day >= VALUES(day), claimed_{n}.today, 0),
            day = GREATEST(claimed_{n}.day, VALUES(day))",
    delete: "-- coupon_delete
        DELETE coupon_{n} FROM JSON_TABLE({rows}, '$[*]' COLUMNS (coupon_id BIGINT PATH '$')) AS j
        STRAIGHT_JOIN coupon_{n} FORCE INDEX (PRIMARY) ON coupon_{n}.coupon_id = j.coupon_id
        WHERE coupon_{n}.status = 0",
    uncount: "-- coupon_uncount
        UPDATE JSON_TABLE({rows}, '$[*]' COLUMNS (user_id BIGINT PATH '$[0]', template_id BIGINT PATH '$[1]',
            n BIGINT PATH '$[2]', day BIGINT PATH '$[3]', of_day BIGINT PATH '$[4]')) AS j
        STRAIGHT_JOIN claimed_{n} u FORCE INDEX (PRIMARY)
            ON u.user_id = j.user_id AND u.template_id = j.template_id
        SET u.claimed = u.claimed - j.n, u.today = u.today - IF(u.day = j.day, j.of_day, 0)",
    coupons: "-- coupon_coupons
        SELECT c.coupon_id, c.user_id, c.template_id, c.version, c.status, c.shop_id, c.order_id, c.discount_cents,
            c.claimed_ms, c.valid_from_ms, c.valid_until_ms, c.used_ms, c.step,
            CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        FROM JSON_TABLE({rows}, '$[*]' COLUMNS (coupon_id BIGINT PATH '$')) AS j
        STRAIGHT_JOIN coupon_{n} c FORCE INDEX (PRIMARY) ON c.coupon_id = j.coupon_id FOR UPDATE",
    advance: "-- coupon_advance
        UPDATE JSON_TABLE({rows}, '$[*]' COLUMNS (coupon_id BIGINT PATH '$[0]', before_ TINYINT PATH '$[1]',
            next_ TINYINT PATH '$[2]', shop_id BIGINT PATH '$[3]', order_id BIGINT PATH '$[4]',
            discount_cents BIGINT PATH '$[5]')) AS j
        STRAIGHT_JOIN coupon_{n} c FORCE INDEX (PRIMARY) ON c.coupon_id = j.coupon_id
        SET c.status = IF(j.next_ = 1 AND c.valid_until_ms <= CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED),
                4, j.next_),
            c.shop_id = j.shop_id, c.order_id = j.order_id, c.discount_cents = j.discount_cents,
            c.used_ms = IF(j.next_ = 3, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), NULL), c.step = c.step + 2
        WHERE c.status = j.before_",
    pending: "-- coupon_pending
        SELECT c.user_id, c.template_id FROM JSON_TABLE({rows}, '$[*]' COLUMNS (user_id BIGINT PATH '$')) AS j
        STRAIGHT_JOIN coupon_{n} c FORCE INDEX (of_user) ON c.user_id = j.user_id AND c.status = 0",
    coupon: "-- coupon_coupon
        SELECT coupon_id, user_id, template_id, version, status, shop_id, order_id, discount_cents, claimed_ms,
            valid_from_ms, valid_until_ms, used_ms, step FROM coupon_{n} WHERE coupon_id = {0}",
    keyed: "-- coupon_keyed
        SELECT coupon_id, user_id, template_id, version, status, shop_id, order_id, discount_cents, claimed_ms,
            valid_from_ms, valid_until_ms, used_ms, step FROM coupon_{n} FORCE INDEX (by_key)
        WHERE user_id = {0} AND claim_key = {1}",
    look: "-- coupon_look
        SELECT c.coupon_id, c.user_id, c.template_id, c.version, c.status, c.shop_id, c.order_id, c.discount_cents,
            c.claimed_ms, c.valid_from_ms, c.valid_until_ms, c.used_ms, c.step,
            CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        FROM JSON_TABLE({rows}, '$[*]' COLUMNS (coupon_id BIGINT PATH '$')) AS j
        STRAIGHT_JOIN coupon_{n} c FORCE INDEX (PRIMARY) ON c.coupon_id = j.coupon_id",
    usable: "-- coupon_usable
        SELECT coupon_id, user_id, template_id, version, status, shop_id, order_id, discount_cents, claimed_ms,
            valid_from_ms, valid_until_ms, used_ms, step, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        FROM coupon_{n} FORCE INDEX (of_user) WHERE user_id = {0} AND status = 1
            AND valid_until_ms > CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)
        ORDER BY valid_until_ms, coupon_id LIMIT {1}",
    of_user: concat!("-- coupon_of_user\n        ", of_status!("{1}", "FORCE INDEX (of_user)", ["{0}", "{2}", "{3}"])),
    of_user_all: of_user_all!("(", ")", "FORCE INDEX (of_user)", ["{0}", "{1}", "{2}"]),
    page: "-- coupon_page
        SELECT coupon_id, user_id, template_id, version, status, shop_id, order_id, discount_cents, claimed_ms,
            valid_from_ms, valid_until_ms, used_ms, step, {1} IN (0, template_id) AND {2} IN (-1, status)
        FROM coupon_{n} FORCE INDEX (PRIMARY) WHERE coupon_id < {0} ORDER BY coupon_id DESC LIMIT {3}",
    ended_with: "-- coupon_ended_with
        SELECT coupon_id, valid_until_ms, status, user_id, template_id, step FROM coupon_{n} FORCE INDEX (by_end)
        WHERE valid_until_ms = {0} AND coupon_id > {1} ORDER BY coupon_id LIMIT {3} FOR UPDATE",
    ended_after: "-- coupon_ended_after
        SELECT coupon_id, valid_until_ms, status, user_id, template_id, step FROM coupon_{n} FORCE INDEX (by_end)
        WHERE valid_until_ms > {0} AND valid_until_ms <= {2}
        ORDER BY valid_until_ms, coupon_id LIMIT {3} FOR UPDATE",
    totals: TOTALS,
    used: "-- coupon_used
        SELECT coupon_id, order_id FROM coupon_{n} WHERE status = 3 ORDER BY coupon_id",
    void: "-- coupon_void
        UPDATE coupon_{n} SET status = 5, step = step + 2, valid_until_ms = LEAST(valid_until_ms,
            CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)) WHERE coupon_id = {0} AND status = 1",
};
