-- machine.step for a renewal: the lease counts from now, and the end of retention moves with it.
CREATE OR REPLACE FUNCTION {renew}(
    _key text, _token text, _lease bigint, _checkpoint bytea
) RETURNS bytea LANGUAGE plpgsql VOLATILE AS {body}
DECLARE
    _at bigint;
    _reply bytea;
BEGIN
    FOR _turn IN 1..100 LOOP
        _at := {clock};
        UPDATE {table} t SET
            lease_until = _at + _lease, checkpoint = coalesce(_checkpoint, t.checkpoint),
            expires_at = _at + _lease + (t.expires_at - t.lease_until),
            due = {due _at + _lease + (t.expires_at - t.lease_until)}
        WHERE t.key = _key AND t.token = _token AND {owned t.};
        IF FOUND THEN
            IF {clock} > _at + 5000 THEN
                PERFORM {delayed}(_key, {clock} - _at, 0);
            END IF;
            RETURN 'D'::bytea;
        END IF;
        _reply := {settled}('renew', _key, _token, _at, NULL, NULL);
        IF _reply IS NOT NULL THEN
            RETURN _reply;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'idemstore: the record did not hold still' USING ERRCODE = '40001';
END {body};
