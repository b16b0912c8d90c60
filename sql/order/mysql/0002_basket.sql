-- The coupons of orders of several things; such an order has item 0, and no coupon_id of its own. coupon_use and
-- coupon_step as there.
CREATE TABLE IF NOT EXISTS basket_coupon (
  shop_id BIGINT NOT NULL,
  order_id BIGINT NOT NULL,
  coupon_id BIGINT NOT NULL,
  discount_cents BIGINT NOT NULL CHECK (discount_cents >= 0),
  coupon_use TINYINT NOT NULL DEFAULT 0 CHECK (coupon_use BETWEEN 0 AND 2),
  coupon_step BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (order_id, shop_id, coupon_id)
) ENGINE = InnoDB;

-- What orders of several things are of, line by line.
CREATE TABLE IF NOT EXISTS basket_line (
  shop_id BIGINT NOT NULL,
  order_id BIGINT NOT NULL,
  line BIGINT NOT NULL,
  product_id BIGINT NOT NULL,
  price_cents BIGINT NOT NULL CHECK (price_cents >= 0),
  quantity BIGINT NOT NULL CHECK (quantity >= 1),
  PRIMARY KEY (order_id, shop_id, line)
) ENGINE = InnoDB;
