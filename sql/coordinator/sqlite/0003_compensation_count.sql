-- How many compensations of each service are pending (status 0) and parked (2), kept as they change: a million rows are
-- never counted.
CREATE TABLE compensation_count (
    service TEXT NOT NULL PRIMARY KEY,
    pending INTEGER NOT NULL,
    failed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO compensation_count
SELECT service, sum(status = 0), sum(status = 2) FROM compensation_log GROUP BY service;

CREATE TRIGGER compensation_log_inserted AFTER INSERT ON compensation_log WHEN NEW.status <> 1 BEGIN
    INSERT INTO compensation_count (service, pending, failed) VALUES (NEW.service, NEW.status = 0, NEW.status = 2)
    ON CONFLICT (service) DO UPDATE SET pending = pending + excluded.pending, failed = failed + excluded.failed;
END;

-- A row stays with its service.
CREATE TRIGGER compensation_log_updated AFTER UPDATE OF status ON compensation_log WHEN OLD.status <> NEW.status BEGIN
    INSERT INTO compensation_count (service, pending, failed)
    VALUES (NEW.service, (NEW.status = 0) - (OLD.status = 0), (NEW.status = 2) - (OLD.status = 2))
    ON CONFLICT (service) DO UPDATE SET pending = pending + excluded.pending, failed = failed + excluded.failed;
END;

CREATE TRIGGER compensation_log_deleted AFTER DELETE ON compensation_log WHEN OLD.status <> 1 BEGIN
    UPDATE compensation_count SET pending = pending - (OLD.status = 0), failed = failed - (OLD.status = 2)
    WHERE service = OLD.service;
END;
