-- Queries of operators: the work of the last seconds, and calls that run now.

-- name: measure_listeners
-- The attempts of each listener that began within the last seconds: how many ended well and badly, and how long they took.
SELECT a.listener_name,
       count(*) FILTER (WHERE a.outcome = 'done') AS done,
       count(*) FILTER (WHERE a.outcome IN ('retry', 'dead')) AS failed,
       CAST(percentile_cont(0.95) WITHIN GROUP (ORDER BY a.duration)
           FILTER (WHERE a.outcome IN ('done', 'retry', 'dead')) AS double precision) AS p95
FROM pgbus.attempts AS a
WHERE a.started_at >= now() - CAST(:window AS double precision) * INTERVAL '1 second'
  AND a.listener_name IS NOT NULL
GROUP BY a.listener_name

-- name: list_running
-- Calls that live workers have reported, and how long they have run, the longest first.
SELECT r.kind, r.name, r.worker, r.id, r.position, r.topic, r.key, r.events, r.attempt, r.started_at,
       CAST(extract(epoch FROM clock_timestamp() - r.started_at) AS double precision) AS age
FROM pgbus.running AS r
ORDER BY r.started_at

-- name: list_failures
-- The newest failed attempts of a listener that began within the last seconds.
SELECT a.position, a.attempt, a.outcome, a.started_at, CAST(a.duration AS double precision) AS duration, a.worker, a.error
FROM pgbus.attempts AS a
WHERE a.listener_name = CAST(:listener_name AS text)
  AND a.outcome IN ('retry', 'dead')
  AND a.started_at >= now() - CAST(:window AS double precision) * INTERVAL '1 second'
ORDER BY a.started_at DESC
LIMIT CAST(:limit AS bigint)
