-- Batches of coupons that an operator issues, in the first database alone. state: 0 its stock is being reserved, 1 running,
-- 2 done, 3 stopped, 4 an operator ends it, 5 ended. digest is of what the batch is about: the same id for something else is refused. Whoever runs it
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
  state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 5),
  refusal TEXT NOT NULL,
  operator TEXT NOT NULL,
  reason TEXT NOT NULL,
  started_ms INTEGER NOT NULL,
  ended_ms INTEGER,
  runner INTEGER NOT NULL DEFAULT 0,
  lease_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX issue_batch_by_state ON issue_batch (state, batch);

-- Whom each batch is for that somebody asked for, until it is done, in the first database alone: so that it goes on when he has
-- gone. In parts, as JSON.
CREATE TABLE issue_user (
  batch INTEGER NOT NULL,
  part INTEGER NOT NULL,
  user_ids TEXT NOT NULL,
  made_ms INTEGER NOT NULL,
  PRIMARY KEY (batch, part)
) STRICT, WITHOUT ROWID;

-- The chunks of each batch whose coupons are in this database, each written in their local transaction. A chunk is of one slot, whose
-- number is its last ten bits, and moves with it.
CREATE TABLE issue_chunk (
  batch INTEGER NOT NULL,
  chunk INTEGER NOT NULL,
  coupons INTEGER NOT NULL,
  PRIMARY KEY (batch, chunk)
) STRICT, WITHOUT ROWID;

-- Standing rules of operators, in the first database alone: when something happens, those whom it is about get coupons.
-- what: 1 a user registers, who belongs to this group where one is named; 2 this campaign starts. state: 1 active, 2
-- stopped. users, given and refused are counted with the runs below; those who are neither given nor refused wait.
-- runs_kept: 1 all of its runs are there, 2 they are being deleted, since it was stopped long ago, 0 none is.
CREATE TABLE occasion (
  occasion_id INTEGER PRIMARY KEY,
  idempotency_key TEXT NOT NULL UNIQUE,
  digest TEXT NOT NULL,
  what INTEGER NOT NULL CHECK (what IN (1, 2)),
  user_group TEXT NOT NULL,
  campaign_id INTEGER NOT NULL,
  template_id INTEGER NOT NULL,
  coupons_per_user INTEGER NOT NULL,
  state INTEGER NOT NULL CHECK (state IN (1, 2)),
  revision INTEGER NOT NULL,
  users INTEGER NOT NULL DEFAULT 0,
  given INTEGER NOT NULL DEFAULT 0,
  refused INTEGER NOT NULL DEFAULT 0,
  operator TEXT NOT NULL,
  reason TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  stopped_ms INTEGER,
  runs_kept INTEGER NOT NULL DEFAULT 1 CHECK (runs_kept BETWEEN 0 AND 2),
  CHECK (given >= 0 AND refused >= 0 AND given + refused <= users)
) STRICT;
CREATE INDEX occasion_by_state ON occasion (state, occasion_id);

-- What came of events that came together: the batch occasion/RUN for their users. state: 0 waiting, 1 done, 2 refused.
-- Whoever tries one that is due raises tries, and moves due_ms on for as long as he may take.
CREATE TABLE occasion_run (
  run INTEGER PRIMARY KEY,
  occasion_id INTEGER NOT NULL,
  users INTEGER NOT NULL,
  state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 2),
  refusal TEXT NOT NULL DEFAULT '',
  tries INTEGER NOT NULL DEFAULT 0,
  due_ms INTEGER NOT NULL,
  created_ms INTEGER NOT NULL,
  ended_ms INTEGER
) STRICT;
CREATE INDEX occasion_run_by_due ON occasion_run (state, due_ms);
CREATE INDEX occasion_run_of_occasion ON occasion_run (occasion_id, state, run);

-- Whom an occasion was told: each user once.
CREATE TABLE occasion_user (
  occasion_id INTEGER NOT NULL,
  user_id INTEGER NOT NULL,
  run INTEGER NOT NULL,
  PRIMARY KEY (occasion_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX occasion_user_of_run ON occasion_user (run, user_id);
