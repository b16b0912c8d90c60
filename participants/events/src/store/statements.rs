//! The statements. What reads alike in both dialects has one text; what differs is named in [`Statements`].

/// What the dialects say differently.
pub(super) struct Statements {
    pub(super) begin: &'static str,
    pub(super) now_ms: &'static str,
    pub(super) append: &'static str,
    pub(super) keep: &'static str,
    pub(super) batch: &'static str,
    pub(super) oldest: &'static str,
    pub(super) published: &'static str,
    pub(super) advance: &'static str,
    pub(super) enter: &'static str,
    pub(super) entered: &'static str,
}

/// Columns in the order of a row that waits.
macro_rules! waiting {
    ($name:literal, $rest:literal) => {
        concat!("-- events_", $name, "\nSELECT id, topic, record_key, at_ms, letter, payload FROM ", $rest)
    };
}

const ADVANCE: &str = "-- events_advance
    UPDATE tercet_outbox_relay SET batch = ?, batch_sequence = ?, lease_until_ms = ? WHERE id = 1 AND epoch = ?";

// A prepared statement counts its parameters by their places, so that those of SQLite are numbered where one is used
// twice.
#[cfg(feature = "sqlite")]
pub(super) const SQLITE: Statements = Statements {
    begin: "BEGIN IMMEDIATE",
    now_ms: "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    append: "-- events_append
        INSERT INTO tercet_outbox(topic, record_key, at_ms, letter, payload)
        SELECT value->>0, value->>1, COALESCE(value->>2, CAST(unixepoch('subsec') * 1000 AS INTEGER)), value->>3,
            substr($1, value->>4, value->>5)
        FROM json_each($2) ORDER BY key",
    keep: "-- events_keep
        INSERT INTO tercet_dead_letter(topic, record_key, at_ms, letter, payload)
        SELECT value->>0, value->>1, CAST(unixepoch('subsec') * 1000 AS INTEGER), value->>3,
            substr($1, value->>4, value->>5)
        FROM json_each($2) ORDER BY key",
    batch: waiting!("batch", "tercet_outbox WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"),
    // With a plus, or it would be prepared anew whenever it is bound, to be planned by its limit.
    oldest: waiting!("oldest", "tercet_outbox ORDER BY id LIMIT +?"),
    published: "-- events_published
        DELETE FROM tercet_outbox WHERE id IN (SELECT value FROM json_each(?))",
    advance: ADVANCE,
    enter: "-- events_enter
        INSERT INTO tercet_inbox(consumer, topic, part, source, sequence)
        SELECT $1, value->>0, value->>1, value->>2, value->>3 FROM json_each($2) WHERE true ORDER BY key
        ON CONFLICT(consumer, topic, part, source) DO UPDATE SET before = sequence,
            sequence = max(sequence, excluded.sequence)",
    entered: "-- events_entered
        SELECT i.before FROM json_each($1) AS j JOIN tercet_inbox AS i ON i.consumer = $2
            AND i.topic = j.value->>0 AND i.part = j.value->>1 AND i.source = j.value->>2 ORDER BY j.key",
};

