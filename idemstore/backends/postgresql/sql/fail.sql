-- machine.step for a failure: for good, or to be retried once _retry microseconds are over. The checkpoint stays.
CREATE OR REPLACE FUNCTION {fail}(
    _key text, _token text, _result bytea, _keep bigint, _retry bigint
) RETURNS bytea LANGUAGE plpgsql VOLATILE AS {body}
DECLARE
    _at bigint;
    _reply bytea;
BEGIN
    FOR _turn IN 1..100 LOOP
        _at := {clock};
        UPDATE {table} t SET
            state = 3, result = _result, lease_until = NULL, retry_at = _at + _retry,
            expires_at = _at + _keep, due = {due _at + _keep}
        WHERE t.key = _key AND t.token = _token AND {owned t.};
        IF FOUND THEN
            IF {clock} > _at + 5000 THEN
                PERFORM {delayed}(_key, {clock} - _at, 0);
            END IF;
            RETURN 'D'::bytea;
        END IF;
        _reply := {settled}('fail', _key, _token, _at, _result, _retry IS NULL);
        IF _reply IS NOT NULL THEN
            RETURN _reply;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'idemstore: the record did not hold still' USING ERRCODE = '40001';
END {body};
