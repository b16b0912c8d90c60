-- One row for each branch that was called here. state: 1 tried, 2 confirmed (or the sender's commit), 3 cancelled, 4 refused.
-- prev is the state before the latest call, 0 for none. reply is one byte, the state it belongs to, and then the bytes.
-- part is that of the service's rows that may move to another database, -1 for what never does.
-- A rowid table: with WITHOUT ROWID the same load is slower.
CREATE TABLE tercet_fence (
    xid BLOB NOT NULL,
    branch INTEGER NOT NULL,
    state INTEGER NOT NULL,
    prev INTEGER NOT NULL DEFAULT 0,
    reply BLOB,
    part INTEGER NOT NULL DEFAULT -1,
    PRIMARY KEY (xid, branch)
);

-- One row. A call whose not_after is at or below floor_ms touches nothing. epoch rises whenever this database begins or ceases to
-- serve a part.
CREATE TABLE tercet_fence_meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    fence_id BLOB NOT NULL,
    floor_ms INTEGER NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 0
);

INSERT INTO tercet_fence_meta (id, fence_id, floor_ms) VALUES (1, randomblob(16), 0);
