-- Orders that this service was told are paid. slot is that of the user.
CREATE TABLE paid_notice (
  order_id INTEGER PRIMARY KEY,
  user_id INTEGER NOT NULL,
  paid_cents INTEGER NOT NULL,
  slot INTEGER NOT NULL
) STRICT;
