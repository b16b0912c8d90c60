-- Redemptions, each in the database of its user; its id carries his slot. state: 0 kept, 1 with the coordinator,
-- 2 done, 3 refused, 4 taken back, 5 given up and not yet with the coordinator as owed, 6 being taken back. A transaction
-- moves it from 0 to 1 and on, in the commit in which it does the same to the coupons; so one that was given up, at 0,
-- can not be carried out any more. content is a tercet.coupon.v1.KeptRedemption.
CREATE TABLE redemption (
  redemption_id INTEGER PRIMARY KEY,
  user_id INTEGER NOT NULL,
  -- Whose order it is: orders and keys are the shop's.
  shop_id INTEGER NOT NULL,
  order_id INTEGER NOT NULL,
  idempotency_key TEXT NOT NULL,
  digest TEXT NOT NULL,
  content BLOB NOT NULL,
  state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 6),
  refusal TEXT NOT NULL DEFAULT '',
  attempt INTEGER NOT NULL DEFAULT 0,
  tries INTEGER NOT NULL DEFAULT 0,
  due_ms INTEGER NOT NULL,
  -- 1: somebody was shown that it is under way; nobody forgets it from then on.
  promised INTEGER NOT NULL DEFAULT 0 CHECK (promised IN (0, 1)),
  created_ms INTEGER NOT NULL,
  ended_ms INTEGER,
  -- When it was taken back, or that began, by which transaction and person, and why.
  refunded_ms INTEGER,
  refund_xid TEXT,
  refund_operator TEXT,
  refund_reason TEXT,
  CHECK ((refunded_ms IS NULL) = (state NOT IN (4, 6)) AND (refund_xid IS NULL) = (refunded_ms IS NULL)),
  UNIQUE (user_id, shop_id, idempotency_key)
) STRICT;
CREATE INDEX redemption_of_order ON redemption (user_id, shop_id, order_id);
CREATE INDEX redemption_by_due ON redemption (state, due_ms);
