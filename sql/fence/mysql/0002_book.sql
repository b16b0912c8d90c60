-- What each resource of an invariant holds, by what transactions did to it: beside the business rows, and in the same local
-- transactions. xid is the last one with which both agreed. broken: '' while they agree, the xid of the transaction that
-- broke it, or 'outside' when no transaction did. fresh: the row was made by an operation and has to be filled in.
CREATE TABLE IF NOT EXISTS tercet_book (
    invariant VARCHAR(64) CHARACTER SET ascii NOT NULL,
    resource BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    issued BIGINT NOT NULL,
    free BIGINT NOT NULL,
    operations BIGINT NOT NULL,
    xid VARCHAR(36) CHARACTER SET ascii NOT NULL,
    broken VARCHAR(36) CHARACTER SET ascii NOT NULL,
    fresh BIGINT NOT NULL,
    PRIMARY KEY (invariant, resource)
) ENGINE = InnoDB;
