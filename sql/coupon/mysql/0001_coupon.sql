-- Orders that this service was told are paid. slot is that of the user.
CREATE TABLE IF NOT EXISTS paid_notice (
  order_id BIGINT PRIMARY KEY,
  user_id BIGINT NOT NULL,
  paid_cents BIGINT NOT NULL,
  slot SMALLINT NOT NULL,
  KEY of_slot (slot)
) ENGINE = InnoDB;
