-- What this database has of each slot. state: 0 arriving (a move writes its rows, which nobody else may touch), 1 served, 2 frozen (about
-- to leave), 3 left (its rows here are to be deleted), 4 empty. Whatever begins or ceases to be served raises the epoch of the fence in
-- the same commit. mover is whoever moves it: one that another took the move from finds its own number gone.
CREATE TABLE slot (
  slot INTEGER PRIMARY KEY,
  state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 4),
  mover INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Where slots were at first, in the first database alone. made: their rows are written in all databases, and never will be again.
CREATE TABLE first_map (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  map TEXT NOT NULL,
  made INTEGER NOT NULL
) STRICT;
