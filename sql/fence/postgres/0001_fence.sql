-- One row for each branch that was called here. state: 1 tried, 2 confirmed (or the sender's commit), 3 cancelled, 4 refused.
-- prev is the state before the latest call, 0 for none. reply is one byte, the state it belongs to, and then the bytes.
-- part is that of the service's rows that may move to another database, -1 for what never does.
-- The room left in each page keeps updates in it, and so out of the index.
CREATE TABLE tercet_fence (
    xid BYTEA NOT NULL,
    branch BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    prev SMALLINT NOT NULL DEFAULT 0,
    reply BYTEA,
    part SMALLINT NOT NULL DEFAULT -1,
    PRIMARY KEY (xid, branch)
) WITH (fillfactor = 70);

-- One row. A call whose not_after is at or below floor_ms touches nothing. epoch rises whenever this database begins or ceases to
-- serve a part.
CREATE TABLE tercet_fence_meta (
    id SMALLINT PRIMARY KEY CHECK (id = 1),
    fence_id BYTEA NOT NULL,
    floor_ms BIGINT NOT NULL,
    epoch BIGINT NOT NULL DEFAULT 0
);

INSERT INTO tercet_fence_meta (id, fence_id, floor_ms) VALUES (1, uuid_send(gen_random_uuid()), 0);
