-- A kind of coupon. status: 1 draft, 2 gray, 3 published, 4 paused, 5 ended. Versions are 0 where there is none.
-- start_time and end_time are those of its claims, in milliseconds. audience is of a version that is tried, paused or not.
CREATE TABLE IF NOT EXISTS template (
  template_id BIGINT PRIMARY KEY AUTO_INCREMENT,
  name VARCHAR(128) NOT NULL,
  status BIGINT NOT NULL CHECK (status BETWEEN 1 AND 5),
  revision BIGINT NOT NULL CHECK (revision >= 1),
  live BIGINT NOT NULL,
  candidate BIGINT NOT NULL,
  newest BIGINT NOT NULL,
  previous BIGINT NOT NULL,
  audience MEDIUMTEXT,
  start_time BIGINT NOT NULL,
  end_time BIGINT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  idempotency_key VARCHAR(128) NOT NULL UNIQUE,
  request_hash CHAR(64) NOT NULL,
  CHECK (status <> 2 OR audience IS NOT NULL),
  CHECK (audience IS NULL OR (status IN (2, 4) AND candidate > 0)),
  CHECK (status <> 3 OR live > 0),
  KEY template_listed (status, start_time, end_time)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The rules of each version. One that users have had is never changed: their coupons refer to it. Each is tried at most
-- once, from tried_ms to before untried_ms.
CREATE TABLE IF NOT EXISTS template_version (
  template_id BIGINT NOT NULL,
  version BIGINT NOT NULL CHECK (version >= 1),
  rules MEDIUMTEXT NOT NULL,
  published_ms BIGINT,
  tried_ms BIGINT,
  untried_ms BIGINT,
  PRIMARY KEY (template_id, version)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The business log: one row for each revision of a template.
CREATE TABLE IF NOT EXISTS template_change (
  change_id BIGINT PRIMARY KEY AUTO_INCREMENT,
  template_id BIGINT NOT NULL,
  revision BIGINT NOT NULL,
  at_ms BIGINT NOT NULL,
  operator VARCHAR(64) NOT NULL,
  action VARCHAR(32) NOT NULL,
  reason VARCHAR(512) NOT NULL,
  state_before MEDIUMTEXT,
  state_after MEDIUMTEXT NOT NULL,
  UNIQUE (template_id, revision),
  KEY template_change_of_template (template_id),
  KEY template_change_of_operator (operator)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- What was done with coupons of a version that were claimed while another version (or the same) was tried; tried is 0
-- when none was.
CREATE TABLE IF NOT EXISTS template_usage (
  template_id BIGINT NOT NULL,
  tried BIGINT NOT NULL,
  version BIGINT NOT NULL,
  claimed BIGINT NOT NULL,
  used BIGINT NOT NULL,
  refunded BIGINT NOT NULL,
  discount_cents BIGINT NOT NULL,
  order_cents BIGINT NOT NULL,
  PRIMARY KEY (template_id, tried, version)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The last report of each source that is counted.
CREATE TABLE IF NOT EXISTS template_usage_source (
  source VARCHAR(64) PRIMARY KEY,
  last BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
