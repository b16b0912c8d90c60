-- One row for each branch that was called here. state: 1 tried, 2 confirmed (or the sender's commit), 3 cancelled, 4 refused.
-- prev is the state before the latest call, 0 for none. reply is one byte, the state it belongs to, and then the bytes.
-- A rowid table: with WITHOUT ROWID the same load is slower.
CREATE TABLE tercet_fence (
    xid BLOB NOT NULL,
    branch INTEGER NOT NULL,
    state INTEGER NOT NULL,
    prev INTEGER NOT NULL DEFAULT 0,
    reply BLOB,
    PRIMARY KEY (xid, branch)
);

-- One row. A call whose not_after is at or below floor_ms touches nothing.
CREATE TABLE tercet_fence_meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    fence_id BLOB NOT NULL,
    floor_ms INTEGER NOT NULL
);

INSERT INTO tercet_fence_meta (id, fence_id, floor_ms) VALUES (1, randomblob(16), 0);
