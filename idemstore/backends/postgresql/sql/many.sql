-- Many operations in one statement: one reply each, at its place. They are applied in ascending order of their locks (and
-- for one key in the order given), so that two batches with the same keys never wait for each other in a circle.
CREATE OR REPLACE FUNCTION {many}(
    _whats text[], _keys text[], _tokens text[], _blobs bytea[], _ones bigint[], _twos bigint[], _flags boolean[]
) RETURNS TABLE (place bigint, reply bytea) LANGUAGE plpgsql VOLATILE AS {body}
DECLARE
    i record;
BEGIN
    FOR i IN
        SELECT u.* FROM unnest(_whats, _keys, _tokens, _blobs, _ones, _twos, _flags) WITH ORDINALITY
            AS u (what, key, token, blob, one, two, flag, place)
        ORDER BY {lock u.key}, u.key COLLATE "C", u.place
    LOOP
        place := i.place;
        reply := CASE i.what
            WHEN 'claim' THEN {claim}(i.key, i.token, i.blob, i.one, i.two, i.flag)
            WHEN 'complete' THEN {complete}(i.key, i.token, i.blob, i.one)
            WHEN 'fail' THEN {fail}(i.key, i.token, i.blob, i.one, i.two)
            WHEN 'renew' THEN {renew}(i.key, i.token, i.one, i.blob)
            WHEN 'release' THEN {release}(i.key, i.token)
        END;
        RETURN NEXT;
    END LOOP;
END {body};
