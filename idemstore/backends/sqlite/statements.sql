-- Every statement that runs after the tables are there. "{table}" is the option ``table`` of the store URL.

-- name: read
-- Always one row: version and highest deleted fence, then the record, if any (its rowid tells: all else could be NULL
-- in a record that another program has damaged).
SELECT m.version, m.fence, r.rowid,
       r.state, r.token, r.fence, r.attempt, r.fingerprint, r.lease_until, r.expires_at, r.retry_at, r.result, r.checkpoint
FROM "{table}_meta" AS m LEFT JOIN "{table}" AS r ON r.key = ?
WHERE m.id = 1;

-- name: read_many
-- The records of many keys, those that there are.
SELECT r.key, r.rowid,
       r.state, r.token, r.fence, r.attempt, r.fingerprint, r.lease_until, r.expires_at, r.retry_at, r.result, r.checkpoint
FROM "{table}" AS r WHERE r.key IN (?);

-- name: insert
-- A record for a key that has none.
INSERT INTO "{table}"
    (state, token, fence, attempt, fingerprint, lease_until, expires_at, retry_at, result, checkpoint, key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: update
-- Another record for a key that has one; the same parameters.
UPDATE "{table}"
SET state = ?, token = ?, fence = ?, attempt = ?, fingerprint = ?, lease_until = ?, expires_at = ?, retry_at = ?,
    result = ?, checkpoint = ?
WHERE key = ?;

-- name: delete
-- The fence comes back so that the next life of the key can outgrow it; of a damaged record it may be anything.
DELETE FROM "{table}" WHERE key = ? RETURNING fence;

-- name: raise
-- Remember the highest fence of a deleted record.
UPDATE "{table}_meta" SET fence = max(fence, ?) WHERE id = 1;

-- name: probe
-- Changes no row, but fails where the file may not be written (which BEGIN IMMEDIATE does not).
UPDATE "{table}_meta" SET fence = fence WHERE id = 0;

-- name: due
-- Whether there is anything to purge at this moment.
SELECT EXISTS (SELECT 1 FROM "{table}" WHERE expires_at <= ? AND state IN ('in-flight', 'completed', 'failed'));

-- name: purge
-- Some records whose retention is over. What is not a record of ours is left for people to look at.
DELETE FROM "{table}"
WHERE rowid IN (
    SELECT rowid FROM "{table}"
    WHERE expires_at <= ? AND state IN ('in-flight', 'completed', 'failed')
    LIMIT ?
)
RETURNING fence;
