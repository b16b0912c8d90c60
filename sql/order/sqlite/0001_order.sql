-- status: 0 frozen (its placing is under way), 1 placed, 2 closed, 3 paid, 4 refunded. Money is in cents.
CREATE TABLE orders (
  -- Whose order it is, who numbers them; 0: one of one thing.
  shop_id INTEGER NOT NULL,
  order_id INTEGER NOT NULL,
  user_id INTEGER NOT NULL,
  item INTEGER NOT NULL,
  count INTEGER NOT NULL,
  coupon_id INTEGER,
  amount_cents INTEGER NOT NULL,
  discount_cents INTEGER NOT NULL CHECK (discount_cents BETWEEN 0 AND amount_cents),
  status INTEGER NOT NULL CHECK (status BETWEEN 0 AND 4),
  -- Of a refunded order: what it was before, for when the refund is taken back.
  refunded_from INTEGER,
  -- What the coupon service has said about the order's coupon: 0 nothing, 1 it was used for this order, 2 it was given back.
  coupon_use INTEGER NOT NULL DEFAULT 0 CHECK (coupon_use BETWEEN 0 AND 2),
  PRIMARY KEY (order_id, shop_id),
  CHECK ((refunded_from IS NULL) = (status <> 4))
) STRICT;
