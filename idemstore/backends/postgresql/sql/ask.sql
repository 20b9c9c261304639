-- A claim as a prepared statement: a look at the record, and the function only where that does not tell the reply. The
-- look costs next to nothing there, a function call as much as all the rest of a replay. (Without a plan that is kept it is
-- the other way round: planning this takes longer than calling the function.)
SELECT CASE WHEN t.reply IS NULL THEN {claim}($1, $2, $3, $4, $5, $6, t.there IS NOT NULL) ELSE t.reply END
FROM (SELECT 1) AS always LEFT JOIN (
    SELECT true AS there, {known} AS reply FROM {table} t WHERE t.key = $1
) t ON true
