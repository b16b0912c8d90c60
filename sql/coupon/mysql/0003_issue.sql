-- Batches of coupons that an operator issues, in the first database alone. state: 0 its stock is being reserved, 1 running,
-- 2 done, 3 stopped. digest is of what the batch is about: the same id for something else is refused. Whoever runs it
-- holds the lease; nothing but speed hangs on it.
CREATE TABLE issue_batch (
  batch BIGINT PRIMARY KEY,
  batch_id VARBINARY(128) NOT NULL UNIQUE,
  digest CHAR(64) CHARACTER SET ascii NOT NULL,
  template_id BIGINT NOT NULL,
  version BIGINT NOT NULL,
  claimed_ms BIGINT NOT NULL,
  valid_from_ms BIGINT NOT NULL,
  valid_until_ms BIGINT NOT NULL,
  coupons BIGINT NOT NULL,
  state BIGINT NOT NULL CHECK (state BETWEEN 0 AND 3),
  refusal VARCHAR(512) CHARACTER SET utf8mb4 NOT NULL,
  operator VARCHAR(512) CHARACTER SET utf8mb4 NOT NULL,
  reason VARCHAR(512) CHARACTER SET utf8mb4 NOT NULL,
  started_ms BIGINT NOT NULL,
  ended_ms BIGINT,
  runner BIGINT NOT NULL DEFAULT 0,
  lease_ms BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB;

-- The chunks of each batch whose coupons are in this database, each written in their local transaction.
CREATE TABLE issue_chunk (
  batch BIGINT NOT NULL,
  chunk BIGINT NOT NULL,
  coupons BIGINT NOT NULL,
  PRIMARY KEY (batch, chunk)
) ENGINE = InnoDB;
