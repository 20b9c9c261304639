-- machine.step for a release: the row goes. The next fence is the clock's, which is ahead of every fence given before.
CREATE OR REPLACE FUNCTION {release}(
    _key text, _token text
) RETURNS bytea LANGUAGE plpgsql VOLATILE AS {body}
DECLARE
    _at bigint;
    _reply bytea;
BEGIN
    FOR _turn IN 1..100 LOOP
        _at := {clock};
        DELETE FROM {table} t WHERE t.key = _key AND t.token = _token AND {owned t.};
        IF FOUND THEN
            RETURN 'D'::bytea;
        END IF;
        _reply := {settled}('release', _key, _token, _at, NULL, NULL);
        IF _reply IS NOT NULL THEN
            RETURN _reply;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'idemstore: the record did not hold still' USING ERRCODE = '40001';
END {body};
