-- The leader's statements: from the outbox into the log, and its sleep. All of them run on the session that holds the
-- leader lock, one after the other, so that the order of positions is the order in which it found the events.

-- name: sequence_outbox
-- Move committed outbox rows into the log, and write the runs that are owed to each listener whose subscription matches.
-- A lone event is handed over: its run is written as claimed for those of the leader's own listeners that are idle.
--
-- It takes up to `batch` rows of each kind, due at once and scheduled. When those are more than `batch_bytes`, as they are
-- stored, it takes none and returns `too_big`; but it always takes a single row. Scheduled ones come first, in
-- the order of their `deliver_at`, then the others in that of their ids. `avoid` are rows that someone holds locked.
WITH bound AS MATERIALIZED (
    SELECT count(*) AS rows,
           count(*) > 1 AND sum(w.bytes) > CAST(:batch_bytes AS bigint) AS too_big,
           max(w.id) AS id
    FROM (
        SELECT o.id, pg_column_size(o.payload) + COALESCE(pg_column_size(o.headers), 0) AS bytes
        FROM pgbus.outbox AS o
        WHERE o.id >= CAST(:floor AS bigint) AND o.deliver_at IS NULL
        ORDER BY o.id
        LIMIT CAST(:batch AS bigint)
    ) AS w
), due AS MATERIALIZED (
    -- Someone who cancels a scheduled event holds its row until the end of a transaction that may be long: step over it.
    SELECT o.id, pg_column_size(o.payload) + COALESCE(pg_column_size(o.headers), 0) AS bytes
    FROM pgbus.outbox AS o
    WHERE o.deliver_at >= to_timestamp(CAST(:due_floor AS double precision)) AND o.deliver_at <= now()
    ORDER BY o.deliver_at, o.id
    LIMIT CAST(:batch AS bigint)
    FOR UPDATE SKIP LOCKED
), due_bound AS MATERIALIZED (
    SELECT count(*) AS rows, count(*) > 1 AND sum(d.bytes) > CAST(:batch_bytes AS bigint) AS too_big FROM due AS d
), moved_now AS (
    DELETE FROM pgbus.outbox AS o
    WHERE o.id >= CAST(:floor AS bigint) AND o.id <= (SELECT b.id FROM bound AS b WHERE NOT b.too_big)
      AND o.deliver_at IS NULL
      AND o.id <> ALL (CAST(:avoid AS bigint[]))
    RETURNING o.id, o.event_id, o.topic, o.ancestors, o.key, o.payload, o.headers, o.published_at, o.deliver_at
), moved_due AS (
    DELETE FROM pgbus.outbox AS o
    USING due AS d
    WHERE o.id = d.id AND NOT (SELECT b.too_big FROM due_bound AS b)
    RETURNING o.id, o.event_id, o.topic, o.ancestors, o.key, o.payload, o.headers, o.published_at, o.deliver_at
), numbered AS MATERIALIZED (
    SELECT CAST(:base AS bigint) + row_number() OVER (ORDER BY m.deliver_at, m.id) - 1 AS position, m.*
    FROM (SELECT * FROM moved_now UNION ALL SELECT * FROM moved_due) AS m
), logged AS (
    INSERT INTO pgbus.events
        (position, event_id, topic, ancestors, key, payload, headers, published_at, deliver_at, logged_at)
    SELECT n.position, n.event_id, n.topic, n.ancestors, n.key, n.payload, n.headers, n.published_at, n.deliver_at, now()
    FROM numbered AS n
    ORDER BY n.position
), topics AS MATERIALIZED (
    SELECT DISTINCT n.topic, n.ancestors FROM numbered AS n
), routes AS MATERIALIZED (
    -- A listener with a cursor is not live yet: `backfill_listener` brings it these events too.
    SELECT DISTINCT t.topic, t.ancestors, l.id AS listener_id, l.lanes
    FROM topics AS t
    CROSS JOIN pgbus.subscriptions AS s
    JOIN pgbus.listeners AS l ON l.id = s.listener_id
    WHERE l.cursor IS NULL
      AND (s.pattern = t.topic
           OR s.pattern = ANY (t.ancestors)
           OR (s.regex IS NOT NULL
               AND (t.topic || '.' ~ s.regex
                    OR EXISTS (SELECT 1 FROM unnest(t.ancestors) AS a (topic) WHERE a.topic || '.' ~ s.regex))))
), owed AS (
    SELECT r.listener_id, n.position,
           CASE WHEN r.lanes IS NOT NULL
                THEN (hashtext(COALESCE(n.key, CAST(n.event_id AS text))) & 2147483647) % r.lanes END AS lane
    FROM numbered AS n
    JOIN routes AS r ON r.topic = n.topic AND r.ancestors IS NOT DISTINCT FROM n.ancestors
), placed AS (
    SELECT o.listener_id, o.lane, o.position,
           (row_number() OVER (PARTITION BY o.listener_id, o.lane ORDER BY o.position) - 1) / CAST(:run AS integer) AS run
    FROM owed AS o
), idle AS MATERIALIZED (
    SELECT l.id AS listener_id,
           CAST(:claim_token AS uuid) AS claim_token,
           CAST(:worker_id AS integer) AS worker_id,
           now() + CAST(:lease AS double precision) * INTERVAL '1 second' AS lease_expires_at
    FROM unnest(CAST(:idle_listener_ids AS integer[])) AS i (listener_id)
    JOIN pgbus.listeners AS l ON l.id = i.listener_id
    WHERE l.state = 'active' AND l.lanes IS NULL AND (SELECT count(*) FROM numbered) = 1
), delivered AS (
    INSERT INTO pgbus.deliveries
        (listener_id, lane, first, last, events, positions, claim_token, worker_id, lease_expires_at)
    SELECT p.listener_id, p.lane, min(p.position), max(p.position), count(*),
           CASE WHEN count(*) < max(p.position) - min(p.position) + 1 THEN array_agg(p.position ORDER BY p.position) END,
           i.claim_token, i.worker_id, i.lease_expires_at
    FROM placed AS p
    LEFT JOIN idle AS i ON i.listener_id = p.listener_id
    GROUP BY p.listener_id, p.lane, p.run, i.claim_token, i.worker_id, i.lease_expires_at
    ORDER BY min(p.position)
    RETURNING id, listener_id, claim_token
), woken AS MATERIALIZED (
    SELECT array_agg(DISTINCT d.listener_id) FILTER (WHERE d.claim_token IS NULL) AS listener_ids,
           array_agg(d.id ORDER BY d.id) FILTER (WHERE d.claim_token IS NOT NULL) AS handed_ids,
           array_agg(d.listener_id ORDER BY d.id) FILTER (WHERE d.claim_token IS NOT NULL) AS handed_to
    FROM delivered AS d
)
SELECT (SELECT count(*) FROM numbered) AS moved,
       b.too_big OR d.too_big AS too_big,
       b.rows = CAST(:batch AS bigint) OR d.rows = CAST(:batch AS bigint) AS is_full,
       CASE WHEN b.too_big THEN CAST(:floor AS bigint) - 1 WHEN b.rows = CAST(:batch AS bigint) THEN b.id END AS stopped_at,
       w.listener_ids,
       -- A notification carries less than 8000 bytes: 700 ids, however long they are.
       (SELECT count(pg_notify(CAST(:work_channel AS text), array_to_string(w.listener_ids[n:n + 699], ',')))
        FROM generate_series(1, cardinality(w.listener_ids), 700) AS n
        WHERE CAST(:tell_others AS boolean)) AS told,
       CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS xmin,
       -- An xid that is higher than any given out before. A snapshot's xmax would not do: it is one more than the
       -- highest xid that has *ended*, and a publisher that still runs may well lie above that.
       CASE WHEN CAST(:wants_xid AS boolean) THEN CAST(CAST(pg_current_xact_id() AS text) AS bigint) END AS xid,
       -- Read as a table, whose rights are checked: pg_sequence_last_value is NULL from PostgreSQL 18 on for who has none.
       (SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM pgbus.outbox_id_seq AS s) AS last_id,
       CAST(extract(epoch FROM now()) AS double precision) AS looked_at,
       (SELECT CAST(extract(epoch FROM min(o.deliver_at) - now()) AS double precision)
        FROM pgbus.outbox AS o
        WHERE o.deliver_at > now() AND o.deliver_at < 'infinity') AS next_due,
       w.handed_ids, w.handed_to,
       n.position, n.event_id, n.topic, n.ancestors, n.key, n.payload, n.headers,
       pgbus.readable(n.published_at) AS published_at, pgbus.readable(n.deliver_at) AS deliver_at
