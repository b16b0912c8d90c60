-- What every coupon of a kind has in common. Money is in cents.
CREATE TABLE template (
  template_id BIGINT PRIMARY KEY,
  per_user_limit BIGINT NOT NULL CHECK (per_user_limit >= 0),
  valid_ms BIGINT NOT NULL CHECK (valid_ms >= 0),
  minimum_spend_cents BIGINT NOT NULL CHECK (minimum_spend_cents >= 0),
  discount_cents BIGINT NOT NULL CHECK (discount_cents >= 0)
) ENGINE = InnoDB;

-- How many coupons of a template a user has claimed.
CREATE TABLE user_template (
  user_id BIGINT NOT NULL,
  template_id BIGINT NOT NULL,
  claimed BIGINT NOT NULL CHECK (claimed >= 0),
  PRIMARY KEY (user_id, template_id)
) ENGINE = InnoDB;

-- status: 0 pending (its claim is under way), 1 issued, 2 locked for an order, 3 used by it.
CREATE TABLE coupon (
  coupon_id BIGINT PRIMARY KEY,
  template_id BIGINT NOT NULL,
  user_id BIGINT NOT NULL,
  status TINYINT NOT NULL CHECK (status BETWEEN 0 AND 3),
  order_id BIGINT,
  valid_until_ms BIGINT NOT NULL,
  minimum_spend_cents BIGINT NOT NULL,
  discount_cents BIGINT NOT NULL,
  CHECK ((order_id IS NULL) = (status < 2)),
  KEY coupon_of_user (user_id, status)
) ENGINE = InnoDB;

-- Orders that this service was told are paid. slot is that of the user.
CREATE TABLE paid_notice (
  order_id BIGINT PRIMARY KEY,
  user_id BIGINT NOT NULL,
  paid_cents BIGINT NOT NULL,
  slot SMALLINT NOT NULL,
  KEY of_slot (slot)
) ENGINE = InnoDB;
