-- Many operations in one statement: one reply each, at its place. They are applied in ascending order of their locks (and
-- for one key in the order given), so that two batches with the same keys never wait for each other in a circle.
-- Where it is asked for, and only with keys that are all different: what is frequent goes first, all at once, at a fraction of
-- what the functions take item by item: claims of keys that nobody has, and completions by the owner, each exactly as its
-- function would do it; all else is left to the functions. Each of these three parts is in ascending order, not the whole;
-- so whoever asks for it also bounds the time that a lock may be waited for.
-- The settings keep to the one plan that is right at every size of the table, key by key through the index: a session
-- keeps its plans, and may have made them when the table was empty.
CREATE OR REPLACE FUNCTION {many}(
    _whats text[], _keys text[], _tokens text[], _blobs bytea[], _ones bigint[], _twos bigint[], _flags boolean[],
    _at_once boolean
) RETURNS TABLE (place bigint, reply bytea) LANGUAGE plpgsql VOLATILE
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS {body}
#variable_conflict use_column
DECLARE
    i record;
    _at bigint;
BEGIN
    IF _at_once AND EXISTS (
        SELECT FROM unnest(_whats, _keys) AS u (what, key)
        WHERE u.what = 'claim' AND NOT EXISTS (SELECT FROM {table} t WHERE t.key = u.key)
    ) THEN
        FOR i IN
            INSERT INTO {table} AS t (key, state, token, fence, attempt, fingerprint, lease_until, expires_at, due)
            SELECT n.key, 1, n.token, n.at, 1, n.blob, n.at + n.one, n.at + n.one + n.two,
                n.at + n.two + greatest(n.one - {lag}, 0)
            FROM (
                SELECT s.*, {clock} AS at FROM (
                    SELECT f.* FROM unnest(_whats, _keys, _tokens, _blobs, _ones, _twos)
                        AS f (what, key, token, blob, one, two)
                    WHERE f.what = 'claim' AND NOT EXISTS (SELECT FROM {table} t WHERE t.key = f.key)
                    ORDER BY {lock f.key}, f.key COLLATE "C"
                ) s
            ) n
            ON CONFLICT DO NOTHING
            RETURNING t.key, t.fence, {clock} - t.fence AS late
        LOOP
            IF i.late >= {instant} THEN
                PERFORM {delayed}(i.key, i.late, i.late);
                i.fence := i.fence + i.late;
            END IF;
            place := array_position(_keys, i.key);
            reply := 'C'::bytea || int8send(i.fence) || int4send(1);
            _whats[place] := '';
            RETURN NEXT;
        END LOOP;
    END IF;

    IF _at_once AND 'complete' = ANY (_whats) THEN
        _at := {clock};
        FOR i IN
            UPDATE {table} t SET
                state = 2, result = n.blob, checkpoint = NULL, lease_until = NULL,
                expires_at = _at + n.one, due = {due _at + n.one}
            FROM (
                SELECT f.* FROM unnest(_whats, _keys, _tokens, _blobs, _ones) AS f (what, key, token, blob, one)
                WHERE f.what = 'complete'
                ORDER BY {lock f.key}, f.key COLLATE "C"
            ) n
            WHERE t.key = n.key AND t.token = n.token AND {owned t.}
            RETURNING t.key, {clock} - _at AS late
        LOOP
            IF i.late > 5000 THEN
                PERFORM {delayed}(i.key, i.late, 0);
            END IF;
            place := array_position(_keys, i.key);
            reply := 'D'::bytea;
            _whats[place] := '';
            RETURN NEXT;
        END LOOP;
    END IF;

    FOR i IN
        SELECT u.* FROM unnest(_whats, _keys, _tokens, _blobs, _ones, _twos, _flags) WITH ORDINALITY
            AS u (what, key, token, blob, one, two, flag, place)
        WHERE u.what <> ''
        ORDER BY {lock u.key}, u.key COLLATE "C", u.place
    LOOP
        place := i.place;
        reply := CASE i.what
            WHEN 'claim' THEN {claim}(i.key, i.token, i.blob, i.one, i.two, i.flag, NULL)
            WHEN 'complete' THEN {complete}(i.key, i.token, i.blob, i.one)
            WHEN 'fail' THEN {fail}(i.key, i.token, i.blob, i.one, i.two)
            WHEN 'renew' THEN {renew}(i.key, i.token, i.one, i.blob)
            WHEN 'release' THEN {release}(i.key, i.token)
        END;
        RETURN NEXT;
    END LOOP;
END {body};