FROM woken AS w
CROSS JOIN bound AS b
CROSS JOIN due_bound AS d
LEFT JOIN numbered AS n ON w.handed_ids IS NOT NULL

-- name: backfill_listener
-- Give a listener that is not live yet the next stretch of the log; its cursor becomes NULL, live, at the end of the log.
-- Returns the listener's id, NULL for none, and whether any listener was behind before that.
WITH behind AS MATERIALIZED (
    -- The leader waits for no lock: a listener whose row is locked has its turn later.
    SELECT l.id, l.lanes, l.cursor
    FROM pgbus.listeners AS l
    WHERE l.cursor IS NOT NULL
    ORDER BY l.id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
), stretch AS MATERIALIZED (
    SELECT e.position, e.event_id, e.topic, e.ancestors, e.key
    FROM pgbus.events AS e
    WHERE e.position >= (SELECT b.cursor FROM behind AS b)
    ORDER BY e.position
    LIMIT CAST(:batch AS bigint)
), topics AS MATERIALIZED (
    SELECT DISTINCT s.topic, s.ancestors FROM stretch AS s
), routes AS MATERIALIZED (
    SELECT DISTINCT t.topic, t.ancestors, b.id AS listener_id, b.lanes
    FROM topics AS t
    CROSS JOIN behind AS b
    JOIN pgbus.subscriptions AS s ON s.listener_id = b.id
    WHERE s.pattern = t.topic
       OR s.pattern = ANY (t.ancestors)
       OR (s.regex IS NOT NULL
           AND (t.topic || '.' ~ s.regex
                OR EXISTS (SELECT 1 FROM unnest(t.ancestors) AS a (topic) WHERE a.topic || '.' ~ s.regex)))
), owed AS (
    SELECT r.listener_id, s.position,
           CASE WHEN r.lanes IS NOT NULL
                THEN (hashtext(COALESCE(s.key, CAST(s.event_id AS text))) & 2147483647) % r.lanes END AS lane
    FROM stretch AS s
    JOIN routes AS r ON r.topic = s.topic AND r.ancestors IS NOT DISTINCT FROM s.ancestors
), placed AS (
    SELECT o.listener_id, o.lane, o.position,
           (row_number() OVER (PARTITION BY o.lane ORDER BY o.position) - 1) / CAST(:run AS integer) AS run
    FROM owed AS o
), delivered AS (
    -- Not "ready": only the sequencer may add to those, in the order of the log, for the workers' floors rest on it.
    INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events, positions, available_at)
    SELECT p.listener_id, p.lane, min(p.position), max(p.position), count(*),
           CASE WHEN count(*) < max(p.position) - min(p.position) + 1 THEN array_agg(p.position ORDER BY p.position) END,
           now()
    FROM placed AS p
    GROUP BY p.listener_id, p.lane, p.run
    ORDER BY min(p.position)
), moved AS (
    UPDATE pgbus.listeners AS l
    SET cursor = CASE WHEN (SELECT count(*) FROM stretch) < CAST(:batch AS bigint) THEN NULL
                      ELSE (SELECT max(s.position) + 1 FROM stretch AS s) END
    FROM behind AS b
    WHERE l.id = b.id
    RETURNING l.id
)
SELECT m.id AS listener_id,
       CASE WHEN m.id IS NOT NULL THEN pg_notify(CAST(:work_channel AS text), CAST(m.id AS text)) END AS told,
       EXISTS (SELECT 1 FROM pgbus.listeners AS l WHERE l.cursor IS NOT NULL) AS were_behind
