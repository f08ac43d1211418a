-- Queries of operators: the current state, the history, the calls and the dead letters.

-- name: describe_bus
-- The number of events that are not in the log yet, the age in seconds of the oldest one that is due, the log's last
-- position, and the database's encoding.
SELECT count(*) FILTER (WHERE o.deliver_at IS NULL OR o.deliver_at <= now()) AS outbox_waiting,
       count(*) FILTER (WHERE o.deliver_at > now()) AS outbox_scheduled,
       CAST(COALESCE(
           extract(epoch FROM clock_timestamp() - min(pgbus.readable(COALESCE(o.deliver_at, o.published_at)))
               FILTER (WHERE o.deliver_at IS NULL OR o.deliver_at <= now())), 0) AS double precision) AS outbox_age,
       COALESCE((SELECT max(e.position) FROM pgbus.events AS e), 0) AS log_head,
       current_setting('server_encoding') AS encoding
FROM pgbus.outbox AS o

-- name: find_leader_session
-- The backend that holds the leader's lock, in a row; no row if nobody leads.
SELECT k.pid
FROM pg_locks AS k
WHERE k.locktype = 'advisory'
  AND k.objsubid = 2
  AND k.granted
  AND k.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND k.classid = CAST(hashtext(CAST(:namespace AS text) || '.leader') AS oid)

-- name: list_workers
-- Every worker, whether it is alive (its advisory lock is held), and whether it leads: it became the leader last, and
-- there is a leader.
WITH led AS MATERIALIZED (
    SELECT 1
    FROM pg_locks AS k
    WHERE k.locktype = 'advisory'
      AND k.objsubid = 2
      AND k.granted
      AND k.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND k.classid = CAST(hashtext(CAST(:namespace AS text) || '.leader') AS oid)
)
SELECT w.id, w.name, w.service, w.host, w.pid, w.version, w.listeners, w.failures, w.started_at, w.last_seen_at,
       CAST(extract(epoch FROM clock_timestamp() - w.last_seen_at) AS double precision) AS silent_for,
       l.id IS NOT NULL AS live, COALESCE(l.is_asleep, false) AS asleep,
       l.id IS NOT NULL AND w.leading_since IS NOT NULL AND EXISTS (SELECT 1 FROM led) AS leading,
       w.leading_since
FROM pgbus.workers AS w
LEFT JOIN pgbus.live_workers AS l ON l.id = w.id
ORDER BY w.id

-- name: list_listeners
-- Every listener with its subscriptions and its lag.
SELECT v.listener_name, v.state, v.service,
       ARRAY(SELECT s.pattern FROM pgbus.subscriptions AS s WHERE s.listener_id = l.id ORDER BY s.pattern) AS patterns,
       l.lanes IS NOT NULL AS ordered, l.cursor, l.registered_at, v.last_seen_at,
       v.lag_events, v.lag_seconds, v.in_flight, v.retrying, v.blocked, v.dead,
       COALESCE((SELECT s.about ->> 'owner'
                 FROM pgbus.schemas AS s
                 WHERE s.kind = 'listener' AND s.name = v.listener_name
                 ORDER BY s.published_at DESC, s.version DESC
                 LIMIT 1), '') AS owner,
       CASE WHEN v.blocked = 0 THEN 0
            ELSE (SELECT count(DISTINCT d.blocked_key) FROM pgbus.deliveries AS d WHERE d.listener_id = l.id)
       END AS blocked_keys
FROM pgbus.listener_lag AS v
JOIN pgbus.listeners AS l ON l.listener_name = v.listener_name
ORDER BY v.listener_name

-- name: list_listener_names
-- The names of all listeners.
SELECT l.listener_name
FROM pgbus.listeners AS l
ORDER BY l.listener_name

