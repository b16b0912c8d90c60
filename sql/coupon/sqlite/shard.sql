-- The table {n} of each kind, of {of}, in every database. The slot in a user's and a coupon's id says which n and which database.

-- How many coupons of a template a user has claimed: in all, and on the latest day that he claimed one. per_user is the
-- highest limit under which he did.
CREATE TABLE claimed_{n} (
  user_id INTEGER NOT NULL,
  template_id INTEGER NOT NULL,
  claimed INTEGER NOT NULL CHECK (claimed >= 0),
  per_user INTEGER NOT NULL,
  day INTEGER NOT NULL,
  today INTEGER NOT NULL CHECK (today >= 0),
  PRIMARY KEY (user_id, template_id)
) STRICT, WITHOUT ROWID;

-- status: 0 pending (its claim is under way), 1 issued, 2 locked for an order, 3 used by it, 4 expired, 5 voided by an operator.
-- The order that holds or used it is known by its shop, 0 for one of one thing, and its number there; discount_cents is
-- what it was promised. batch is 0 for what a user claimed.
-- claim_key is of what its user named the claim by. step rises with whatever happens to the coupon, and is told with it: it goes
-- where the row goes, so that of two events the later one is known.
CREATE TABLE coupon_{n} (
  coupon_id INTEGER PRIMARY KEY,
  user_id INTEGER NOT NULL,
  template_id INTEGER NOT NULL,
  version INTEGER NOT NULL,
  status INTEGER NOT NULL CHECK (status BETWEEN 0 AND 5),
  shop_id INTEGER,
  order_id INTEGER,
  discount_cents INTEGER,
  claimed_ms INTEGER NOT NULL,
  valid_from_ms INTEGER NOT NULL,
  valid_until_ms INTEGER NOT NULL,
  used_ms INTEGER,
  batch INTEGER NOT NULL,
  claim_key INTEGER,
  step INTEGER NOT NULL DEFAULT 0,
  CHECK ((order_id IS NULL) = (status IN (0, 1, 4, 5)) AND (shop_id IS NULL) = (order_id IS NULL)
    AND (discount_cents IS NULL) = (order_id IS NULL) AND (used_ms IS NULL) = (status <> 3))
) STRICT;
CREATE INDEX coupon_{n}_of_user ON coupon_{n} (user_id, status);
CREATE UNIQUE INDEX coupon_{n}_by_key ON coupon_{n} (user_id, claim_key) WHERE claim_key IS NOT NULL;
CREATE INDEX coupon_{n}_by_end ON coupon_{n} (valid_until_ms);
