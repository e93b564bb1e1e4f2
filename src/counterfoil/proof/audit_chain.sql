-- What the verifier asks. It computes every hash by itself, from the columns: a function of the database that somebody
-- replaced cannot tell it that all is well.

-- name: count_entries
-- How many entries there are, how many of them still wait for the sealer, and how many the chain says it has.
-- Waiting are the entries above where the last seal ends; see migrations/sql/audit_v1.sql.
WITH last AS (SELECT * FROM audit_seals ORDER BY number DESC LIMIT 1)
SELECT (SELECT count(*) FROM audit_entries) AS entries,
       (SELECT count(*) FROM audit_entries e LEFT JOIN last l ON true
        WHERE l.number IS NULL OR (l.last_id <> -1 AND e.id > l.first_id AND (e.xact, e.id) > (l.last_xact, l.last_id)))
         AS waiting,
       (SELECT coalesce(extract(epoch FROM now() - min(e.occurred_at)), 0)::float FROM audit_entries e LEFT JOIN last l ON true
        WHERE isfinite(e.occurred_at) AND (l.number IS NULL
          OR (l.last_id <> -1 AND e.id > l.first_id AND (e.xact, e.id) > (l.last_xact, l.last_id)))) AS oldest_seconds,
       coalesce((SELECT position - 1 + cardinality(entry_ids) FROM last), 0) AS chained,
       coalesce((SELECT last_id = -1 FROM last), false) AS is_moving;

-- name: read_seals
SELECT number, position, entry_ids, hashes, last_xact::text AS last_xact, last_id, first_id, cluster
FROM audit_seals WHERE number > %(after)s ORDER BY number LIMIT %(limit)s;

-- name: read_entries
-- The canonical form is the one of seal_audit_entries_v1(): microseconds since 1970 as a numeric, which has a word for
-- infinity, and a transaction's number, which goes beyond bigint, as text.
SELECT e.id, e.xact::text AS xact, ROW(
         e.id, e.xact, trim_scale(extract(epoch FROM e.occurred_at) * 1000000), e.actor, e.action, e.target,
         e.target_id, e.target_key, e.request_id, e.reason, e.changes, encode(e.before_hash, 'hex'),
         encode(e.after_hash, 'hex'))::text AS canonical
FROM audit_entries e WHERE e.id = ANY (%(ids)s::bigint[]);

-- name: find_strays
-- Entries that no seal names although they are not waiting for one, the earliest first.
WITH last AS (SELECT * FROM audit_seals ORDER BY number DESC LIMIT 1)
SELECT e.id
FROM audit_entries e JOIN last l ON true
WHERE NOT (l.last_id <> -1 AND e.id > l.first_id AND (e.xact, e.id) > (l.last_xact, l.last_id))
  AND NOT EXISTS (SELECT FROM (SELECT unnest(entry_ids) AS id FROM audit_seals) AS s WHERE s.id = e.id)
ORDER BY e.xact, e.id LIMIT 1;
