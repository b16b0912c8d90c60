-- One row for each branch that was called here. state: 1 tried, 2 confirmed (or the sender's commit), 3 cancelled, 4 refused.
-- prev is the state before the latest call, 0 for none. reply is one byte, the state it belongs to, and then the bytes.
-- part is that of the service's rows that may move to another database, -1 for what never does.
CREATE TABLE IF NOT EXISTS tercet_fence (
    xid BINARY(16) NOT NULL,
    branch BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    prev SMALLINT NOT NULL DEFAULT 0,
    reply VARBINARY(4097),
    part SMALLINT NOT NULL DEFAULT -1,
    PRIMARY KEY (xid, branch)
) ENGINE = InnoDB;

-- One row. A call whose not_after is at or below floor_ms touches nothing. epoch rises whenever this database begins or ceases to
-- serve a part.
CREATE TABLE IF NOT EXISTS tercet_fence_meta (
    id SMALLINT NOT NULL PRIMARY KEY,
    fence_id BINARY(16) NOT NULL,
    floor_ms BIGINT NOT NULL,
    epoch BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB;

INSERT IGNORE INTO tercet_fence_meta (id, fence_id, floor_ms) VALUES (1, UNHEX(REPLACE(UUID(), '-', '')), 0);
