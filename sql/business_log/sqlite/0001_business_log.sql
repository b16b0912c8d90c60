-- Who did what, one row for each event that is logged. Searched by each of user, coupon, order and operator, newest
-- first. at_ms is when it happened. Numbers are NULL where a row is about none, so that indexes hold what is searched.
-- about_id: of an operator's change, which of what its action names. coupon_step: which of the coupon's steps it is; they
-- rise, while an entry may be written late. An order is known by its shop, 0 for one of one thing, and its number there.
CREATE TABLE business_log (
  log_id INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms INTEGER NOT NULL,
  action TEXT NOT NULL,
  user_id INTEGER,
  coupon_id INTEGER,
  coupon_step INTEGER,
  shop_id INTEGER,
  order_id INTEGER,
  template_id INTEGER,
  about_id INTEGER,
  operator TEXT,
  reason TEXT NOT NULL,
  state_before TEXT NOT NULL,
  state_after TEXT NOT NULL,
  xid TEXT NOT NULL,
  source TEXT NOT NULL,
  sequence INTEGER NOT NULL
) STRICT;

CREATE INDEX business_log_time ON business_log(at_ms, log_id);
CREATE INDEX business_log_user ON business_log(user_id, at_ms, log_id) WHERE user_id IS NOT NULL;
CREATE INDEX business_log_coupon ON business_log(coupon_id, at_ms, log_id) WHERE coupon_id IS NOT NULL;
CREATE INDEX business_log_order ON business_log(order_id, shop_id, at_ms, log_id) WHERE order_id IS NOT NULL;
CREATE INDEX business_log_operator ON business_log(operator, at_ms, log_id) WHERE operator IS NOT NULL;
