-- Coupons and what users have claimed are in the tables of the shards from now on; terms come with each claim.
DROP TABLE coupon;
DROP TABLE user_template;
DROP TABLE template;
