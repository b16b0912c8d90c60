-- Events that were not published yet. The relay takes them by id and deletes them; it keeps no place among the ids, since
-- a lower one may be committed later than a higher one. letter: of a dead letter, where it was and why it could not be
-- taken, as JSON.
CREATE TABLE tercet_outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  topic TEXT NOT NULL,
  record_key TEXT NOT NULL,
  at_ms INTEGER NOT NULL,
  letter TEXT,
  payload BLOB NOT NULL
) STRICT;

-- One row. Who relays, and what: batch holds the ids that are being published, as JSON, numbered from batch_sequence on.
CREATE TABLE tercet_outbox_relay (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  source TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  owner TEXT NOT NULL,
  lease_until_ms INTEGER NOT NULL,
  batch TEXT NOT NULL,
  batch_sequence INTEGER NOT NULL
) STRICT;

INSERT INTO tercet_outbox_relay (id, source, epoch, owner, lease_until_ms, batch, batch_sequence)
VALUES (1, lower(hex(randomblob(16))), 0, '', 0, '[]', 1);

-- How far each consumer has come with each source in each partition; before is the sequence before the latest batch.
CREATE TABLE tercet_inbox (
  consumer TEXT NOT NULL,
  topic TEXT NOT NULL,
  part INTEGER NOT NULL,
  source TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  before INTEGER NOT NULL DEFAULT -1,
  PRIMARY KEY (consumer, topic, part, source)
) STRICT, WITHOUT ROWID;

-- What a consumer could not take, where there is no broker to keep it.
CREATE TABLE tercet_dead_letter (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  topic TEXT NOT NULL,
  record_key TEXT NOT NULL,
  at_ms INTEGER NOT NULL,
  letter TEXT NOT NULL,
  payload BLOB NOT NULL
) STRICT;
