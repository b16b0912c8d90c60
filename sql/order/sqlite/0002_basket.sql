-- The coupons of orders of several things; such an order has item 0, and no coupon_id of its own. coupon_use and
-- coupon_step as there.
CREATE TABLE basket_coupon (
  shop_id INTEGER NOT NULL,
  order_id INTEGER NOT NULL,
  coupon_id INTEGER NOT NULL,
  discount_cents INTEGER NOT NULL CHECK (discount_cents >= 0),
  coupon_use INTEGER NOT NULL DEFAULT 0 CHECK (coupon_use BETWEEN 0 AND 2),
  coupon_step INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (order_id, shop_id, coupon_id)
) STRICT, WITHOUT ROWID;

-- What orders of several things are of, line by line.
CREATE TABLE basket_line (
  shop_id INTEGER NOT NULL,
  order_id INTEGER NOT NULL,
  line INTEGER NOT NULL,
  product_id INTEGER NOT NULL,
  price_cents INTEGER NOT NULL CHECK (price_cents >= 0),
  quantity INTEGER NOT NULL CHECK (quantity >= 1),
  PRIMARY KEY (order_id, shop_id, line)
) STRICT, WITHOUT ROWID;
