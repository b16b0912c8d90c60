-- What there is of each item. Every unit is free, reserved by a transaction that is under way, or issued.
CREATE TABLE stock (
  item INTEGER PRIMARY KEY,
  total INTEGER NOT NULL,
  free INTEGER NOT NULL CHECK (free >= 0),
  reserved INTEGER NOT NULL CHECK (reserved >= 0),
  issued INTEGER NOT NULL CHECK (issued >= 0),
  -- The latest supply that set the total; 0 where none did.
  sequence INTEGER NOT NULL DEFAULT 0,
  -- So many more than that supply wanted, since they were reserved or issued: they go as they become free.
  excess INTEGER NOT NULL DEFAULT 0 CHECK (excess >= 0),
  CHECK (free + reserved + issued = total)
) STRICT;
