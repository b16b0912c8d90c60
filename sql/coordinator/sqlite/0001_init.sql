-- The coordinator's tables.

-- One row per global transaction. A rowid table, because its rows are changed twice and grow: they stay where they are
-- while the key in the index is small and sorted by time.
CREATE TABLE tx (
    xid BLOB NOT NULL PRIMARY KEY CHECK (length(xid) = 16),
    version INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    status INTEGER NOT NULL,
    ended_at INTEGER,
    node INTEGER,
    epoch INTEGER,
    wake_at INTEGER,
    idempotency_key TEXT CHECK (length(CAST(idempotency_key AS BLOB)) <= 128),
    digest INTEGER NOT NULL,
    plan BLOB NOT NULL,
    state BLOB NOT NULL
) STRICT;

-- Holds neither status nor wake_at, so that a decision touches no index.
CREATE INDEX tx_unfinished ON tx (node, epoch) WHERE ended_at IS NULL;
CREATE INDEX tx_ended ON tx (ended_at) WHERE ended_at IS NOT NULL;
CREATE UNIQUE INDEX tx_idempotency_key ON tx (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- By what a transaction is found: kind 0 a label (name=value), 1 a business key. Written once.
CREATE TABLE tx_key (
    xid BLOB NOT NULL,
    kind INTEGER NOT NULL,
    text TEXT NOT NULL CHECK (length(CAST(text AS BLOB)) <= 256),
    PRIMARY KEY (xid, kind, text)
) STRICT, WITHOUT ROWID;

CREATE INDEX tx_key_text ON tx_key (kind, text, xid);

-- Operations whose quick retries are used up. Status 0 pending, 1 done, 2 failed (parked).
CREATE TABLE compensation_log (
    id INTEGER PRIMARY KEY,
    coupon_id BIGINT NULL,
    status TINYINT NOT NULL,
    retry_count INT NOT NULL,
    create_time BIGINT NOT NULL,
    xid BLOB NOT NULL,
    branch INT NOT NULL,
    operation TINYINT NOT NULL,
    service TEXT NOT NULL,
    next_retry_time BIGINT NOT NULL,
    lease_until BIGINT NOT NULL DEFAULT 0,
    owner_node INT NULL,
    owner_epoch BIGINT NULL,
    last_error TEXT NOT NULL,
    update_time BIGINT NOT NULL,
    UNIQUE (xid, branch, operation)
);

CREATE INDEX compensation_log_due ON compensation_log (service, next_retry_time) WHERE status = 0;
CREATE INDEX compensation_log_failed ON compensation_log (id) WHERE status = 2;

-- Transactions that wait for a person, in the order of their listing.
CREATE INDEX compensation_log_parked ON compensation_log (xid) WHERE status = 2;

-- The oldest pending row of each service is the first of its part of this index: nobody looks through a million.
CREATE INDEX compensation_log_oldest ON compensation_log (service, id) WHERE status = 0;

-- How many compensations of each service are pending (status 0) and parked (2), kept as they change: a million rows are
-- never counted. Services with neither have no row: transactions may name any.
CREATE TABLE compensation_count (
    service TEXT NOT NULL PRIMARY KEY,
    pending INTEGER NOT NULL,
    failed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER compensation_log_inserted AFTER INSERT ON compensation_log WHEN NEW.status <> 1 BEGIN
    INSERT INTO compensation_count (service, pending, failed) VALUES (NEW.service, NEW.status = 0, NEW.status = 2)
    ON CONFLICT (service) DO UPDATE SET pending = pending + excluded.pending, failed = failed + excluded.failed;
END;

-- A row stays with its service.
CREATE TRIGGER compensation_log_updated AFTER UPDATE OF status ON compensation_log WHEN OLD.status <> NEW.status BEGIN
    INSERT INTO compensation_count (service, pending, failed)
    VALUES (NEW.service, (NEW.status = 0) - (OLD.status = 0), (NEW.status = 2) - (OLD.status = 2))
    ON CONFLICT (service) DO UPDATE SET pending = pending + excluded.pending, failed = failed + excluded.failed;
    DELETE FROM compensation_count WHERE service = OLD.service AND pending = 0 AND failed = 0;
END;

CREATE TRIGGER compensation_log_deleted AFTER DELETE ON compensation_log WHEN OLD.status <> 1 BEGIN
    UPDATE compensation_count SET pending = pending - (OLD.status = 0), failed = failed - (OLD.status = 2)
    WHERE service = OLD.service;
    DELETE FROM compensation_count WHERE service = OLD.service AND pending = 0 AND failed = 0;
END;

-- One row per coordinator node: which start of it is the newest, and until when that one is taken to be alive.
CREATE TABLE node (
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    beat_at INTEGER NOT NULL,
    lease_until INTEGER NOT NULL
) STRICT;