-- name: find_events
-- Events by any combination of filters (NULL: no filter), each with every attempt at it and the listeners that it is
-- still owed to. `matching` is inlined into both orders, of which the planner drops one, so that each order reads an
-- index in its direction.
WITH debts AS (
    SELECT p.listener_name, d.first, d.last, d.positions, CAST(NULL AS text[]) AS regexes,
           p.state, p.attempt, p.available_at, p.worker, p.last_error
    FROM pgbus.pending AS p
    JOIN pgbus.deliveries AS d ON d.id = p.delivery_id
    UNION ALL
    SELECT l.listener_name, l.cursor, 9223372036854775807, NULL,
           ARRAY(SELECT COALESCE(s.regex, '^' || replace(s.pattern, '.', '\.') || '\.$')
                 FROM pgbus.subscriptions AS s WHERE s.listener_id = l.id),
           'behind', 1, NULL, NULL, NULL
    FROM pgbus.listeners AS l
    WHERE l.cursor IS NOT NULL
), matching AS NOT MATERIALIZED (
    SELECT e.position, e.event_id, e.topic, e.ancestors, e.key, e.payload, e.headers,
           e.published_at, e.deliver_at, e.logged_at
    FROM pgbus.events AS e
    WHERE e.position > CAST(:after AS bigint)
      AND (CAST(:before AS bigint) IS NULL OR e.position < :before)
      AND (CAST(:event_id AS uuid) IS NULL OR e.event_id = :event_id)
      AND (CAST(:key AS text) IS NULL OR e.key = :key)
      AND (CAST(:since AS timestamptz) IS NULL OR e.logged_at >= :since)
      AND (CAST(:until AS timestamptz) IS NULL OR e.logged_at < :until)
      AND (CAST(:topic_regex AS text) IS NULL OR EXISTS (
          SELECT FROM unnest(ARRAY[e.topic] || ARRAY(SELECT unnest(e.ancestors))) AS n (name)
          WHERE n.name || '.' ~ :topic_regex))
      AND (CAST(:name_regex AS text) IS NULL OR e.topic ~ :name_regex)
      AND (CAST(:version_condition AS jsonpath) IS NULL OR
          jsonb_build_object('version', CASE WHEN e.headers ->> 'api_version' ~ '^[0-9]{1,9}$'
                                             THEN CAST(e.headers ->> 'api_version' AS integer) ELSE 1 END)
          @? CAST(:version_condition AS jsonpath))
      AND (CAST(:condition AS jsonpath) IS NULL OR e.payload @? CAST(:condition AS jsonpath))
      AND (CAST(:service AS text) IS NULL OR e.published_by = :service)
      AND (CAST(:outcome AS text) IS NULL OR COALESCE((
          -- One by one, in the blocks that the event lies in: as a join it would read the history from end to end.
          SELECT TRUE FROM pgbus.event_history AS h
          WHERE h.position = e.position AND h.outcome = :outcome LIMIT 1), FALSE))
      AND (CAST(:error AS text) IS NULL OR e.position = ANY (ARRAY(
          SELECT a.position FROM pgbus.attempts AS a
          WHERE a.error IS NOT NULL AND pgbus.has_error(a.error, :error)
            AND (CAST(:since AS timestamptz) IS NULL OR a.started_at >= :since))))
      AND (NOT CAST(:dead AS boolean) OR e.position = ANY (ARRAY(SELECT x.position FROM pgbus.dead_letters AS x)))
      AND (CAST(:owed_to AS text) IS NULL OR (
          e.position >= (SELECT min(b.first) FROM debts AS b WHERE b.listener_name = :owed_to)
          AND e.position <= (SELECT max(b.last) FROM debts AS b WHERE b.listener_name = :owed_to)
          AND EXISTS (
              SELECT FROM debts AS b
              WHERE b.listener_name = :owed_to
                AND e.position BETWEEN b.first AND b.last
                AND (b.positions IS NULL OR e.position = ANY (b.positions))
                AND (b.regexes IS NULL OR EXISTS (
                    SELECT FROM unnest(ARRAY[e.topic] || ARRAY(SELECT unnest(e.ancestors))) AS n (name)
                    WHERE n.name || '.' ~ ANY (b.regexes))))))
), found AS (
    (SELECT m.* FROM matching AS m WHERE CAST(:newest_first AS boolean)
     ORDER BY m.position DESC LIMIT CAST(:limit AS bigint))
    UNION ALL
    (SELECT m.* FROM matching AS m WHERE NOT CAST(:newest_first AS boolean)
     ORDER BY m.position LIMIT CAST(:limit AS bigint))
)
SELECT f.position, f.event_id, f.topic, f.ancestors, f.key, f.payload, f.headers,
       f.published_at, f.deliver_at, f.logged_at,
       COALESCE((
           SELECT jsonb_agg(jsonb_build_object(
               'listener_name', h.listener_name, 'attempt', h.attempt, 'outcome', h.outcome,
               'started_at', h.started_at, 'duration', h.duration, 'worker', h.worker, 'error', h.error)
               ORDER BY h.started_at, h.listener_name, h.attempt)
           FROM pgbus.event_history AS h
           WHERE h.position = f.position AND h.attempt IS NOT NULL), '[]') AS attempts,
       COALESCE((
           SELECT jsonb_agg(jsonb_build_object(
               'listener_name', b.listener_name, 'state', b.state, 'attempt', b.attempt,
               'available_at', pgbus.readable(b.available_at), 'worker', b.worker, 'last_error', b.last_error)
               ORDER BY b.listener_name)
           FROM debts AS b
           WHERE f.position BETWEEN b.first AND b.last
             AND (b.positions IS NULL OR f.position = ANY (b.positions))
             AND (b.regexes IS NULL OR EXISTS (
                 SELECT FROM unnest(ARRAY[f.topic] || ARRAY(SELECT unnest(f.ancestors))) AS n (name)
                 WHERE n.name || '.' ~ ANY (b.regexes)))), '[]') AS owed,
       COALESCE((
           SELECT jsonb_agg(jsonb_build_object('listener_name', l.listener_name, 'dead_letter', x.id)
                            ORDER BY l.listener_name, x.id)
           FROM pgbus.dead_letters AS x
           JOIN pgbus.listeners AS l ON l.id = x.listener_id
           WHERE x.position = f.position), '[]') AS given_up