FROM (SELECT 1) AS one
LEFT JOIN moved AS m ON true

-- name: find_locked_events
-- Those of the first rows that `sequence_outbox` would take that another session has locked.
WITH waiting AS MATERIALIZED (
    SELECT o.id
    FROM pgbus.outbox AS o
    WHERE o.id >= CAST(:floor AS bigint) AND o.deliver_at IS NULL
    ORDER BY o.id
    LIMIT CAST(:batch AS bigint)
), free AS MATERIALIZED (
    SELECT o.id
    FROM pgbus.outbox AS o
    WHERE o.id = ANY (ARRAY(SELECT w.id FROM waiting AS w))
    FOR UPDATE SKIP LOCKED
)
SELECT w.id FROM waiting AS w
EXCEPT
SELECT f.id FROM free AS f

-- name: find_log_end
-- The position after the last event of the log, and the highest partition that exists.
SELECT COALESCE((SELECT e.position + 1 FROM pgbus.events AS e ORDER BY e.position DESC LIMIT 1), 0) AS next_position,
       (SELECT max(p.number) FROM pgbus.partitions AS p) AS last_partition

-- name: try_sleep
-- Take the current wake slot for ourselves: true means that no publisher is about to commit without a NOTIFY.
SELECT s.slot, pg_try_advisory_lock(hashtext(CAST(:namespace AS text) || '.wake'), s.slot) AS armed
FROM (SELECT CAST(last_value AS integer) AS slot FROM pgbus.wake_slots) AS s

