-- machine.step for a release: the row goes. The next fence is the clock's, which is ahead of every fence given before; so
-- that a claim can rely on that, no life of a key is shorter than an instant (see claim.sql; hardly any would be).
CREATE OR REPLACE FUNCTION {release}(
    _key text, _token text
) RETURNS bytea LANGUAGE plpgsql VOLATILE AS {body}
DECLARE
    _at bigint;
    _fence bigint;
    _reply bytea;
BEGIN
    FOR _turn IN 1..100 LOOP
        _at := {clock};
        DELETE FROM {table} t WHERE t.key = _key AND t.token = _token AND {owned t.} RETURNING t.fence INTO _fence;
        IF FOUND THEN
            WHILE _fence BETWEEN {clock} - {instant} AND {clock} LOOP
            END LOOP;
            RETURN 'D'::bytea;
        END IF;
        _reply := {settled}('release', _key, _token, _at, NULL, NULL);
        IF _reply IS NOT NULL THEN
            RETURN _reply;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'idemstore: the record did not hold still' USING ERRCODE = '40001';
END {body};
