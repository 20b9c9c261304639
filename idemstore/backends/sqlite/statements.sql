-- Every statement that runs after the tables are there. "{table}" is the option ``table`` of the store URL.

-- name: read
-- Always one row: version and highest deleted fence, then the record, if any (its rowid tells: all else could be NULL
-- in a record that another program has damaged).
SELECT m.version, m.fence, r.rowid,
       r.state, r.token, r.fence, r.attempt, r.fingerprint, r.lease_until, r.expires_at, r.retry_at, r.result, r.checkpoint
FROM "{table}_meta" AS m LEFT JOIN "{table}" AS r ON r.key = ?1
WHERE m.id = 1;

-- name: insert
-- A record for a key that has none.
INSERT INTO "{table}"
    (key, state, token, fence, attempt, fingerprint, lease_until, expires_at, retry_at, result, checkpoint)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11);

-- name: update
-- Another record for a key that has one.
UPDATE "{table}"
SET state = ?2, token = ?3, fence = ?4, attempt = ?5, fingerprint = ?6, lease_until = ?7, expires_at = ?8,
    retry_at = ?9, result = ?10, checkpoint = ?11
WHERE key = ?1;

-- name: delete
-- The fence comes back so that the next life of the key can outgrow it; of a damaged record it may be anything.
DELETE FROM "{table}" WHERE key = ?1 RETURNING fence;

-- name: raise
-- Remember the highest fence of a deleted record.
UPDATE "{table}_meta" SET fence = max(fence, ?1) WHERE id = 1;

-- name: due
-- Whether there is anything to purge at this moment.
SELECT EXISTS (SELECT 1 FROM "{table}" WHERE expires_at <= ?1 AND state IN ('in-flight', 'completed', 'failed'));

-- name: purge
-- Some records whose retention is over. What is not a record of ours is left for people to look at.
DELETE FROM "{table}"
WHERE rowid IN (
    SELECT rowid FROM "{table}"
    WHERE expires_at <= ?1 AND state IN ('in-flight', 'completed', 'failed')
    LIMIT ?2
)
RETURNING fence;
