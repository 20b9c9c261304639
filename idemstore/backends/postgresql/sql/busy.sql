-- Of these keys, those that a claim would still have to wait for; with the end of the back-off, where it is one. One read
-- for all waiters of a store; it locks nothing.
SELECT convert_to(t.key, 'UTF8'), int8send(t.retry_at) FROM {table} t
WHERE t.key = ANY ($1) AND (t.state = 1 AND t.lease_until > {clock} OR t.state = 3 AND t.retry_at > {clock})
