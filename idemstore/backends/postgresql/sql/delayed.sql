-- A write that had to wait (for a row that another transaction then gave back) has counted from before the wait: move
-- its times on. Only ever called on a row that this transaction has just written, so it waits for nobody.
CREATE OR REPLACE FUNCTION {delayed}(_key text, _by bigint, _fence_by bigint) RETURNS void LANGUAGE sql VOLATILE AS {body}
    UPDATE {table} t SET
        fence = t.fence + _fence_by,
        lease_until = t.lease_until + _by, expires_at = t.expires_at + _by, retry_at = t.retry_at + _by
    WHERE t.key = _key
{body};
