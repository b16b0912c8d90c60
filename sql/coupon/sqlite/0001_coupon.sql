-- What every coupon of a kind has in common. Money is in cents.
CREATE TABLE template (
  template_id INTEGER PRIMARY KEY,
  per_user_limit INTEGER NOT NULL CHECK (per_user_limit >= 0),
  valid_ms INTEGER NOT NULL CHECK (valid_ms >= 0),
  minimum_spend_cents INTEGER NOT NULL CHECK (minimum_spend_cents >= 0),
  discount_cents INTEGER NOT NULL CHECK (discount_cents >= 0)
) STRICT;

-- How many coupons of a template a user has claimed.
CREATE TABLE user_template (
  user_id INTEGER NOT NULL,
  template_id INTEGER NOT NULL,
  claimed INTEGER NOT NULL CHECK (claimed >= 0),
  PRIMARY KEY (user_id, template_id)
) STRICT, WITHOUT ROWID;

-- status: 0 pending (its claim is under way), 1 issued, 2 locked for an order, 3 used by it.
CREATE TABLE coupon (
  coupon_id INTEGER PRIMARY KEY,
  template_id INTEGER NOT NULL,
  user_id INTEGER NOT NULL,
  status INTEGER NOT NULL CHECK (status BETWEEN 0 AND 3),
  order_id INTEGER,
  valid_until_ms INTEGER NOT NULL,
  minimum_spend_cents INTEGER NOT NULL,
  discount_cents INTEGER NOT NULL,
  CHECK ((order_id IS NULL) = (status < 2))
) STRICT;
CREATE INDEX coupon_of_user ON coupon (user_id, status);

-- Orders that this service was told are paid. slot is that of the user.
CREATE TABLE paid_notice (
  order_id INTEGER PRIMARY KEY,
  user_id INTEGER NOT NULL,
  paid_cents INTEGER NOT NULL,
  slot INTEGER NOT NULL
) STRICT;
