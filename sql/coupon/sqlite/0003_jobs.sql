-- Which process runs the scheduled jobs, in the first database alone. Nothing but speed hangs on it.
CREATE TABLE job (
  name TEXT PRIMARY KEY,
  runner INTEGER NOT NULL,
  lease_ms INTEGER NOT NULL
) STRICT;
INSERT INTO job (name, runner, lease_ms) VALUES ('scheduled', 0, 0);

-- How far the coupons of each table of this database are expired: all that end before (until_ms, coupon_id).
CREATE TABLE expiry (
  table_n INTEGER PRIMARY KEY,
  until_ms INTEGER NOT NULL,
  coupon_id INTEGER NOT NULL
) STRICT;

-- The templates whose stock this service has set, in the first database alone: at which revision of theirs, and whether what
-- nobody claimed was returned since. candidate is the version that has a budget of its own beside the live one's; 0: none.
CREATE TABLE supplied (
  template_id INTEGER PRIMARY KEY,
  revision INTEGER NOT NULL,
  candidate INTEGER NOT NULL,
  returned INTEGER NOT NULL CHECK (returned IN (0, 1))
) STRICT;
CREATE INDEX supplied_open ON supplied (returned, template_id);
