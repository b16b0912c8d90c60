-- The latest supply that set the total; 0 where none did.
ALTER TABLE stock ADD COLUMN sequence BIGINT NOT NULL DEFAULT 0;
