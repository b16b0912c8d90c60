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
  -- What the coupon service has said about the order's coupon: 0 nothing, 1 it was used for this order, 2 it was given back.
  coupon_use TINYINT NOT NULL DEFAULT 0 CHECK (coupon_use BETWEEN 0 AND 2),
  PRIMARY KEY (order_id, shop_id),
  CHECK (discount_cents BETWEEN 0 AND amount_cents),
  CHECK ((refunded_from IS NULL) = (status <> 4))
) ENGINE = InnoDB;
