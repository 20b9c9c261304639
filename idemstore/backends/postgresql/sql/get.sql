-- A look at a record: what is not bytes as JSON, then the three that are. The clock is that of the read, or before.
CREATE OR REPLACE FUNCTION {get}(
    _key text, OUT fields bytea, OUT fingerprint bytea, OUT result bytea, OUT checkpoint bytea
) RETURNS SETOF record LANGUAGE sql STABLE AS {body}
    SELECT convert_to(json_build_object(
        'now', {statement_clock}, 'sound', ({sound t.}) IS TRUE, 'state', t.state, 'token', t.token, 'fence', t.fence,
        'attempt', t.attempt, 'lease_until', t.lease_until, 'expires_at', t.expires_at, 'retry_at', t.retry_at
    )::text, 'UTF8'), t.fingerprint, t.result, t.checkpoint
    FROM {table} t WHERE t.key = _key
{body};