FROM found AS f
ORDER BY CASE WHEN CAST(:newest_first AS boolean) THEN -f.position ELSE f.position END

-- name: find_calls
-- Calls by any combination of filters (NULL: no filter), newest first, in the order of their ids. The view reads the
-- clock for each row, so an ORDER BY on it cannot use the index: the ids are selected first. With an error they come
-- from the few responses that are errors, not from a look at the response of each call.
SELECT c.call_id, c.procedure, CAST(c.arguments AS text) AS arguments, c.caller, c.worker, c.state,
       c.requested_at, c.deadline, c.started_at, c.responded_at, c.duration,
       CAST(c.result AS text) AS result, c.error_type, c.error, c.traceback
FROM pgbus.rpc_calls AS c
WHERE c.call_id = ANY (ARRAY(
    SELECT r.call_id
    FROM pgbus.rpc_requests AS r
    WHERE (CAST(:call_id AS uuid) IS NULL OR r.call_id = :call_id)
      AND (CAST(:name_regex AS text) IS NULL OR r.procedure ~ :name_regex)
      AND (CAST(:since AS timestamptz) IS NULL OR r.requested_at >= :since)
      AND (CAST(:until AS timestamptz) IS NULL OR r.requested_at < :until)
      AND (CAST(:condition AS jsonpath) IS NULL
          OR pgbus.searchable(r.arguments) @? CAST(:condition AS jsonpath))
      AND (CAST(:error AS text) IS NULL OR r.call_id = ANY (ARRAY(
          SELECT f.call_id FROM pgbus.rpc_calls AS f
          WHERE f.error IS NOT NULL AND pgbus.has_error(concat_ws(': ', f.error_type, f.error), :error))))
    ORDER BY r.call_id DESC
    LIMIT CAST(:limit AS bigint)))
ORDER BY c.call_id DESC

-- name: read_log_head
-- The last position of the log, 0 when it is empty.
SELECT COALESCE(max(e.position), 0) AS log_head
FROM pgbus.events AS e

-- name: find_position_at
-- The position of the first event that entered the log at or after an instant, else the end of the log. A binary search
-- over positions: an index on the instant would not help, because all later rows match.
WITH RECURSIVE halves (low, high) AS (
    SELECT CAST(0 AS bigint),
           COALESCE((SELECT e.position + 1 FROM pgbus.events AS e ORDER BY e.position DESC LIMIT 1), 0)
    UNION ALL
    SELECT CASE WHEN probe.logged_at < CAST(:instant AS timestamptz) THEN probe.position + 1 ELSE h.low END,
           CASE WHEN probe.logged_at < CAST(:instant AS timestamptz) THEN h.high ELSE (h.low + h.high) / 2 END
    FROM halves AS h
    LEFT JOIN LATERAL (
        SELECT e.position, e.logged_at
        FROM pgbus.events AS e
        WHERE e.position >= (h.low + h.high) / 2 AND e.position < h.high
        ORDER BY e.position
        LIMIT 1
    ) AS probe ON true
    WHERE h.low < h.high
)
SELECT COALESCE((SELECT e.position FROM pgbus.events AS e WHERE e.position >= h.low ORDER BY e.position LIMIT 1), h.low)
       AS position
