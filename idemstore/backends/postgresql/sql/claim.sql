-- machine.step for a claim. It reads first: a replay or a busy answer takes no lock and writes nothing, and these two are
-- given by one statement (see known.sql). For the others the record is read into a row. An absent key is inserted; whoever
-- loses that race reads again. Only where a takeover is due is the key locked (an advisory lock has by far the shortest
-- queue), read again under the lock, and replaced if it is still what was read.
-- Whoever has looked already (ask.sql) says whether there was a record; NULL: nobody has.
-- The clock is read before the record, and again after every wait. Replies are frames, see frames.py.
-- A fence must be greater than those of the key's deleted lives, too. While an insert is on its way (it waits for a row that
-- is being deleted, or the server is busy elsewhere) another claim may be granted and released. No such life is shorter
-- than an instant, and once the row is in there can be none; so an insert that took longer is given the clock behind it.
CREATE OR REPLACE FUNCTION {claim}(
    _key text, _token text, _fingerprint bytea, _lease bigint, _keep bigint, _takeover boolean,
    _there boolean
) RETURNS bytea LANGUAGE plpgsql VOLATILE AS {body}
DECLARE
    r {table}%ROWTYPE;
    _at bigint;
    _late bigint;
    _again boolean;
    _locked boolean := false;
    _reply bytea;
BEGIN
    IF _there IS NULL THEN
        _at := {clock};
        SELECT {known} INTO _reply FROM {table} t WHERE t.key = _key;
        IF _reply IS NOT NULL THEN
            RETURN _reply;
        END IF;
        _there := FOUND;
    END IF;
    FOR _turn IN 1..100 LOOP
        IF _there THEN
            _at := {clock};
            SELECT * INTO r FROM {table} t WHERE t.key = _key;
            _there := FOUND;
        END IF;
        IF NOT _there THEN
            _there := true;
            _at := {clock};
            INSERT INTO {table} (key, state, token, fence, attempt, fingerprint, lease_until, expires_at, due)
            VALUES (_key, 1, _token, _at, 1, _fingerprint, _at + _lease, _at + _lease + _keep,
                _at + _keep + greatest(_lease - {lag}, 0))
            ON CONFLICT DO NOTHING;
            CONTINUE WHEN NOT FOUND;
            _late := {clock} - _at;
            IF _late >= {instant} THEN
                PERFORM {delayed}(_key, _late, _late);
                _at := _at + _late;
            END IF;
            RETURN 'C'::bytea || int8send(_at) || int4send(1);
        END IF;

        IF ({sound r.}) IS NOT TRUE THEN
            RETURN 'X'::bytea;
        END IF;
        _again := true;
        IF r.expires_at <= _at THEN
            _again := false;
        ELSIF _fingerprint <> r.fingerprint THEN
            RETURN 'M'::bytea;
        ELSIF r.state = 2 THEN
            RETURN 'R'::bytea || r.result;
        ELSIF r.state = 1 THEN
            IF r.token = _token THEN
                RETURN 'C'::bytea || int8send(r.fence) || int4send(r.attempt) || coalesce('+'::bytea || r.checkpoint, '');
            ELSIF r.lease_until > _at THEN
                RETURN 'B'::bytea || int8send(r.lease_until - _at);
            ELSIF NOT _takeover THEN
                RETURN 'A'::bytea || int8send(r.fence) || int4send(r.attempt) || int4send(length(r.token))
                    || convert_to(r.token, 'UTF8') || coalesce('+'::bytea || r.checkpoint, '');
            END IF;
        ELSIF r.retry_at IS NULL THEN
            RETURN 'F'::bytea || r.result;
        ELSIF r.retry_at > _at THEN
            _at := {clock}; -- the failure may be younger than the clock that was read: what may be retried at once is due
            IF r.retry_at > _at THEN
                RETURN 'W'::bytea || int8send(r.retry_at - _at) || r.result;
            END IF;
        END IF;

        IF NOT _locked THEN
            PERFORM pg_advisory_xact_lock({lock _key});
            _locked := true;
            CONTINUE;
        END IF;
        UPDATE {table} t SET
            state = 1, token = _token, fence = greatest(t.fence + 1, _at),
            attempt = CASE WHEN _again THEN t.attempt + 1 ELSE 1 END,
            fingerprint = CASE WHEN _again THEN coalesce(t.fingerprint, _fingerprint) ELSE _fingerprint END,
            checkpoint = CASE WHEN _again THEN t.checkpoint END,
            lease_until = _at + _lease, expires_at = _at + _lease + _keep, retry_at = NULL, result = NULL,
            due = {due _at + _keep}
        WHERE t.key = _key AND t.state = r.state AND t.token = r.token
            AND t.lease_until IS NOT DISTINCT FROM r.lease_until AND t.retry_at IS NOT DISTINCT FROM r.retry_at
            AND t.expires_at IS NOT DISTINCT FROM r.expires_at
        RETURNING * INTO r;
        CONTINUE WHEN NOT FOUND;
        IF {clock} > _at + 5000 THEN
            PERFORM {delayed}(_key, {clock} - _at, 0);
        END IF;
        RETURN 'C'::bytea || int8send(r.fence) || int4send(r.attempt) || coalesce('+'::bytea || r.checkpoint, '');
    END LOOP;
    RAISE EXCEPTION 'idemstore: the record did not hold still' USING ERRCODE = '40001';
END {body};
