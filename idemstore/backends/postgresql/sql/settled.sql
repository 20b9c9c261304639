-- Why a complete, fail, renew or release found nothing to change: it was applied before (done), the record is gone or
-- somebody else's (lease lost), or damaged. NULL: it can be applied after all, so try again.
CREATE OR REPLACE FUNCTION {settled}(
    _what text, _key text, _token text, _at bigint, _result bytea, _final boolean
) RETURNS bytea LANGUAGE plpgsql VOLATILE AS {body}
DECLARE
    r {table}%ROWTYPE;
BEGIN
    SELECT * INTO r FROM {table} t WHERE t.key = _key;
    IF FOUND AND ({sound r.}) IS NOT TRUE THEN
        RETURN 'X'::bytea;
    ELSIF NOT FOUND OR r.expires_at <= _at THEN
        RETURN CASE WHEN _what = 'release' THEN 'D' ELSE 'L' END::bytea;
    ELSIF r.token <> _token THEN
        RETURN 'L'::bytea;
    ELSIF r.state = 1 THEN
        RETURN NULL;
    ELSIF _what = 'complete' AND r.state = 2 AND r.result = _result THEN
        RETURN 'D'::bytea;
    ELSIF _what = 'fail' AND r.state = 3 AND r.result = _result AND (r.retry_at IS NULL) = _final THEN
        RETURN 'D'::bytea;
    END IF;
    RETURN 'L'::bytea;
END {body};