FROM halves AS h
WHERE h.low = h.high

-- name: match_dead_letters
-- Ids of the dead letters that a filter accepts, newest first; the filter is that of operations.
SELECT f.id
FROM pgbus.find_failures('retry', CAST(CAST(:filter AS text) AS jsonb), 0, 9223372036854775807) AS f
ORDER BY f.id DESC
LIMIT CAST(:limit AS bigint)

-- name: read_dead_letters
-- Dead letters with their events, newest first: how many later events wait for each, and how often operators
-- retried or replayed them before.
SELECT x.id, l.listener_name, e.position, e.event_id, e.topic, e.ancestors, e.key, e.payload, e.headers,
       e.published_at, e.deliver_at, x.attempts, x.error, x.fingerprint, x.traceback, x.worker, x.dead_at, x.blocked_key,
       (SELECT count(*) FROM pgbus.deliveries AS d
        WHERE d.listener_id = x.listener_id AND d.blocked_key = x.blocked_key) AS blocked,
       (SELECT count(*) FROM pgbus.operation_items AS i
        JOIN pgbus.operations AS o ON o.id = i.operation_id AND o.verb IN ('retry', 'replay')
        WHERE i.position = x.position AND i.listener_name = l.listener_name) AS retried
FROM pgbus.dead_letters AS x
JOIN pgbus.listeners AS l ON l.id = x.listener_id
JOIN pgbus.events AS e ON e.position = x.position
WHERE x.id = ANY (CAST(:ids AS bigint[]))
ORDER BY x.id DESC

-- name: summarize_dead_letters
-- Dead letters by their listener and fingerprint, or the kind of their error where they have none, the largest group
-- first; `sample` is the newest of each, `trend` how many died in each of the last 24 hours, the oldest first.
WITH letters AS (
    SELECT x.*, l.listener_name, COALESCE(x.fingerprint, pgbus.error_kind(x.error)) AS kind,
           EXISTS (SELECT FROM pgbus.operation_items AS i
                   JOIN pgbus.operations AS o ON o.id = i.operation_id AND o.verb IN ('retry', 'replay')
                   WHERE i.position = x.position AND i.listener_name = l.listener_name) AS retried
    FROM pgbus.dead_letters AS x
    JOIN pgbus.listeners AS l ON l.id = x.listener_id
    WHERE x.id = ANY (CAST(:ids AS bigint[]))
), hourly AS MATERIALIZED (
    SELECT x.listener_name, x.kind, CAST(floor(extract(epoch FROM now() - x.dead_at) / 3600) AS integer) AS hours_ago,
           count(*) AS letters
    FROM letters AS x
    WHERE x.dead_at > now() - INTERVAL '24 hours'
    GROUP BY 1, 2, 3
), groups AS (
    SELECT x.listener_name, x.kind, count(*) AS letters, min(x.dead_at) AS first_at, max(x.dead_at) AS last_at,
           max(x.id) AS sample, count(*) FILTER (WHERE x.retried) AS retried,
           count(DISTINCT x.blocked_key) AS blocked_keys
    FROM letters AS x
    GROUP BY x.listener_name, x.kind
)
SELECT g.listener_name, g.kind AS error, g.letters, g.first_at, g.last_at, g.sample,
       (SELECT pgbus.error_kind(x.error) FROM pgbus.dead_letters AS x WHERE x.id = g.sample) AS example,
       ARRAY(SELECT COALESCE(sum(h.letters), 0)
             FROM generate_series(23, 0, -1) AS a (hours_ago)
             LEFT JOIN hourly AS h
                 ON h.listener_name = g.listener_name AND h.kind = g.kind AND GREATEST(h.hours_ago, 0) = a.hours_ago
             GROUP BY a.hours_ago
             ORDER BY a.hours_ago DESC) AS trend,
       g.retried, g.blocked_keys
FROM groups AS g
ORDER BY g.letters DESC, g.listener_name, g.kind
