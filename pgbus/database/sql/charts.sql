-- Queries of the dashboard that `pgbus grafana sql` prints, on the views whose names are stable. Grafana replaces
-- `$__timeFilter(column)` by a condition, and `$__timeGroupAlias(column, $__interval)` by an interval's start as "time".

-- name: chart_scheduled_events
-- The number of events that wait for their deliver_at.
SELECT count(*) AS scheduled
FROM pgbus.scheduled AS s

-- name: chart_workers
-- The workers that are alive.
SELECT w.name, w.service, w.host, w.pid, w.version, array_to_string(w.listeners, ', ') AS listeners,
       w.started_at, w.last_seen_at, w.leading_since
FROM pgbus.live_workers AS w
ORDER BY w.service, w.name

-- name: chart_listeners
-- Every listener, the one that lags most first.
SELECT v.listener_name, v.service, v.state, v.lag_events, v.lag_seconds, v.in_flight, v.retrying, v.blocked, v.dead
FROM pgbus.listener_lag AS v
ORDER BY v.lag_seconds DESC, v.listener_name

-- name: chart_attempts
-- The number of attempts in each interval, by outcome.
SELECT $__timeGroupAlias(a.started_at, $__interval), a.outcome AS metric, count(*) AS value
FROM pgbus.attempts AS a
WHERE $__timeFilter(a.started_at)
GROUP BY 1, 2
ORDER BY 1, 2

-- name: chart_durations
-- The 95th percentile of attempts' durations in each interval, by listener, in seconds.
SELECT $__timeGroupAlias(a.started_at, $__interval), a.listener_name AS metric,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY a.duration) AS value
FROM pgbus.attempts AS a
WHERE $__timeFilter(a.started_at)
GROUP BY 1, 2
ORDER BY 1, 2

-- name: chart_pending
-- The events owed to each listener, by state.
SELECT p.listener_name, p.state, sum(p.events) AS events, min(p.available_at) AS available_from
FROM pgbus.pending AS p
GROUP BY 1, 2
ORDER BY 1, 2

-- name: chart_dead_letters
-- The number of dead letters by listener and the first line of the error.
SELECT d.listener_name, split_part(d.error, E'\n', 1) AS error, count(*) AS dead_letters, max(d.dead_at) AS newest
FROM pgbus.dead AS d
GROUP BY 1, 2
ORDER BY 3 DESC
LIMIT 50

-- name: chart_newest_dead_letters
-- The newest dead letters.
SELECT d.dead_at, d.id, d.listener_name, d.topic, d.key, d.attempts, split_part(d.error, E'\n', 1) AS error
FROM pgbus.dead AS d
ORDER BY d.id DESC
LIMIT 50

-- name: chart_calls
-- The number of calls in each interval, by state.
SELECT $__timeGroupAlias(c.requested_at, $__interval), c.state AS metric, count(*) AS value
FROM pgbus.rpc_calls AS c
WHERE $__timeFilter(c.requested_at)
GROUP BY 1, 2
ORDER BY 1, 2

-- name: chart_call_durations
-- The 95th percentile of calls' durations in each interval, by procedure, in seconds.
SELECT $__timeGroupAlias(c.requested_at, $__interval), c.procedure AS metric,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY c.duration) AS value
FROM pgbus.rpc_calls AS c
WHERE $__timeFilter(c.requested_at)
GROUP BY 1, 2
ORDER BY 1, 2

-- name: chart_schedule_runs
-- The number of runs in each interval, by outcome.
SELECT $__timeGroupAlias(h.started_at, $__interval), h.outcome AS metric, count(*) AS value
FROM pgbus.schedule_history AS h
WHERE $__timeFilter(h.started_at)
GROUP BY 1, 2
ORDER BY 1, 2

-- name: chart_schedules
-- Every schedule, the one that is due first on top.
SELECT t.schedule_name, t.service, t.state, t.rule, t.next_run_at
FROM pgbus.timetable AS t
ORDER BY t.next_run_at NULLS LAST, t.schedule_name
