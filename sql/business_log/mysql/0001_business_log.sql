-- Who did what, one row for each event that is logged. Searched by each of user, coupon, order and operator, newest
-- first. at_ms is when it happened. Numbers are NULL where a row is about none, so that indexes hold what is searched.
-- about_id: of an operator's change, which of what its action names. coupon_step: which of the coupon's steps it is; they
-- rise, while an entry may be written late. An order is known by its shop, 0 for one of one thing, and its number there.
CREATE TABLE IF NOT EXISTS business_log (
  log_id BIGINT PRIMARY KEY AUTO_INCREMENT,
  at_ms BIGINT NOT NULL,
  action VARCHAR(64) NOT NULL,
  user_id BIGINT,
  coupon_id BIGINT,
  coupon_step BIGINT,
  shop_id BIGINT,
  order_id BIGINT,
  template_id BIGINT,
  about_id BIGINT,
  operator VARCHAR(64),
  reason VARCHAR(512) NOT NULL,
  state_before MEDIUMTEXT NOT NULL,
  state_after MEDIUMTEXT NOT NULL,
  xid VARCHAR(36) NOT NULL,
  source VARCHAR(64) NOT NULL,
  sequence BIGINT NOT NULL,
  KEY business_log_time (at_ms, log_id),
  KEY business_log_user (user_id, at_ms, log_id),
  KEY business_log_coupon (coupon_id, at_ms, log_id),
  KEY business_log_order (order_id, shop_id, at_ms, log_id),
  KEY business_log_operator (operator, at_ms, log_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
