-- Delete at most _limit rows whose own end is over; rows that somebody else has locked, and damaged ones, stay. It waits
-- for nobody and follows the index on "due", of which every row's end is never ahead.
CREATE OR REPLACE FUNCTION {purge}(_limit bigint) RETURNS bytea LANGUAGE plpgsql VOLATILE AS {body}
DECLARE
    _at bigint := {clock};
    _gone bigint;
BEGIN
    WITH over AS MATERIALIZED (
        SELECT d.key FROM {table} d
        WHERE d.due <= _at AND d.expires_at <= _at AND d.fence < _at - {instant} AND {sound d.}
        ORDER BY d.due LIMIT _limit FOR UPDATE SKIP LOCKED
    )
    DELETE FROM {table} t USING over WHERE t.key = over.key;
    GET DIAGNOSTICS _gone = ROW_COUNT;
    RETURN int8send(_gone);
END {body};