// STRAIGHT_JOIN and FORCE INDEX, so that only the rows named are read and locked. The parser needs the WHERE before ON
// DUPLICATE, which it would take for a join's. Texts would be in
// the character set of the database without being told.
#[cfg(feature = "mysql")]
pub(super) const MYSQL: Statements = Statements {
    begin: "START TRANSACTION",
    now_ms: "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
    append: "-- events_append
        INSERT INTO tercet_outbox(topic, record_key, at_ms, letter, payload)
        SELECT topic, record_key, COALESCE(at_ms, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)), letter, UNHEX(payload)
        FROM JSON_TABLE(?, '$[*]' COLUMNS (topic VARCHAR(128) PATH '$[0]',
            record_key VARCHAR(64) CHARACTER SET utf8mb4 PATH '$[1]', at_ms BIGINT PATH '$[2]',
            letter TEXT CHARACTER SET utf8mb4 PATH '$[3]',
            payload LONGTEXT PATH '$[4]')) AS j",
    keep: "-- events_keep
        INSERT INTO tercet_dead_letter(topic, record_key, at_ms, letter, payload)
        SELECT topic, record_key, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), letter, UNHEX(payload)
        FROM JSON_TABLE(?, '$[*]' COLUMNS (topic VARCHAR(128) PATH '$[0]',
            record_key VARCHAR(64) CHARACTER SET utf8mb4 PATH '$[1]', letter TEXT CHARACTER SET utf8mb4 PATH '$[3]',
            payload LONGTEXT PATH '$[4]')) AS j",
    batch: "-- events_batch
        SELECT o.id, o.topic, o.record_key, o.at_ms, o.letter, o.payload
        FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) AS j
        STRAIGHT_JOIN tercet_outbox AS o FORCE INDEX (PRIMARY) ON o.id = j.id ORDER BY o.id",
    oldest: waiting!("oldest", "tercet_outbox FORCE INDEX (PRIMARY) ORDER BY id LIMIT ?"),
    published: "-- events_published
        DELETE o FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) AS j
        STRAIGHT_JOIN tercet_outbox AS o FORCE INDEX (PRIMARY) ON o.id = j.id",
    advance: ADVANCE,
    enter: "-- events_enter
        INSERT INTO tercet_inbox(consumer, topic, part, source, sequence)
        SELECT c.consumer, j.topic, j.part, j.source, j.sequence
        FROM (SELECT ? AS consumer) AS c JOIN JSON_TABLE(?, '$[*]' COLUMNS (topic VARCHAR(128) PATH '$[0]',
            part BIGINT PATH '$[1]', source VARCHAR(64) PATH '$[2]', sequence BIGINT PATH '$[3]')) AS j
        WHERE true ON DUPLICATE KEY UPDATE `before` = tercet_inbox.sequence,
            sequence = GREATEST(tercet_inbox.sequence, VALUES(sequence))",
    entered: "-- events_entered
        SELECT i.`before` FROM JSON_TABLE(?, '$[*]' COLUMNS (at FOR ORDINALITY, topic VARCHAR(128) PATH '$[0]',
            part BIGINT PATH '$[1]', source VARCHAR(64) PATH '$[2]')) AS j
        STRAIGHT_JOIN tercet_inbox AS i FORCE INDEX (PRIMARY) ON i.consumer = ? AND i.topic = j.topic
            AND i.part = j.part AND i.source = j.source ORDER BY j.at",
};

pub(super) const TAKE: &str = "-- events_take_lease
    UPDATE tercet_outbox_relay SET owner = ?, lease_until_ms = ?, epoch = epoch + 1
    WHERE id = 1 AND (lease_until_ms <= ? OR owner = ?)";
pub(super) const PLACE: &str = "-- events_lease
    SELECT epoch, source, batch, batch_sequence, owner FROM tercet_outbox_relay WHERE id = 1";
pub(super) const RENEW: &str = "-- events_renew_lease
    UPDATE tercet_outbox_relay SET lease_until_ms = ? WHERE id = 1 AND epoch = ?";
pub(super) const NEXT: &str = "-- events_any
    SELECT id FROM tercet_outbox ORDER BY id LIMIT 1";
pub(super) const OLDEST: &str = "-- events_oldest_at
    SELECT at_ms FROM tercet_outbox ORDER BY id LIMIT 1";
pub(super) const COUNT: &str = "-- events_count
    SELECT COUNT(*) FROM (SELECT 1 FROM tercet_outbox LIMIT ?) AS a";
pub(super) const DEAD_COUNT: &str = "-- events_dead_count
    SELECT COUNT(*) FROM (SELECT 1 FROM tercet_dead_letter LIMIT ?) AS a";
pub(super) const LETTERS: &str = waiting!("letters", "tercet_dead_letter WHERE id > ? ORDER BY id LIMIT ?");
pub(super) const LETTER: &str = waiting!("letter", "tercet_dead_letter WHERE id = ?");
pub(super) const RELEASE: &str = "-- events_release
    DELETE FROM tercet_dead_letter WHERE id = ?";
