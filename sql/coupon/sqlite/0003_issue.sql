-- Batches of coupons that an operator issues, in the first database alone. state: 0 its stock is being reserved, 1 running,
-- 2 done, 3 stopped. digest is of what the batch is about: the same id for something else is refused. Whoever runs it
-- holds the lease; nothing but speed hangs on it.
CREATE TABLE issue_batch (
  batch INTEGER PRIMARY KEY,
  batch_id TEXT NOT NULL UNIQUE,
  digest TEXT NOT NULL,
  template_id INTEGER NOT NULL,
  version INTEGER NOT NULL,
  claimed_ms INTEGER NOT NULL,
  valid_from_ms INTEGER NOT NULL,
  valid_until_ms INTEGER NOT NULL,
  coupons INTEGER NOT NULL,
  state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
  refusal TEXT NOT NULL,
  operator TEXT NOT NULL,
  reason TEXT NOT NULL,
  started_ms INTEGER NOT NULL,
  ended_ms INTEGER,
  runner INTEGER NOT NULL DEFAULT 0,
  lease_ms INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The chunks of each batch whose coupons are in this database, each written in their local transaction.
CREATE TABLE issue_chunk (
  batch INTEGER NOT NULL,
  chunk INTEGER NOT NULL,
  coupons INTEGER NOT NULL,
  PRIMARY KEY (batch, chunk)
) STRICT, WITHOUT ROWID;
