-- The leader's housekeeping: partitions, retention, and rows that have outlived their use.

-- name: open_partition
-- Open a partition of the log and of history, if it is not open yet.
SELECT pgbus.open_partition(CAST(:number AS integer)) AS opened

-- name: find_partition_start
-- When the first event of a partition was logged, in seconds before now; NULL when it is empty.
SELECT CAST(extract(epoch FROM now() - e.logged_at) AS double precision) AS age
FROM pgbus.events AS e
WHERE e.position >= CAST(:number AS bigint) * 1000000000 AND e.position < (CAST(:number AS bigint) + 1) * 1000000000
ORDER BY e.position
LIMIT 1

-- name: find_expired_partitions
-- Partitions below the current one whose last event is older than the retention.
SELECT p.number
FROM pgbus.partitions AS p
LEFT JOIN LATERAL (
    SELECT e.logged_at
    FROM pgbus.events AS e
    WHERE e.position >= CAST(p.number AS bigint) * 1000000000
      AND e.position < (CAST(p.number AS bigint) + 1) * 1000000000
    ORDER BY e.position DESC
    LIMIT 1
) AS newest ON true
WHERE p.number < CAST(:current AS integer)
  AND COALESCE(newest.logged_at, p.opened_at) < now() - CAST(:retention AS double precision) * INTERVAL '1 second'
ORDER BY p.number

-- name: drop_partition
-- Drop a partition of the log and of history; an error says when someone still needs it.
SELECT pgbus.drop_partition(CAST(:number AS integer)) AS dropped

-- name: release_lanes
-- What waits in the lanes of a listener that is ordered no longer, and of which nobody looks at the lanes any more. Says
-- how many rows that were.
WITH stranded AS MATERIALIZED (
    -- In two parts, for each has its index.
    SELECT x.id
    FROM (
        SELECT d.id
        FROM pgbus.listeners AS l
        JOIN pgbus.deliveries AS d ON d.listener_id = l.id
        WHERE l.lanes IS NULL AND d.lane IS NOT NULL AND d.blocked_key IS NULL AND d.claim_token IS NULL
        UNION ALL
        SELECT d.id
        FROM pgbus.listeners AS l
        JOIN pgbus.deliveries AS d ON d.listener_id = l.id
        WHERE l.lanes IS NULL AND d.blocked_key IS NOT NULL
    ) AS x
    LIMIT CAST(:batch AS bigint)
), free AS MATERIALIZED (
    SELECT d.id
    FROM pgbus.deliveries AS d
    WHERE d.id = ANY (ARRAY(SELECT s.id FROM stranded AS s)) AND d.claim_token IS NULL
    FOR UPDATE SKIP LOCKED
), released AS (
    UPDATE pgbus.deliveries AS d
    SET lane = NULL, blocked_key = NULL, available_at = COALESCE(d.available_at, now())
    WHERE d.id = ANY (ARRAY(SELECT f.id FROM free AS f))
    RETURNING d.listener_id
), woken AS MATERIALIZED (
    SELECT count(*) AS rows, array_agg(DISTINCT r.listener_id) AS listener_ids FROM released AS r
)
SELECT w.rows,
       -- A notification carries less than 8000 bytes: 700 ids, however long they are.
       (SELECT count(pg_notify(CAST(:work_channel AS text), array_to_string(w.listener_ids[n:n + 699], ',')))
        FROM generate_series(1, cardinality(w.listener_ids), 700) AS n) AS told
FROM woken AS w

-- name: prune_dedup_keys
-- Forget dedup keys that have expired. Those that someone takes over at this moment are left out, for locked rows are
-- judged again: the key that was renewed is not the one that had expired.
WITH expired AS MATERIALIZED (
    SELECT k.dedup_key
    FROM pgbus.dedup_keys AS k
    WHERE k.expires_at <= now()
    ORDER BY k.expires_at
    LIMIT CAST(:batch AS bigint)
    FOR UPDATE SKIP LOCKED
)
DELETE FROM pgbus.dedup_keys AS k
WHERE k.dedup_key = ANY (ARRAY(SELECT e.dedup_key FROM expired AS e))

-- name: prune_workers
-- Forget workers that are gone for long.
WITH gone AS MATERIALIZED (
    SELECT w.id
    FROM pgbus.workers AS w
    WHERE w.last_seen_at < now() - CAST(:worker_ttl AS double precision) * INTERVAL '1 second'
      AND w.id <> CAST(:worker_id AS integer)
    FOR UPDATE SKIP LOCKED
)
DELETE FROM pgbus.workers AS w
WHERE w.id = ANY (ARRAY(SELECT g.id FROM gone AS g))
