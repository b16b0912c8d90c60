-- What the coupon service has said about the order's coupon: 0 nothing, 1 it was used for this order, 2 it was given back.
ALTER TABLE orders ADD COLUMN coupon_use INTEGER NOT NULL DEFAULT 0 CHECK (coupon_use BETWEEN 0 AND 2);
