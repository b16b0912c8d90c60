-- Redemptions, each in the database of its user; its id carries his slot. state: 0 kept, 1 with the coordinator,
-- 2 done, 3 refused, 4 taken back, 5 given up and not yet with the coordinator as owed, 6 being taken back. A transaction
-- moves it from 0 to 1 and on, in the commit in which it does the same to the coupons; so one that was given up, at 0,
-- can not be carried out any more. content is a tercet.coupon.v1.KeptRedemption.
CREATE TABLE IF NOT EXISTS redemption (
  redemption_id BIGINT PRIMARY KEY,
  user_id BIGINT NOT NULL,
  -- Whose order it is: orders and keys are the shop's.
  shop_id BIGINT NOT NULL,
  order_id BIGINT NOT NULL,
  idempotency_key VARBINARY(128) NOT NULL,
  digest CHAR(64) CHARACTER SET ascii NOT NULL,
  content MEDIUMBLOB NOT NULL,
  state BIGINT NOT NULL CHECK (state BETWEEN 0 AND 6),
  refusal VARCHAR(512) CHARACTER SET utf8mb4 NOT NULL DEFAULT '',
  attempt BIGINT NOT NULL DEFAULT 0,
  tries BIGINT NOT NULL DEFAULT 0,
  due_ms BIGINT NOT NULL,
  -- 1: somebody was shown that it is under way; nobody forgets it from then on.
  promised BIGINT NOT NULL DEFAULT 0 CHECK (promised IN (0, 1)),
  created_ms BIGINT NOT NULL,
  ended_ms BIGINT,
  -- When it was taken back, or that began, by which transaction and person, and why.
  refunded_ms BIGINT,
  refund_xid CHAR(36) CHARACTER SET ascii,
  refund_operator VARCHAR(64) CHARACTER SET utf8mb4,
  refund_reason VARCHAR(512) CHARACTER SET utf8mb4,
  slot SMALLINT GENERATED ALWAYS AS (redemption_id & 1023) STORED,
  CHECK ((refunded_ms IS NULL) = (state NOT IN (4, 6)) AND (refund_xid IS NULL) = (refunded_ms IS NULL)),
  UNIQUE KEY by_key (user_id, shop_id, idempotency_key),
  KEY of_order (user_id, shop_id, order_id),
  KEY by_due (state, due_ms),
  KEY of_slot (slot)
) ENGINE = InnoDB;
