-- Events that were not published yet. The relay takes them by id and deletes them; it keeps no place among the ids, since
-- a lower one may be committed later than a higher one. letter: of a dead letter, where it was and why it could not be
-- taken, as JSON.
CREATE TABLE IF NOT EXISTS tercet_outbox (
  id BIGINT PRIMARY KEY AUTO_INCREMENT,
  topic VARCHAR(128) NOT NULL,
  record_key VARCHAR(64) NOT NULL,
  at_ms BIGINT NOT NULL,
  letter TEXT,
  payload MEDIUMBLOB NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- One row. Who relays, and what: batch holds the ids that are being published, as JSON, numbered from batch_sequence on.
CREATE TABLE IF NOT EXISTS tercet_outbox_relay (
  id SMALLINT NOT NULL PRIMARY KEY,
  source VARCHAR(64) NOT NULL,
  epoch BIGINT NOT NULL,
  owner VARCHAR(64) NOT NULL,
  lease_until_ms BIGINT NOT NULL,
  batch MEDIUMTEXT NOT NULL,
  batch_sequence BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

INSERT IGNORE INTO tercet_outbox_relay (id, source, epoch, owner, lease_until_ms, batch, batch_sequence)
VALUES (1, REPLACE(UUID(), '-', ''), 0, '', 0, '[]', 1);

-- How far each consumer has come with each source in each partition; before is the sequence before the latest batch.
CREATE TABLE IF NOT EXISTS tercet_inbox (
  consumer VARCHAR(64) NOT NULL,
  topic VARCHAR(128) NOT NULL,
  part BIGINT NOT NULL,
  source VARCHAR(64) NOT NULL,
  sequence BIGINT NOT NULL,
  `before` BIGINT NOT NULL DEFAULT -1,
  PRIMARY KEY (consumer, topic, part, source)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- What a consumer could not take, where there is no broker to keep it.
CREATE TABLE IF NOT EXISTS tercet_dead_letter (
  id BIGINT PRIMARY KEY AUTO_INCREMENT,
  topic VARCHAR(128) NOT NULL,
  record_key VARCHAR(64) NOT NULL,
  at_ms BIGINT NOT NULL,
  letter TEXT NOT NULL,
  payload MEDIUMBLOB NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