-- name: wake_up
-- Let publishers share the wake slot again: from here on they need not notify.
SELECT pg_advisory_unlock(hashtext(CAST(:namespace AS text) || '.wake'), CAST(:slot AS integer))

-- name: advance_wake_slot
-- Leave the current slot to the transaction that keeps it, and have publishers use the next one.
SELECT CAST(nextval('pgbus.wake_slots') AS integer) AS slot

-- name: find_held_slots
-- The slots that open transactions share: each may still commit an event without a NOTIFY.
SELECT DISTINCT CAST(CAST(l.objid AS bigint) AS integer) AS slot
FROM pg_locks AS l
WHERE l.locktype = 'advisory'
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND CAST(l.classid AS bigint) = (CAST(hashtext(CAST(:namespace AS text) || '.wake') AS bigint) & 4294967295)
  AND l.objsubid = 2
  AND l.mode = 'ShareLock'

-- name: try_lead
-- Become the leader if there is none; true if this session leads now.
SELECT pg_try_advisory_lock(hashtext(CAST(:namespace AS text) || '.leader'), 1) AS leads

-- name: is_leaderless
-- Whether there is no leader. A try that gets the lock releases it: it is for the session that will lead.
SELECT CASE WHEN pg_try_advisory_lock(hashtext(CAST(:namespace AS text) || '.leader'), 1)
            THEN pg_advisory_unlock(hashtext(CAST(:namespace AS text) || '.leader'), 1)
            ELSE false END AS leaderless

-- name: end_leader
-- End the session with this backend, if it leads.
SELECT pg_terminate_backend(l.pid)
FROM pg_locks AS l
WHERE l.locktype = 'advisory'
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND CAST(l.classid AS bigint) = (CAST(hashtext(CAST(:namespace AS text) || '.leader') AS bigint) & 4294967295)
  AND l.objsubid = 2
  AND l.pid = CAST(:pid AS integer)

-- name: note_leader
-- Write which worker leads, and since when.
WITH changed AS MATERIALIZED (
    SELECT w.id
    FROM pgbus.workers AS w
    WHERE w.id = CAST(:worker_id AS integer) OR w.leading_since IS NOT NULL
    FOR UPDATE SKIP LOCKED
)
UPDATE pgbus.workers AS w
SET leading_since = CASE WHEN w.id = CAST(:worker_id AS integer) THEN now() END
FROM changed AS c
WHERE w.id = c.id

-- name: find_ready_listeners
-- Which of these listeners have something to claim now: a look in case a notification was lost.
SELECT l.id
FROM unnest(CAST(:listener_ids AS integer[])) AS l (id)
WHERE EXISTS (
    SELECT 1 FROM pgbus.deliveries AS d
    WHERE d.listener_id = l.id AND d.lane IS NULL AND d.claim_token IS NULL AND d.available_at IS NULL)
   OR EXISTS (
    SELECT 1 FROM pgbus.deliveries AS d
    WHERE d.listener_id = l.id AND d.lane IS NULL AND d.claim_token IS NULL AND d.available_at <= now())
   OR EXISTS (
    SELECT 1 FROM pgbus.deliveries AS d
    WHERE d.listener_id = l.id AND d.lane IS NOT NULL AND d.blocked_key IS NULL)

-- name: notify
-- Send one notification.
SELECT pg_notify(CAST(:channel AS text), CAST(:payload AS text))
