-- A claim as a prepared statement: a look at the record, and the function only where that does not tell the reply. The
-- look costs next to nothing there, a function call as much as all the rest of a replay. (Without a plan that is kept it is
-- the other way round: planning this takes longer than calling the function.) The clock is read once, before the record:
-- each time that it is said costs more than any of the comparisons.
SELECT coalesce({known}, {claim}($1, $2, $3, $4, $5, $6, t.key IS NOT NULL))
FROM (SELECT {clock} AS at) AS clock LEFT JOIN {table} t ON t.key = $1
