-- Which process runs the scheduled jobs, in the first database alone. Nothing but speed hangs on it.
CREATE TABLE IF NOT EXISTS job (
  name VARCHAR(64) CHARACTER SET ascii PRIMARY KEY,
  runner BIGINT NOT NULL,
  lease_ms BIGINT NOT NULL
) ENGINE = InnoDB;
INSERT IGNORE INTO job (name, runner, lease_ms) VALUES ('scheduled', 0, 0);

-- How far the coupons of each table of this database are expired: all that end before (until_ms, coupon_id).
CREATE TABLE IF NOT EXISTS expiry (
  table_n BIGINT PRIMARY KEY,
  until_ms BIGINT NOT NULL,
  coupon_id BIGINT NOT NULL
) ENGINE = InnoDB;

-- The templates whose stock this service has set, in the first database alone: at which revision of theirs, and whether what
-- nobody claimed was returned since. candidate is the version that has a budget of its own beside the live one's; 0: none.
CREATE TABLE IF NOT EXISTS supplied (
  template_id BIGINT PRIMARY KEY,
  revision BIGINT NOT NULL,
  candidate BIGINT NOT NULL,
  returned BIGINT NOT NULL CHECK (returned IN (0, 1)),
  KEY supplied_open (returned, template_id)
) ENGINE = InnoDB;
