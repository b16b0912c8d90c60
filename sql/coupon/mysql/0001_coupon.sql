-- Orders that this service was told are paid, by their number and their shop's, 0 for one of one thing. slot is that of the
-- user.
CREATE TABLE IF NOT EXISTS paid_notice (
  order_id BIGINT NOT NULL,
  shop_id BIGINT NOT NULL,
  user_id BIGINT NOT NULL,
  paid_cents BIGINT NOT NULL,
  slot SMALLINT NOT NULL,
  PRIMARY KEY (order_id, shop_id),
  KEY of_slot (slot)
) ENGINE = InnoDB;
