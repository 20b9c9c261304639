-- The tables of idemstore in an SQLite file, version 1. "{table}" is the option ``table`` of the store URL.
-- What stands here is compared with what a file holds, comments and white space aside: a change needs a new version.

-- One record per key, with a rowid: measured against WITHOUT ROWID it is as fast for short keys and results, and faster
-- for long ones, since the index on the end of retention then holds rowids and not keys, and large results leave the
-- key's own index alone. Keys are equal when their bytes are. Times are microseconds since the epoch. The large columns
-- are last, so that a look at the others never walks over them. STRICT and the checks keep other programs from storing
-- by accident what no state of the machine allows.
CREATE TABLE "{table}" (
    key TEXT NOT NULL COLLATE BINARY PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('in-flight', 'completed', 'failed')),
    token TEXT NOT NULL,
    fence INTEGER NOT NULL,
    attempt INTEGER NOT NULL CHECK (attempt > 0),
    fingerprint BLOB,
    lease_until INTEGER,
    expires_at INTEGER,
    retry_at INTEGER,
    result BLOB,
    checkpoint BLOB
) STRICT;

-- What purge and the collection in passing look at: the end of retention, for records that have one.
CREATE INDEX "{table}_expires" ON "{table}" (expires_at) WHERE expires_at IS NOT NULL;

-- One row: the version of these tables, and the highest fence of a record that was ever deleted. A new record's fence
-- outgrows it, so fences grow across a key's deleted lives even where the clock of the host was set back. Only
-- deletions write it; every call reads it along with its record.
CREATE TABLE "{table}_meta" (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL,
    fence INTEGER NOT NULL
) STRICT;
