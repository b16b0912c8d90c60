-- Orders that this service was told are paid, by their number and their shop's, 0 for one of one thing. slot is that of the
-- user.
CREATE TABLE paid_notice (
  order_id INTEGER NOT NULL,
  shop_id INTEGER NOT NULL,
  user_id INTEGER NOT NULL,
  paid_cents INTEGER NOT NULL,
  slot INTEGER NOT NULL,
  PRIMARY KEY (order_id, shop_id)
) STRICT, WITHOUT ROWID;
