-- What there is of each item. Every unit is free, reserved by a transaction that is under way, or issued.
CREATE TABLE stock (
  item BIGINT PRIMARY KEY,
  total BIGINT NOT NULL,
  free BIGINT NOT NULL CHECK (free >= 0),
  reserved BIGINT NOT NULL CHECK (reserved >= 0),
  issued BIGINT NOT NULL CHECK (issued >= 0),
  CHECK (free + reserved + issued = total)
) ENGINE = InnoDB;
