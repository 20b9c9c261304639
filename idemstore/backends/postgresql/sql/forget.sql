-- Delete a record whatever its state, a damaged one included; whether there was one. The wait: see release.sql.
CREATE OR REPLACE FUNCTION {forget}(_key text) RETURNS bytea LANGUAGE plpgsql VOLATILE AS {body}
DECLARE
    _fence bigint;
BEGIN
    DELETE FROM {table} t WHERE t.key = _key RETURNING t.fence INTO _fence;
    WHILE _fence BETWEEN {clock} - {instant} AND {clock} LOOP
    END LOOP;
    RETURN CASE WHEN _fence IS NULL THEN 'N' ELSE 'Y' END::bytea;
END {body};
