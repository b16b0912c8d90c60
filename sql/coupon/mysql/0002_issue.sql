-- Batches of coupons that an operator issues, in the first database alone. state: 0 its stock is being reserved, 1 running,
-- 2 done, 3 stopped, 4 an operator ends it, 5 ended. digest is of what the batch is about: the same id for something else is refused. Whoever runs it
-- holds the lease; nothing but speed hangs on it.
CREATE TABLE IF NOT EXISTS issue_batch (
  batch BIGINT PRIMARY KEY,
  batch_id VARBINARY(128) NOT NULL UNIQUE,
  digest CHAR(64) CHARACTER SET ascii NOT NULL,
  template_id BIGINT NOT NULL,
  version BIGINT NOT NULL,
  claimed_ms BIGINT NOT NULL,
  valid_from_ms BIGINT NOT NULL,
  valid_until_ms BIGINT NOT NULL,
  coupons BIGINT NOT NULL,
  state BIGINT NOT NULL CHECK (state BETWEEN 0 AND 5),
  refusal VARCHAR(512) CHARACTER SET utf8mb4 NOT NULL,
  operator VARCHAR(512) CHARACTER SET utf8mb4 NOT NULL,
  reason VARCHAR(512) CHARACTER SET utf8mb4 NOT NULL,
  started_ms BIGINT NOT NULL,
  ended_ms BIGINT,
  runner BIGINT NOT NULL DEFAULT 0,
  lease_ms BIGINT NOT NULL DEFAULT 0,
  KEY by_state (state, batch)
) ENGINE = InnoDB;

-- Whom each batch is for that somebody asked for, until it is done, in the first database alone: so that it goes on when he has
-- gone. In parts, as JSON.
CREATE TABLE IF NOT EXISTS issue_user (
  batch BIGINT NOT NULL,
  part BIGINT NOT NULL,
  user_ids MEDIUMTEXT CHARACTER SET ascii NOT NULL,
  made_ms BIGINT NOT NULL,
  PRIMARY KEY (batch, part)
) ENGINE = InnoDB;

-- The chunks of each batch whose coupons are in this database, each written in their local transaction. A chunk is of one slot, whose
-- number is its last ten bits, and moves with it.
CREATE TABLE IF NOT EXISTS issue_chunk (
  batch BIGINT NOT NULL,
  chunk BIGINT NOT NULL,
  coupons BIGINT NOT NULL,
  PRIMARY KEY (batch, chunk),
  KEY by_chunk (chunk)
) ENGINE = InnoDB;

-- Standing rules of operators, in the first database alone: when something happens, those whom it is about get coupons.
-- what: 1 a user registers, who belongs to this group where one is named; 2 this campaign starts. state: 1 active, 2
-- stopped. users, given and refused are counted with the runs below; those who are neither given nor refused wait.
-- runs_kept: 1 all of its runs are there, 2 they are being deleted, since it was stopped long ago, 0 none is.
CREATE TABLE IF NOT EXISTS occasion (
  occasion_id BIGINT PRIMARY KEY,
  idempotency_key VARBINARY(128) NOT NULL UNIQUE,
  digest CHAR(64) CHARACTER SET ascii NOT NULL,
  what BIGINT NOT NULL CHECK (what IN (1, 2)),
  user_group VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL,
  campaign_id BIGINT NOT NULL,
  template_id BIGINT NOT NULL,
  coupons_per_user BIGINT NOT NULL,
  state BIGINT NOT NULL CHECK (state IN (1, 2)),
  revision BIGINT NOT NULL,
  users BIGINT NOT NULL DEFAULT 0,
  given BIGINT NOT NULL DEFAULT 0,
  refused BIGINT NOT NULL DEFAULT 0,
  operator VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL,
  reason VARCHAR(512) CHARACTER SET utf8mb4 NOT NULL,
  created_ms BIGINT NOT NULL,
  stopped_ms BIGINT,
  runs_kept BIGINT NOT NULL DEFAULT 1 CHECK (runs_kept BETWEEN 0 AND 2),
  CHECK (given >= 0 AND refused >= 0 AND given + refused <= users),
  KEY by_state (state, occasion_id)
) ENGINE = InnoDB;

-- What came of events that came together: the batch occasion/RUN for their users. state: 0 waiting, 1 done, 2 refused.
-- Whoever tries one that is due raises tries, and moves due_ms on for as long as he may take.
CREATE TABLE IF NOT EXISTS occasion_run (
  run BIGINT PRIMARY KEY,
  occasion_id BIGINT NOT NULL,
  users BIGINT NOT NULL,
  state BIGINT NOT NULL CHECK (state BETWEEN 0 AND 2),
  refusal VARCHAR(64) CHARACTER SET ascii NOT NULL DEFAULT '',
  tries BIGINT NOT NULL DEFAULT 0,
  due_ms BIGINT NOT NULL,
  created_ms BIGINT NOT NULL,
  ended_ms BIGINT,
  KEY by_due (state, due_ms),
  KEY of_occasion (occasion_id, state, run)
) ENGINE = InnoDB;

-- Whom an occasion was told: each user once.
CREATE TABLE IF NOT EXISTS occasion_user (
  occasion_id BIGINT NOT NULL,
  user_id BIGINT NOT NULL,
  run BIGINT NOT NULL,
  PRIMARY KEY (occasion_id, user_id),
  KEY of_run (run, user_id)
) ENGINE = InnoDB;
