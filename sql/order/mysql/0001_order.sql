-- status: 0 frozen (its placing is under way), 1 placed, 2 closed, 3 paid, 4 refunded. Money is in cents.
CREATE TABLE IF NOT EXISTS orders (
  -- Whose order it is, who numbers them; 0: one of one thing.
  shop_id BIGINT NOT NULL,
  order_id BIGINT NOT NULL,
  user_id BIGINT NOT NULL,
  item BIGINT NOT NULL,
  count BIGINT NOT NULL,
  coupon_id BIGINT,
  amount_cents BIGINT NOT NULL,
  discount_cents BIGINT NOT NULL,
  status TINYINT NOT NULL CHECK (status BETWEEN 0 AND 4),
  -- Of a refunded order: what it was before, for when the refund is taken back.
  refunded_from TINYINT,
  -- When its refund was final; NULL: it may be taken back yet.
  refunded_ms BIGINT,
  -- Which payment it was paid by, at whoever took the money; NULL: none yet.
  payment_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
  -- For how many seconds from its placing it waits to be paid, until when that is, and when it is looked at whether it was; NULL:
  -- without end.
  pay_within_s BIGINT,
  pay_by_ms BIGINT,
  close_at_ms BIGINT,
  -- How often it could not be closed though it waits to be paid: each doubles the time until the next look.
  close_tries TINYINT NOT NULL DEFAULT 0,
  -- What the coupon service has said about the order's coupon: 0 nothing, 1 it was used for this order, 2 it was given back.
  coupon_use TINYINT NOT NULL DEFAULT 0 CHECK (coupon_use BETWEEN 0 AND 2),
  -- Up to which of the coupon's steps it has said so: what is told late changes nothing.
  coupon_step BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (order_id, shop_id),
  KEY orders_of_shop (shop_id, status, order_id),
  KEY orders_to_close (close_at_ms),
  CHECK (discount_cents BETWEEN 0 AND amount_cents),
  CHECK ((refunded_from IS NULL) = (status <> 4)),
  CHECK (refunded_ms IS NULL OR status = 4)
) ENGINE = InnoDB;

-- Which process closes orders that nobody has paid. Nothing but speed hangs on it.
CREATE TABLE IF NOT EXISTS order_job (
  name VARCHAR(64) CHARACTER SET ascii PRIMARY KEY,
  runner VARCHAR(64) CHARACTER SET ascii NOT NULL,
  lease_ms BIGINT NOT NULL
) ENGINE = InnoDB;
INSERT IGNORE INTO order_job (name, runner, lease_ms) VALUES ('unpaid', '', 0);
