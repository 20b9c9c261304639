-- The reply to a claim that finds a replay or a busy answer, by far the most frequent answers about a record that is there;
-- NULL where it takes more than a look at the record. One expression: to look at fields in PL/pgSQL takes longer than all of
-- it. It calls as few functions as it can: each is looked up whenever the statement begins.
CASE WHEN {identified t.} AND (t.expires_at <= {at} OR {fingerprint} <> t.fingerprint) IS NOT TRUE THEN CASE t.state
    WHEN 2 THEN CASE WHEN {completed t.} THEN 'R'::bytea || t.result END
    WHEN 1 THEN CASE WHEN {running t.} AND t.token <> {token} AND t.lease_until > {at} THEN
        'B'::bytea || int8send(t.lease_until - {at}) END
END END
