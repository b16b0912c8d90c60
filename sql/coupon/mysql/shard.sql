-- The table {n} of each kind, of {of}, in every database. The slot in a user's and a coupon's id says which n and which database.
-- Their statistics stay in memory: of a thousand tables that grow from nothing, the server writes a new account each time one has
-- a tenth more rows, and holds the lock that opening a table needs, so that claims would wait for little else.

-- How many coupons of a template a user has claimed: in all, and on the latest day that he claimed one. per_user is the
-- highest limit under which he did.
CREATE TABLE IF NOT EXISTS claimed_{n} (
  user_id BIGINT NOT NULL,
  template_id BIGINT NOT NULL,
  claimed BIGINT NOT NULL CHECK (claimed >= 0),
  per_user BIGINT NOT NULL,
  day BIGINT NOT NULL,
  today BIGINT NOT NULL CHECK (today >= 0),
  PRIMARY KEY (user_id, template_id)
) ENGINE = InnoDB STATS_PERSISTENT = 0;

-- status: 0 pending (its claim is under way), 1 issued, 2 locked for an order, 3 used by it, 4 expired, 5 voided by an operator.
-- The order that holds or used it is known by its shop, 0 for one of one thing, and its number there; discount_cents is
-- what it was promised. batch is 0 for what a user claimed.
-- claim_key is of what its user named the claim by. step rises with whatever happens to the coupon, and is told with it: it goes
-- where the row goes, so that of two events the later one is known.
CREATE TABLE IF NOT EXISTS coupon_{n} (
  coupon_id BIGINT PRIMARY KEY,
  user_id BIGINT NOT NULL,
  template_id BIGINT NOT NULL,
  version BIGINT NOT NULL,
  status TINYINT NOT NULL CHECK (status BETWEEN 0 AND 5),
  shop_id BIGINT,
  order_id BIGINT,
  discount_cents BIGINT,
  claimed_ms BIGINT NOT NULL,
  valid_from_ms BIGINT NOT NULL,
  valid_until_ms BIGINT NOT NULL,
  used_ms BIGINT,
  batch BIGINT NOT NULL,
  claim_key BIGINT,
  step BIGINT NOT NULL DEFAULT 0,
  CHECK ((order_id IS NULL) = (status IN (0, 1, 4, 5)) AND (shop_id IS NULL) = (order_id IS NULL)
    AND (discount_cents IS NULL) = (order_id IS NULL) AND (used_ms IS NULL) = (status <> 3)),
  KEY of_user (user_id, status),
  UNIQUE KEY by_key (user_id, claim_key),
  KEY by_end (valid_until_ms)
) ENGINE = InnoDB STATS_PERSISTENT = 0;
