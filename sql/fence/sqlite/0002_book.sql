-- What each resource of an invariant holds, by what transactions did to it: beside the business rows, and in the same local
-- transactions. xid is the last one with which both agreed. broken: '' while they agree, the xid of the transaction that
-- broke it, or 'outside' when no transaction did. fresh: the row was made by an operation and has to be filled in.
CREATE TABLE tercet_book (
    invariant TEXT NOT NULL,
    resource INTEGER NOT NULL,
    reserved INTEGER NOT NULL,
    issued INTEGER NOT NULL,
    free INTEGER NOT NULL,
    operations INTEGER NOT NULL,
    xid TEXT NOT NULL,
    broken TEXT NOT NULL,
    fresh INTEGER NOT NULL,
    PRIMARY KEY (invariant, resource)
) WITHOUT ROWID;
