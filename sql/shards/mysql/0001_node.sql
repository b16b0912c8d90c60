-- A node's lease on the times that it may write into ids: it ends before until_ms, and epoch counts its holders.
CREATE TABLE IF NOT EXISTS id_node (
  node TINYINT PRIMARY KEY CHECK (node BETWEEN 0 AND 127),
  epoch BIGINT NOT NULL DEFAULT 0,
  until_ms BIGINT NOT NULL DEFAULT 0,
  owner VARCHAR(128) NOT NULL DEFAULT ''
) ENGINE = InnoDB;

INSERT IGNORE INTO id_node (node) WITH RECURSIVE n (node) AS (SELECT 0 UNION ALL SELECT node + 1 FROM n WHERE node < 127)
SELECT node FROM n;
