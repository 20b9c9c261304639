-- One row is one record. Times are microseconds since the epoch by the server's clock; state is 1 in flight,
-- 2 completed, 3 failed. Numbers come first: a read then finds every column it compares at a fixed place.
-- "due" is when purge first looks at a row: never after its end, and moved only when it would lag far behind. It is the
-- only column with an index that an execution could touch, and a normal one does not: completions are HOT updates.
CREATE TABLE {table} (
    fence bigint NOT NULL,
    lease_until bigint,
    expires_at bigint,
    retry_at bigint,
    due bigint,
    attempt integer NOT NULL,
    state smallint NOT NULL,
    key text COLLATE "C" NOT NULL,
    token text COLLATE "C" NOT NULL,
    fingerprint bytea,
    result bytea,
    checkpoint bytea,
    CONSTRAINT {primary_key} PRIMARY KEY (key)
) WITH (fillfactor = 70);
-- Results are often compressed already; what is not costs more time in the server than it saves.
ALTER TABLE {table} ALTER COLUMN result SET STORAGE EXTERNAL, ALTER COLUMN checkpoint SET STORAGE EXTERNAL;
CREATE INDEX {due_index} ON {table} (due) WHERE due IS NOT NULL;
