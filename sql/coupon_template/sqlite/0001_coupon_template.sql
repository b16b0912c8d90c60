-- A kind of coupon. status: 1 draft, 2 gray, 3 published, 4 paused, 5 ended. Versions are 0 where there is none.
-- start_time and end_time are those of its claims, in milliseconds. audience is of a version that is tried, paused or not.
CREATE TABLE template (
  template_id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  status INTEGER NOT NULL CHECK (status BETWEEN 1 AND 5),
  revision INTEGER NOT NULL CHECK (revision >= 1),
  live INTEGER NOT NULL,
  candidate INTEGER NOT NULL,
  newest INTEGER NOT NULL,
  previous INTEGER NOT NULL,
  audience TEXT,
  start_time INTEGER NOT NULL,
  end_time INTEGER NOT NULL,
  created_ms INTEGER NOT NULL,
  updated_ms INTEGER NOT NULL,
  idempotency_key TEXT NOT NULL UNIQUE,
  request_hash TEXT NOT NULL,
  CHECK (status <> 2 OR audience IS NOT NULL),
  CHECK (audience IS NULL OR (status IN (2, 4) AND candidate > 0)),
  CHECK (status <> 3 OR live > 0)
) STRICT;
CREATE INDEX template_listed ON template (status, start_time, end_time);

-- The rules of each version. One that users have had is never changed: their coupons refer to it. Each is tried at most
-- once, from tried_ms to before untried_ms.
CREATE TABLE template_version (
  template_id INTEGER NOT NULL,
  version INTEGER NOT NULL CHECK (version >= 1),
  rules TEXT NOT NULL,
  published_ms INTEGER,
  tried_ms INTEGER,
  untried_ms INTEGER,
  PRIMARY KEY (template_id, version)
) STRICT, WITHOUT ROWID;

-- The business log: one row for each revision of a template.
CREATE TABLE template_change (
  change_id INTEGER PRIMARY KEY AUTOINCREMENT,
  template_id INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  at_ms INTEGER NOT NULL,
  operator TEXT NOT NULL,
  action TEXT NOT NULL,
  reason TEXT NOT NULL,
  state_before TEXT,
  state_after TEXT NOT NULL,
  UNIQUE (template_id, revision)
) STRICT;
CREATE INDEX template_change_of_template ON template_change (template_id);
CREATE INDEX template_change_of_operator ON template_change (operator);

-- What was done with coupons of a version that were claimed while another version (or the same) was tried; tried is 0
-- when none was.
CREATE TABLE template_usage (
  template_id INTEGER NOT NULL,
  tried INTEGER NOT NULL,
  version INTEGER NOT NULL,
  claimed INTEGER NOT NULL,
  used INTEGER NOT NULL,
  refunded INTEGER NOT NULL,
  discount_cents INTEGER NOT NULL,
  order_cents INTEGER NOT NULL,
  PRIMARY KEY (template_id, tried, version)
) STRICT, WITHOUT ROWID;

-- The last report of each source that is counted.
CREATE TABLE template_usage_source (
  source TEXT PRIMARY KEY,
  last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
