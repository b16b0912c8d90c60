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
  -- When its refund was final; NULL: it may be taken back yet.
  refunded_ms INTEGER,
  -- Which payment it was paid by, at whoever took the money; NULL: none yet.
  payment_id TEXT,
  -- For how many seconds from its placing it waits to be paid, until when that is, and when it is looked at whether it was; NULL:
  -- without end.
  pay_within_s INTEGER,
  pay_by_ms INTEGER,
  close_at_ms INTEGER,
  -- How often it could not be closed though it waits to be paid: each doubles the time until the next look.
  close_tries INTEGER NOT NULL DEFAULT 0,
  -- What the coupon service has said about the order's coupon: 0 nothing, 1 it was used for this order, 2 it was given back.
  coupon_use INTEGER NOT NULL DEFAULT 0 CHECK (coupon_use BETWEEN 0 AND 2),
  -- Up to which of the coupon's steps it has said so: what is told late changes nothing.
  coupon_step INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (order_id, shop_id),
  CHECK ((refunded_from IS NULL) = (status <> 4)),
  CHECK (refunded_ms IS NULL OR status = 4)
) STRICT;
-- Orders of one thing have no shop that would list them.
CREATE INDEX orders_of_shop ON orders (shop_id, status, order_id) WHERE shop_id > 0;
CREATE INDEX orders_to_close ON orders (close_at_ms) WHERE close_at_ms IS NOT NULL;

-- Which process closes orders that nobody has paid. Nothing but speed hangs on it.
CREATE TABLE order_job (
  name TEXT PRIMARY KEY,
  runner TEXT NOT NULL,
  lease_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO order_job (name, runner, lease_ms) VALUES ('unpaid', '', 0);
