-- The reply to a claim that finds a replay or a busy answer, by far the most frequent answers about a record that is there;
-- NULL where it takes more than a look at the record. One expression: to look at fields in PL/pgSQL takes longer than all of it.
CASE
    WHEN ({sound t.}) IS NOT TRUE OR t.expires_at <= {clock} OR {fingerprint} <> t.fingerprint THEN NULL
    WHEN t.state = 2 THEN 'R'::bytea || t.result
    WHEN t.state = 1 AND t.token <> {token} AND t.lease_until > {clock} THEN
        'B'::bytea || int8send(greatest(t.lease_until - {clock}, 1))
END
