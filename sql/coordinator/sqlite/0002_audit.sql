-- What people changed: never updated, never deleted. Each row holds the hash of the one before it.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    act TEXT NOT NULL,
    xid BLOB CHECK (length(xid) = 16),
    why TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    previous BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;

CREATE INDEX audit_xid ON audit (xid, id) WHERE xid IS NOT NULL;
