-- machine.step for a completion: one UPDATE that only the owner's token passes, whatever the clock says.
CREATE OR REPLACE FUNCTION {complete}(
    _key text, _token text, _result bytea, _keep bigint
) RETURNS bytea LANGUAGE plpgsql VOLATILE AS {body}
DECLARE
    _at bigint;
    _reply bytea;
BEGIN
    FOR _turn IN 1..100 LOOP
        _at := {clock};
        UPDATE {table} t SET
            state = 2, result = _result, checkpoint = NULL, lease_until = NULL,
            expires_at = _at + _keep, due = {due _at + _keep}
        WHERE t.key = _key AND t.token = _token AND {owned t.};
        IF FOUND THEN
            IF {clock} > _at + 5000 THEN
                PERFORM {delayed}(_key, {clock} - _at, 0);
            END IF;
            RETURN 'D'::bytea;
        END IF;
        _reply := {settled}('complete', _key, _token, _at, _result, true);
        IF _reply IS NOT NULL THEN
            RETURN _reply;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'idemstore: the record did not hold still' USING ERRCODE = '40001';
END {body};
