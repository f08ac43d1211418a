-- Queries of the dashboard: what listeners did lately, and the flow from services to listeners.

-- name: read_intervals
-- What each listener did in each quarter of a minute since an instant (NULL: of the last 15 minutes): the events that it
-- handled, those at which an attempt failed, quantiles of the durations, and for how long the newest event that it had
-- not tried before had been in the log by then, in seconds. A run of events counts with each of its events, and with one
-- duration. `current` is the quarter that is not over.
WITH attempted AS (
    SELECT h.listener_id, date_bin(INTERVAL '15 seconds', h.started_at, to_timestamp(0)) AS beginning, h.started_at,
           h.outcome, COALESCE(h.duration, h.durations[1]) AS duration, h.attempt, h.first,
           COALESCE(cardinality(h.offsets), h.span + 1) AS events
    FROM pgbus.history AS h
    WHERE h.started_at >= COALESCE(
        CAST(:since AS timestamptz), date_bin(INTERVAL '15 seconds', now() - INTERVAL '15 minutes', to_timestamp(0)))
), counted AS (
    SELECT a.listener_id, a.beginning,
           COALESCE(CAST(sum(a.events) FILTER (WHERE a.outcome = 'done') AS bigint), 0) AS done,
           COALESCE(CAST(sum(a.events) FILTER (WHERE a.outcome IN ('retry', 'dead')) AS bigint), 0) AS failed,
           percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY a.duration) AS quantiles,
           max(a.first) FILTER (WHERE a.attempt = 1) AS newest, max(a.started_at) FILTER (WHERE a.attempt = 1) AS newest_at
    FROM attempted AS a
    GROUP BY a.listener_id, a.beginning
)
SELECT now_.current, c.beginning, c.listener_name, c.done, c.failed, c.quantiles, c.lag
FROM (SELECT date_bin(INTERVAL '15 seconds', now(), to_timestamp(0)) AS current) AS now_
LEFT JOIN (
    SELECT c.beginning, l.listener_name, c.done, c.failed, c.quantiles,
           (SELECT GREATEST(0, CAST(extract(epoch FROM c.newest_at - e.logged_at) AS double precision))
            FROM pgbus.events AS e WHERE e.position = c.newest) AS lag
    FROM counted AS c
    JOIN pgbus.listeners AS l ON l.id = c.listener_id
) AS c ON true

-- name: read_flow
-- What flows where: for each topic and listener that hears it, the topic's events among the last 10,000 (0: declared and
-- not seen lately) and how many of them there are in a second, the services that publish it or declare it, and the
-- listener's service. `listener_name` is NULL for a topic that nobody hears.
WITH latest AS MATERIALIZED (
    SELECT x.topic, x.published_by, x.logged_at FROM pgbus.events AS x ORDER BY x.position DESC LIMIT 10000
), seen AS (
    SELECT e.topic, count(*) AS events, array_agg(DISTINCT e.published_by) AS publishers
    FROM latest AS e
    GROUP BY e.topic
), declared AS (
    -- By who publishes it, or by who hears it and nothing else.
    SELECT d.topic, array_agg(DISTINCT d.service) FILTER (WHERE d.service <> '') AS services
    FROM (
        SELECT v.name AS topic, v.service FROM pgbus.schemas AS v WHERE v.kind = 'event'
        UNION ALL
        SELECT s.pattern, '' FROM pgbus.subscriptions AS s WHERE s.regex IS NULL
    ) AS d
    GROUP BY d.topic
), topics AS (
    SELECT COALESCE(s.topic, d.topic) AS topic, COALESCE(s.events, 0) AS events, s.publishers, d.services
    FROM seen AS s
    FULL JOIN declared AS d ON d.topic = s.topic
)
SELECT t.topic, t.events,
       CAST(t.events / GREATEST(1, extract(epoch FROM now() - (SELECT min(r.logged_at) FROM latest AS r)))
           AS double precision) AS rate,
       COALESCE(t.publishers, t.services, '{}') AS services, l.listener_name, l.service AS listener_service
FROM topics AS t
LEFT JOIN LATERAL (
    SELECT DISTINCT x.listener_name, x.service
    FROM pgbus.subscriptions AS s
    JOIN pgbus.listeners AS x ON x.id = s.listener_id
    WHERE CASE WHEN s.regex IS NULL THEN s.pattern = t.topic ELSE t.topic || '.' ~ s.regex END
) AS l ON true
ORDER BY t.topic, l.listener_name

-- name: read_tree
-- The first rows of the tree that an event, call or run is part of, each with its service (that of the process, where a
-- process is named), and with what became of it: the attempts at an event, or when and where a call was served.
WITH tree AS MATERIALIZED (
    SELECT row_number() OVER () AS number, t.depth, t.kind, t.id, t.causation_id, t.name, t.actor, t.at, t.state, t.position
    FROM pgbus.event_tree(CAST(:member_id AS uuid)) AS t
    LIMIT CAST(:limit AS bigint)
)
SELECT t.depth, t.kind, t.id, t.causation_id, t.name, t.at, t.state,
       COALESCE(CASE WHEN t.kind <> 'event' THEN
           (SELECT w.service FROM pgbus.workers AS w WHERE w.name = t.actor AND w.service <> '' ORDER BY w.id DESC LIMIT 1)
       END, t.actor, '') AS service,
       COALESCE(
           (SELECT w.service FROM pgbus.workers AS w WHERE w.name = c.worker AND w.service <> '' ORDER BY w.id DESC LIMIT 1),
           (SELECT s.service FROM pgbus.schemas AS s WHERE t.kind = 'call' AND s.kind = 'procedure' AND s.name = t.name
            ORDER BY s.published_at DESC LIMIT 1),
           c.worker) AS served_by,
       c.started_at, c.responded_at,
       COALESCE((
           SELECT jsonb_agg(jsonb_build_object(
               'listener_name', h.listener_name, 'service', COALESCE(l.service, ''), 'attempt', h.attempt,
               'outcome', h.outcome, 'started_at', h.started_at, 'duration', COALESCE(h.duration, 0))
               ORDER BY h.started_at, h.listener_name, h.attempt)
           FROM pgbus.event_history AS h
           LEFT JOIN pgbus.listeners AS l ON l.listener_name = h.listener_name
           WHERE h.position = t.position AND h.attempt IS NOT NULL), '[]') AS attempts
FROM tree AS t
LEFT JOIN LATERAL (
    -- One by one, as a join would read all calls.
    SELECT x.worker, x.started_at, x.responded_at FROM pgbus.rpc_calls AS x
    WHERE t.kind = 'call' AND x.call_id = t.id LIMIT 1
) AS c ON true
ORDER BY t.number

-- name: find_window
-- The position of the event that has `events` others between it and `before` (NULL: the end of the log), and when it was
-- logged; no row if there are fewer.
SELECT e.position, e.logged_at
FROM pgbus.events AS e
WHERE e.position < COALESCE(CAST(:before AS bigint), 9223372036854775807)
ORDER BY e.position DESC
OFFSET CAST(:events AS bigint)
LIMIT 1

-- name: read_options
-- What the code of each service declares for a listener now: its options as JSON, the newest declaration first.
SELECT d.service, CAST(d.options AS text) AS options, cardinality(d.worker_ids) AS workers, d.last_seen_at
FROM pgbus.declarations AS d
JOIN pgbus.listeners AS l ON l.id = d.listener_id
WHERE l.listener_name = CAST(:listener_name AS text)
ORDER BY d.first_seen_at DESC
