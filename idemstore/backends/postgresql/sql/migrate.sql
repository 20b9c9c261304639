-- Create what is missing, all or nothing, one migration at a time. A table that is not ours, or newer, is left alone.
DO {quote}
DECLARE
    _comment text;
    _version integer;
BEGIN
    PERFORM pg_advisory_xact_lock({seed});
    IF current_setting('server_version_num')::integer < 120000 THEN
        RAISE EXCEPTION 'PostgreSQL %', current_setting('server_version') USING ERRCODE = 'ID003';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = {schema_text}) THEN
        CREATE SCHEMA {schema};
    END IF;
    IF NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = {schema_text} AND c.relname = {table_text}) THEN
{create_table};
    ELSE
        _comment := obj_description({table_literal}::regclass, 'pg_class');
        _version := substring(_comment FROM '^idemstore schema ([0-9]{1,6})$')::integer;
        IF _version IS NULL AND to_regproc({claim_literal}) IS NULL THEN
            RAISE EXCEPTION 'not ours' USING ERRCODE = 'ID002';
        ELSIF _version > {version} THEN
            RAISE EXCEPTION '%', _version USING ERRCODE = 'ID001';
        END IF;
    END IF;
{create_functions}
    COMMENT ON TABLE {table} IS 'idemstore schema {version}';
END {quote}
