-- Queries of the dashboard: rates, and the flow from services to listeners.

-- name: read_rates
-- For each quarter of a minute of the last 15 minutes: the events that listeners handled (of one listener, unless
-- `listener_name` is NULL), the attempts that failed, and quantiles of the durations in seconds. A run of events counts
-- with each of its events, and with one duration.
WITH attempted AS (
    SELECT date_bin(INTERVAL '15 seconds', h.started_at, to_timestamp(0)) AS beginning,
           h.outcome, h.duration, COALESCE(cardinality(h.offsets), h.span + 1) AS events
    FROM pgbus.history AS h
    WHERE h.started_at > now() - INTERVAL '15 minutes'
      AND (CAST(:listener_name AS text) IS NULL
           OR h.listener_id = (SELECT l.id FROM pgbus.listeners AS l WHERE l.listener_name = :listener_name))
), counted AS (
    SELECT a.beginning,
           CAST(sum(a.events) FILTER (WHERE a.outcome = 'done') AS bigint) AS done,
           CAST(sum(a.events) FILTER (WHERE a.outcome IN ('retry', 'dead')) AS bigint) AS failed,
           percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY a.duration) AS quantiles
    FROM attempted AS a
    GROUP BY a.beginning
)
SELECT s.beginning, COALESCE(c.done, 0) AS done, COALESCE(c.failed, 0) AS failed, c.quantiles
FROM generate_series(
    date_bin(INTERVAL '15 seconds', now() - INTERVAL '15 minutes', to_timestamp(0))
        + INTERVAL '15 seconds',
    now(), INTERVAL '15 seconds') AS s (beginning)
LEFT JOIN counted AS c ON c.beginning = s.beginning
ORDER BY s.beginning

-- name: read_flow
-- What flows where: for each topic and listener that hears it, the topic's events among the last 10,000 (0: declared and
-- not seen lately), the services that declare it, and the listener's service. `listener_name` is NULL for a topic that
-- nobody hears.
WITH seen AS (
    SELECT e.topic, count(*) AS events
    FROM (SELECT x.topic FROM pgbus.events AS x ORDER BY x.position DESC LIMIT 10000) AS e
    GROUP BY e.topic
), topics AS (
    SELECT COALESCE(s.topic, d.name) AS topic, COALESCE(s.events, 0) AS events, COALESCE(d.services, '{}') AS services
    FROM seen AS s
    FULL JOIN (
        SELECT v.name, array_agg(DISTINCT v.service) FILTER (WHERE v.service <> '') AS services
        FROM pgbus.schemas AS v
        WHERE v.kind = 'event'
        GROUP BY v.name
    ) AS d ON d.name = s.topic
)
SELECT t.topic, t.events, t.services, l.listener_name, l.service AS listener_service
FROM topics AS t
LEFT JOIN LATERAL (
    SELECT DISTINCT x.listener_name, x.service
    FROM pgbus.subscriptions AS s
    JOIN pgbus.listeners AS x ON x.id = s.listener_id
    WHERE CASE WHEN s.regex IS NULL THEN s.pattern = t.topic ELSE t.topic || '.' ~ s.regex END
) AS l ON true
ORDER BY t.topic, l.listener_name
