-- What this database has of each slot. state: 0 arriving (a move writes its rows, which nobody else may touch), 1 served, 2 frozen (about
-- to leave), 3 left (its rows here are to be deleted), 4 empty. Whatever begins or ceases to be served raises the epoch of the fence in
-- the same commit. mover is whoever moves it: one that another took the move from finds its own number gone.
CREATE TABLE IF NOT EXISTS slot (
  slot SMALLINT PRIMARY KEY,
  state SMALLINT NOT NULL CHECK (state BETWEEN 0 AND 4),
  mover BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB;

-- Where slots were at first, in the first database alone. made: their rows are written in all databases, and never will be again.
CREATE TABLE IF NOT EXISTS first_map (
  id SMALLINT PRIMARY KEY CHECK (id = 1),
  map TEXT NOT NULL,
  made SMALLINT NOT NULL
) ENGINE = InnoDB;

-- A move reads the rows of its slots alone, of a fence that has those of all transactions that are not forgotten.
ALTER TABLE tercet_fence ADD KEY /*M! IF NOT EXISTS */ of_part (part);
