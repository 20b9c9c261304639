-- Delete a record whatever its state, a damaged one included; whether there was one.
CREATE OR REPLACE FUNCTION {forget}(_key text) RETURNS bytea LANGUAGE plpgsql VOLATILE AS {body}
BEGIN
    DELETE FROM {table} t WHERE t.key = _key;
    RETURN CASE WHEN FOUND THEN 'Y' ELSE 'N' END::bytea;
END {body};
