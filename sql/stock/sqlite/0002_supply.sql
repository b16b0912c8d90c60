-- The latest supply that set the total; 0 where none did.
ALTER TABLE stock ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;
