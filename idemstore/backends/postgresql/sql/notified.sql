-- Tells those who wait for the key that it is free or finished, where the caller asks for that (?notify=1); passes the
-- reply on. The payload is a digest: a key may be longer than a payload, and is nobody else's business.
CREATE OR REPLACE FUNCTION {notified}(_key text, _reply bytea) RETURNS bytea LANGUAGE plpgsql VOLATILE AS {body}
BEGIN
    IF _reply IN ('D'::bytea, 'Y'::bytea) THEN
        PERFORM pg_notify('{channel}', left(encode(sha256(convert_to(_key, 'UTF8')), 'hex'), 32));
    END IF;
    RETURN _reply;
END {body};
