-- What there is of the schema, what the caller may do with it, and the clock. Touches catalogs only, so it answers before
-- anything is installed, too.
SELECT convert_to(json_build_object(
    'now', {statement_clock},
    'read_only', current_setting('transaction_read_only')::boolean,
    'table', c.oid IS NOT NULL,
    'comment', obj_description(c.oid, 'pg_class'),
    'functions', (SELECT count(DISTINCT p.proname) FROM pg_proc p
                  WHERE p.pronamespace = n.oid AND p.proname = ANY ({functions})),
    'allowed', coalesce(has_schema_privilege(n.oid, 'USAGE')
        AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
        AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')
        AND (SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE')) FROM pg_proc p
             WHERE p.pronamespace = n.oid AND p.proname = ANY ({functions})), false)
)::text, 'UTF8')
FROM (SELECT 1) AS always
LEFT JOIN pg_namespace n ON n.nspname = {schema_text}
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = {table_text}
