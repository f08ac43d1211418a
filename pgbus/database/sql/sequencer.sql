-- The leader's statements: from the outbox into the log, and its sleep. All of them run on the session that holds the
-- leader lock, one after the other, so that the order of positions is the order in which it found the events.
--
-- A look reads first (ids, topics, lanes), and then writes once. To whom events are owed the leader knows by itself; the
-- write is refused when that has changed, for which it looks into `route_changes`.

-- name: read_outbox
-- The rows above `high`, in the order of their ids, and the snapshot in which they were read: the first row, without an
-- id. Scheduled ones are among them, with their instants. `hashes`: tell each event's lane hash.
SELECT CAST(NULL AS bigint) AS id, CAST(pg_current_snapshot() AS text) AS topic, CAST(NULL AS text[]) AS ancestors,
       CAST(NULL AS integer) AS hash, CAST(NULL AS integer) AS bytes, CAST(NULL AS double precision) AS deliver_at
UNION ALL
(SELECT o.id, o.topic, o.ancestors,
        CASE WHEN CAST(:hashes AS boolean) THEN hashtext(COALESCE(o.key, CAST(o.event_id AS text))) END,
        pg_column_size(o.payload) + COALESCE(pg_column_size(o.headers), 0),
        CAST(extract(epoch FROM o.deliver_at) AS double precision)
 FROM pgbus.outbox AS o
 WHERE o.id > CAST(:high AS bigint)
 ORDER BY o.id
 LIMIT CAST(:batch AS bigint))

-- name: read_outbox_and_holes
-- The same, and before it the rows that have appeared in the holes below `high`: ids from `lows` up to, but not including,
-- `ends`. In one statement, so in one snapshot: or else a transaction that ends between two would be seen by its later
-- event before its earlier one. `scheduled`: also rows that are scheduled.
SELECT CAST(NULL AS bigint) AS id, CAST(pg_current_snapshot() AS text) AS topic, CAST(NULL AS text[]) AS ancestors,
       CAST(NULL AS integer) AS hash, CAST(NULL AS integer) AS bytes, CAST(NULL AS double precision) AS deliver_at
UNION ALL
(SELECT x.*
 FROM unnest(CAST(:lows AS bigint[]), CAST(:ends AS bigint[])) AS h (low, high)
 CROSS JOIN LATERAL (
     SELECT o.id, o.topic, o.ancestors,
            CASE WHEN CAST(:hashes AS boolean) THEN hashtext(COALESCE(o.key, CAST(o.event_id AS text))) END,
            pg_column_size(o.payload) + COALESCE(pg_column_size(o.headers), 0),
            CAST(extract(epoch FROM o.deliver_at) AS double precision)
     FROM pgbus.outbox AS o
     WHERE o.id >= h.low AND o.id < h.high AND (o.deliver_at IS NULL OR CAST(:scheduled AS boolean))
     ORDER BY o.id
     LIMIT CAST(:batch AS bigint)
 ) AS x
 ORDER BY x.id
 LIMIT CAST(:batch AS bigint))
UNION ALL
(SELECT o.id, o.topic, o.ancestors,
        CASE WHEN CAST(:hashes AS boolean) THEN hashtext(COALESCE(o.key, CAST(o.event_id AS text))) END,
        pg_column_size(o.payload) + COALESCE(pg_column_size(o.headers), 0),
        CAST(extract(epoch FROM o.deliver_at) AS double precision)
 FROM pgbus.outbox AS o
 WHERE o.id > CAST(:high AS bigint)
 ORDER BY o.id
 LIMIT CAST(:batch AS bigint))

-- name: log_event
-- Move one row into the log, with the deliveries that are owed of it; those that are `claimed` go to a worker at once, and
-- then the event is returned with each. Returns no row, and does nothing, when the routes have changed.
-- `wakes` are what to tell other workers.
WITH moved AS (
    DELETE FROM pgbus.outbox AS o
    WHERE o.id = CAST(:id AS bigint) AND NOT EXISTS (SELECT FROM pgbus.route_changes)
    RETURNING o.event_id, o.topic, o.ancestors, o.key, o.payload, o.headers, o.published_at, o.deliver_at,
              o.published_by
), logged AS (
    INSERT INTO pgbus.events
        (position, event_id, topic, ancestors, key, payload, headers, published_at, deliver_at, published_by, logged_at)
    SELECT CAST(:base AS bigint), m.event_id, m.topic, m.ancestors, m.key, m.payload, m.headers, m.published_at,
           m.deliver_at, m.published_by, now()
    FROM moved AS m
), caused AS (
    INSERT INTO pgbus.causes (position, id, correlation_id, causation_id)
    SELECT CAST(:base AS bigint), m.event_id, pgbus.correlation_of(m.event_id, m.headers),
           pgbus.uuid_or_null(m.headers ->> 'causation_id')
    FROM moved AS m
    WHERE m.headers ?| '{correlation_id,causation_id}'
), delivered AS (
    INSERT INTO pgbus.deliveries
        (listener_id, lane, first, last, events, claim_token, worker_id, lease_expires_at)
    SELECT r.listener_id, r.lane, CAST(:base AS bigint), CAST(:base AS bigint), 1,
           CASE WHEN r.claimed THEN CAST(:claim_token AS uuid) END,
           CASE WHEN r.claimed THEN CAST(:worker_id AS integer) END,
           CASE WHEN r.claimed THEN now() + CAST(:lease AS double precision) * INTERVAL '1 second' END
    FROM moved AS m
    CROSS JOIN unnest(CAST(:listener_ids AS integer[]), CAST(:lanes AS smallint[]), CAST(:claimed AS boolean[]))
        AS r (listener_id, lane, claimed)
    RETURNING id, listener_id, claim_token
)
SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint) AS xid,
       (SELECT count(pg_notify(CAST(:work_channel AS text), w.payload))
        FROM unnest(CAST(:wakes AS text[])) AS w (payload)) AS told,
       CAST(extract(epoch FROM clock_timestamp()) AS double precision) AS claimed_at,
       d.id AS delivery_id, d.listener_id, CAST(NULL AS smallint) AS lane, CAST(:base AS bigint) AS last, 1 AS events,
       CAST(:base AS bigint) AS position,
       CASE WHEN d.id IS NOT NULL THEN m.event_id END AS event_id, m.topic, m.ancestors, m.key,
       CASE WHEN d.id IS NOT NULL THEN m.payload END AS payload,
       CASE WHEN d.id IS NOT NULL THEN m.headers END AS headers,
       pgbus.readable(m.published_at) AS published_at, pgbus.readable(m.deliver_at) AS deliver_at
FROM moved AS m
LEFT JOIN delivered AS d ON d.claim_token IS NOT NULL

-- name: read_and_log_event
-- `read_outbox`, and `log_event` at once if what is read is a single event that is due and has the topics of a guess.
-- The first row is the snapshot; then come the rows that were read, or the event that was moved, which has an `xid`, once
-- for each delivery that is `claimed`. Of each guess, by its number: topic and ancestors, deliveries, and what to tell
-- other workers.
--
-- The event's id is a value, for which only the primary key will do. For the join alone the planner would read the whole
-- table, once vacuum has counted that hardly a row lives: all of its dead ones, while someone holds a snapshot.
WITH found AS MATERIALIZED (
    SELECT o.id, o.topic, o.ancestors,
           CASE WHEN CAST(:hashes AS boolean) THEN hashtext(COALESCE(o.key, CAST(o.event_id AS text))) END AS hash,
           pg_column_size(o.payload) + COALESCE(pg_column_size(o.headers), 0) AS bytes,
           CAST(extract(epoch FROM o.deliver_at) AS double precision) AS deliver_at
    FROM pgbus.outbox AS o
    WHERE o.id > CAST(:high AS bigint)
    ORDER BY o.id
    LIMIT CAST(:batch AS bigint)
), guessed AS MATERIALIZED (
    SELECT f.id, f.hash, g.number
    FROM found AS f
    JOIN unnest(CAST(:topics AS text[]), CAST(:ancestors AS text[])) WITH ORDINALITY AS g (topic, ancestors, number)
      ON g.topic = f.topic AND string_to_array(g.ancestors, ' ') IS NOT DISTINCT FROM f.ancestors
    WHERE f.deliver_at IS NULL
      AND (SELECT count(*) FROM found) = 1
      AND NOT EXISTS (SELECT FROM pgbus.route_changes)
), moved AS (
    DELETE FROM pgbus.outbox AS o
    USING guessed AS g
    WHERE o.id = g.id
      AND o.id = (SELECT min(f.id) FROM found AS f)
    RETURNING o.id, o.event_id, o.topic, o.ancestors, o.key, o.payload, o.headers, o.published_at, o.published_by,
              g.hash, g.number
), logged AS (
    INSERT INTO pgbus.events
        (position, event_id, topic, ancestors, key, payload, headers, published_at, published_by, logged_at)
    SELECT CAST(:base AS bigint), m.event_id, m.topic, m.ancestors, m.key, m.payload, m.headers, m.published_at,
           m.published_by, now()
    FROM moved AS m
), caused AS (
    INSERT INTO pgbus.causes (position, id, correlation_id, causation_id)
    SELECT CAST(:base AS bigint), m.event_id, pgbus.correlation_of(m.event_id, m.headers),
           pgbus.uuid_or_null(m.headers ->> 'causation_id')
    FROM moved AS m
    WHERE m.headers ?| '{correlation_id,causation_id}'
), delivered AS (
    INSERT INTO pgbus.deliveries
        (listener_id, lane, first, last, events, claim_token, worker_id, lease_expires_at)
    SELECT r.listener_id, CASE WHEN r.lanes IS NOT NULL THEN (m.hash & 2147483647) % r.lanes END,
           CAST(:base AS bigint), CAST(:base AS bigint), 1,
           CASE WHEN r.claimed THEN CAST(:claim_token AS uuid) END,
           CASE WHEN r.claimed THEN CAST(:worker_id AS integer) END,
           CASE WHEN r.claimed THEN now() + CAST(:lease AS double precision) * INTERVAL '1 second' END
    FROM moved AS m
    JOIN unnest(CAST(:numbers AS integer[]), CAST(:listener_ids AS integer[]), CAST(:lanes AS smallint[]),
                CAST(:claimed AS boolean[])) AS r (number, listener_id, lanes, claimed) ON r.number = m.number
    RETURNING id, listener_id, claim_token
)
SELECT CAST(NULL AS bigint) AS id, CAST(pg_current_snapshot() AS text) AS topic, CAST(NULL AS text[]) AS ancestors,
       CAST(NULL AS integer) AS hash, CAST(NULL AS integer) AS bytes, CAST(NULL AS double precision) AS deliver_at,
       CAST(NULL AS bigint) AS xid, CAST(NULL AS double precision) AS claimed_at, CAST(NULL AS bigint) AS delivery_id,
       CAST(NULL AS integer) AS listener_id, CAST(NULL AS smallint) AS lane, CAST(NULL AS bigint) AS last,
       CAST(NULL AS integer) AS events,
       CAST(NULL AS bigint) AS position, CAST(NULL AS uuid) AS event_id,
       CAST(NULL AS text) AS key, CAST(NULL AS jsonb) AS payload, CAST(NULL AS jsonb) AS headers,
       CAST(NULL AS timestamptz) AS published_at, CAST(NULL AS bigint) AS told
UNION ALL
SELECT m.id, m.topic, m.ancestors, m.hash, 0, NULL,
       CAST(CAST(pg_current_xact_id() AS text) AS bigint), CAST(extract(epoch FROM clock_timestamp()) AS double precision),
       d.id, d.listener_id, NULL, CAST(:base AS bigint), 1, CAST(:base AS bigint), CASE WHEN d.id IS NOT NULL THEN m.event_id END, m.key,
       CASE WHEN d.id IS NOT NULL THEN m.payload END, CASE WHEN d.id IS NOT NULL THEN m.headers END,
       pgbus.readable(m.published_at),
       (SELECT count(pg_notify(CAST(:work_channel AS text), w.payload))
        FROM unnest(CAST(:wake_numbers AS integer[]), CAST(:wakes AS text[])) AS w (number, payload)
        WHERE w.number = m.number)
FROM moved AS m
LEFT JOIN delivered AS d ON d.claim_token IS NOT NULL
UNION ALL
SELECT f.id, f.topic, f.ancestors, f.hash, f.bytes, f.deliver_at, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL
FROM found AS f
WHERE NOT EXISTS (SELECT FROM moved)

-- name: log_events
-- Move rows into the log, from position `base` on, in the order of their instants and ids, which is that of `ids`; with the
-- deliveries that are owed of them, by columns. Those that are `claimed` go to a worker at once, and then their events are
-- returned; of an ordered listener only those whose lanes are empty, from `lane_floors` on or of what came back. Returns no
-- row, and does nothing, when the routes have changed.
-- A row that someone deleted by hand meanwhile leaves its position empty: deliveries already count on it.
WITH moved AS (
    DELETE FROM pgbus.outbox AS o
    WHERE o.id = ANY (CAST(:ids AS bigint[])) AND NOT EXISTS (SELECT FROM pgbus.route_changes)
    RETURNING o.id, o.event_id, o.topic, o.ancestors, o.key, o.payload, o.headers, o.published_at, o.deliver_at,
              o.published_by
), numbered AS MATERIALIZED (
    SELECT CAST(:base AS bigint) - 1 + CASE
               WHEN count(*) OVER () = cardinality(CAST(:ids AS bigint[]))
               THEN row_number() OVER (ORDER BY m.deliver_at, m.id)
               ELSE array_position(CAST(:ids AS bigint[]), m.id) END AS position,
           m.*
    FROM moved AS m
), logged AS (
    INSERT INTO pgbus.events
        (position, event_id, topic, ancestors, key, payload, headers, published_at, deliver_at, published_by, logged_at)
    SELECT n.position, n.event_id, n.topic, n.ancestors, n.key, n.payload, n.headers, n.published_at, n.deliver_at,
           n.published_by, now()
    FROM numbered AS n
    ORDER BY n.position
), caused AS (
    INSERT INTO pgbus.causes (position, id, correlation_id, causation_id)
    SELECT n.position, n.event_id, pgbus.correlation_of(n.event_id, n.headers),
           pgbus.uuid_or_null(n.headers ->> 'causation_id')
    FROM numbered AS n
    WHERE n.headers ?| '{correlation_id,causation_id}'
), delivered AS (
    INSERT INTO pgbus.deliveries
        (listener_id, lane, first, last, events, positions, claim_token, worker_id, lease_expires_at)
    SELECT o.listener_id, o.lane, o.first, o.last, o.events, CAST(o.positions AS bigint[]),
           CASE WHEN o.claimed THEN CAST(:claim_token AS uuid) END,
           CASE WHEN o.claimed THEN CAST(:worker_id AS integer) END,
           CASE WHEN o.claimed THEN now() + CAST(:lease AS double precision) * INTERVAL '1 second' END
    FROM (
        -- A level of its own, so that the volatile function is called once for each.
        SELECT d.listener_id, d.lane, d.first, d.last, d.events, d.positions,
               CASE WHEN d.claimed AND d.lane IS NOT NULL THEN pgbus.take_empty_lane(d.listener_id, d.lane, d.floor)
                    ELSE d.claimed END AS claimed
        FROM unnest(
            CAST(:listener_ids AS integer[]), CAST(:lanes AS smallint[]), CAST(:firsts AS bigint[]),
            CAST(:lasts AS bigint[]), CAST(:sizes AS integer[]), CAST(:positions AS text[]),
            CAST(:claimed AS boolean[]), CAST(:lane_floors AS bigint[])
        ) AS d (listener_id, lane, first, last, events, positions, claimed, floor)
        WHERE EXISTS (SELECT FROM numbered)
    ) AS o
    RETURNING id, listener_id, lane, first, last, events, positions, claim_token
)
SELECT m.moved, m.xid, m.told, CAST(extract(epoch FROM clock_timestamp()) AS double precision) AS claimed_at,
       d.id AS delivery_id, d.listener_id, d.lane, d.last, d.events, n.position, n.event_id, n.topic, n.ancestors, n.key,
       n.payload, n.headers, pgbus.readable(n.published_at) AS published_at, pgbus.readable(n.deliver_at) AS deliver_at
FROM (
    SELECT (SELECT count(*) FROM numbered) AS moved,
           CAST(CAST(pg_current_xact_id() AS text) AS bigint) AS xid,
           (SELECT count(pg_notify(CAST(:work_channel AS text), w.payload))
            FROM unnest(CAST(:wakes AS text[])) AS w (payload)) AS told
) AS m
LEFT JOIN (
    delivered AS d
    JOIN numbered AS n ON n.position BETWEEN d.first AND d.last
                      AND (d.positions IS NULL OR n.position = ANY (d.positions))
) ON d.claim_token IS NOT NULL
WHERE NOT EXISTS (SELECT FROM pgbus.route_changes)
ORDER BY n.position

-- name: take_xid
-- An xid that is higher than any given out before.
SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint) AS xid

-- name: load_routes
-- Who is to hear what: the live listeners and their patterns. Those with a cursor are not live yet: `backfill_listener`
-- brings them their events. From this snapshot on, each change of these rows adds a row in `route_changes`.
--
-- Events that were logged while a removal had not committed yet are owed to a listener that is gone. All of them were
-- written before this snapshot, in which the removal is seen, and from which on no event is logged by the old routes.
WITH seen AS (
    DELETE FROM pgbus.route_changes AS c RETURNING c.listener_id
), removed AS MATERIALIZED (
    SELECT s.listener_id
    FROM seen AS s
    WHERE (EXISTS (SELECT 1 FROM pgbus.listeners AS l WHERE l.id = s.listener_id)) IS FALSE
), orphans AS MATERIALIZED (
    -- Without a removal, which is the rule, nothing is read.
    SELECT d.id
    FROM pgbus.deliveries AS d
    WHERE EXISTS (SELECT 1 FROM removed) AND d.listener_id = ANY (ARRAY(SELECT r.listener_id FROM removed AS r))
    FOR UPDATE SKIP LOCKED
), dropped AS (
    DELETE FROM pgbus.deliveries AS d WHERE d.id = ANY (ARRAY(SELECT o.id FROM orphans AS o))
)
SELECT l.id AS listener_id, l.lanes, l.state = 'active' AS is_active, s.pattern
FROM pgbus.listeners AS l
JOIN pgbus.subscriptions AS s ON s.listener_id = l.id
WHERE l.cursor IS NULL

-- name: find_next_due
-- When the first scheduled event from `due_floor` on is due, and how many seconds from now. Seconds are subtracted, and
-- not instants: before PostgreSQL 17 no interval is infinite.
SELECT CAST(extract(epoch FROM o.deliver_at) AS double precision) AS deliver_at,
       CAST(extract(epoch FROM o.deliver_at) - extract(epoch FROM now()) AS double precision) AS seconds
FROM pgbus.outbox AS o
WHERE o.deliver_at >= to_timestamp(CAST(:due_floor AS double precision))
ORDER BY o.deliver_at
LIMIT 1

-- name: lock_due_events
-- The scheduled events that are due, for the rest of the transaction. Someone who cancels one holds its row until the end
-- of a transaction that may be long: step over it.
SELECT o.id, CAST(o.topic AS text) AS topic, o.ancestors,
       CASE WHEN CAST(:hashes AS boolean) THEN hashtext(COALESCE(o.key, CAST(o.event_id AS text))) END AS hash,
       pg_column_size(o.payload) + COALESCE(pg_column_size(o.headers), 0) AS bytes,
       CAST(extract(epoch FROM o.deliver_at) AS double precision) AS deliver_at
FROM pgbus.outbox AS o
WHERE o.deliver_at >= to_timestamp(CAST(:due_floor AS double precision)) AND o.deliver_at <= now()
ORDER BY o.deliver_at, o.id
LIMIT CAST(:batch AS bigint)
FOR UPDATE SKIP LOCKED

-- name: backfill_listener
-- Write deliveries of the next part of the log for a listener that is not live yet; at the end of the log its cursor
-- becomes NULL, and it is live. Returns the listener's id, NULL for none, and whether any listener had a cursor before
-- that.
WITH behind AS MATERIALIZED (
    -- The leader waits for no lock: a listener whose row is locked is skipped this time.
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
    -- Not "ready": only the sequencer may write ready rows, in the order of the log; the workers' floors depend on
    -- that.
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
-- Those of these rows that another session has locked.
WITH waiting AS MATERIALIZED (
    SELECT o.id FROM pgbus.outbox AS o WHERE o.id = ANY (CAST(:ids AS bigint[]))
), free AS MATERIALIZED (
    SELECT o.id
    FROM pgbus.outbox AS o
    WHERE o.id = ANY (CAST(:ids AS bigint[]))
    FOR UPDATE SKIP LOCKED
)
SELECT w.id FROM waiting AS w
EXCEPT
SELECT f.id FROM free AS f

-- name: find_log_end
-- The position after the last event of the log, and the highest partition that exists.
SELECT COALESCE((SELECT e.position + 1 FROM pgbus.events AS e ORDER BY e.position DESC LIMIT 1), 0) AS next_position,
       (SELECT max(p.number) FROM pgbus.partitions AS p) AS last_partition

-- name: find_last_id
-- The last outbox id that was handed out.
-- Read as a table, whose rights are checked: pg_sequence_last_value is NULL from PostgreSQL 18 on for who has none.
SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END AS last_id FROM pgbus.outbox_id_seq AS s

-- name: mend_last_id
-- Set the sequence of the outbox to its highest id where it is behind: a logical copy of a database has the rows but not
-- the sequence's value.
SELECT setval('pgbus.outbox_id_seq', m.id)
FROM (SELECT max(o.id) AS id FROM pgbus.outbox AS o) AS m
CROSS JOIN pgbus.outbox_id_seq AS s
WHERE m.id > s.last_value

-- name: try_sleep
-- Lock the current wake slot exclusively: true means that no publisher is about to commit without a NOTIFY.
SELECT s.slot, pg_try_advisory_lock(hashtext('pgbus.wake'), s.slot) AS armed
FROM (SELECT CAST(last_value AS integer) AS slot FROM pgbus.wake_slots) AS s

-- name: wake_up
-- Let publishers share the wake slot again: from here on they need not notify.
SELECT pg_advisory_unlock(hashtext('pgbus.wake'), CAST(:slot AS integer))

-- name: advance_wake_slot
-- Make the next slot current: because a transaction keeps sharing this one, or the bus has slept.
SELECT CAST(nextval('pgbus.wake_slots') AS integer) AS slot

-- name: find_owed
-- Whether something is owed now for which the leader must be there: claims of events and of runs of schedules, runs that
-- have just become due, calls that nobody has taken, deliveries that a live worker could claim, and lanes that are to be
-- released. And the seconds until something else is due: a scheduled event, a retry, a run of a schedule; infinity for
-- nothing. Of a lane only the first row counts, which blocks the rest of it.
WITH run AS MATERIALIZED (
    SELECT l.id, COALESCE(l.lanes, 0) AS lanes
    FROM pgbus.listeners AS l
    WHERE l.state = 'active'
      AND l.listener_name = ANY (ARRAY(SELECT unnest(w.listeners) FROM pgbus.live_workers AS w))
), heads AS MATERIALIZED (
    SELECT h.available_at
    FROM run AS r
    CROSS JOIN LATERAL generate_series(0, r.lanes - 1) AS n (lane)
    CROSS JOIN LATERAL (
        SELECT d.available_at
        FROM pgbus.deliveries AS d
        WHERE d.listener_id = r.id AND d.lane = n.lane AND d.blocked_key IS NULL
        ORDER BY d.first
        LIMIT 1
    ) AS h
), instants AS MATERIALIZED (
    (SELECT o.deliver_at AS due_at
     FROM pgbus.outbox AS o
     WHERE o.deliver_at > now()
     ORDER BY o.deliver_at
     LIMIT 1)
    UNION ALL
    SELECT first_of.available_at
    FROM run AS r
    CROSS JOIN LATERAL (
        SELECT d.available_at
        FROM pgbus.deliveries AS d
        WHERE d.listener_id = r.id AND d.lane IS NULL AND d.claim_token IS NULL AND d.available_at > now()
        ORDER BY d.available_at
        LIMIT 1
    ) AS first_of
    UNION ALL
    SELECT h.available_at FROM heads AS h WHERE h.available_at > now()
    UNION ALL
    SELECT s.next_run_at FROM pgbus.schedules AS s WHERE s.state = 'active' AND s.next_run_at > now()
)
SELECT EXISTS (SELECT FROM pgbus.deliveries AS d WHERE d.claim_token IS NOT NULL)
           OR EXISTS (SELECT FROM pgbus.schedules AS s WHERE s.claim_token IS NOT NULL)
           OR EXISTS (
               SELECT FROM pgbus.schedules AS s
               WHERE s.state = 'active' AND s.next_run_at <= now() AND s.next_run_at > now() - INTERVAL '1 minute')
           OR EXISTS (SELECT FROM pgbus.rpc_requests AS q WHERE q.taken_at IS NULL)
           OR EXISTS (SELECT FROM heads AS h WHERE h.available_at IS NULL OR h.available_at <= now())
           OR EXISTS (
               SELECT FROM run AS r
               WHERE EXISTS (
                   SELECT FROM pgbus.deliveries AS d
                   WHERE d.listener_id = r.id AND d.lane IS NULL AND d.claim_token IS NULL AND d.available_at IS NULL)
                  OR EXISTS (
                   SELECT FROM pgbus.deliveries AS d
                   WHERE d.listener_id = r.id AND d.lane IS NULL AND d.claim_token IS NULL AND d.available_at <= now())
                  OR EXISTS (
                   SELECT FROM pgbus.deliveries AS d
                   WHERE d.listener_id = r.id AND d.lane >= r.lanes AND d.blocked_key IS NULL))
           AS is_owed,
       COALESCE(CAST((SELECT min(extract(epoch FROM i.due_at)) FROM instants AS i) - extract(epoch FROM now())
                     AS double precision), double precision 'infinity') AS seconds

-- name: lie_down
-- Say that the bus is about to sleep, and make a slot current that is not yet called: publishers cannot read its number,
-- so every one notifies from now on.
SELECT CAST(setval('pgbus.wake_slots', CASE WHEN s.last_value < 2147483647 THEN s.last_value + 1 ELSE 1 END, false)
            AS integer) AS slot,
       pg_notify(CAST(:work_channel AS text), 'dozing') AS told
FROM pgbus.wake_slots AS s

-- name: fall_asleep
-- Give up the leader's lock and the last wake slot, say until when the bus sleeps, and have the server allow silence.
SELECT pg_advisory_unlock(hashtext('pgbus.wake'), CAST(:held_slot AS integer)),
       pg_advisory_unlock(hashtext(CAST(:namespace AS text) || '.leader'), 1),
       set_config('idle_session_timeout', '0', false),
       pg_notify(CAST(:work_channel AS text), 'asleep ' || CAST(:seconds AS double precision))

-- name: rise
-- Lead again, with the slot that was current in the sleep, and tell all. NULL when another session leads now, and 0 when
-- one has led since `slot` was made the current one: what this session knew of the log is then worth nothing.
-- A subselect runs when it is asked for, so after the lock.
SELECT CAST(CASE WHEN pg_try_advisory_lock(hashtext(CAST(:namespace AS text) || '.leader'), 1)
                 THEN CASE WHEN (SELECT s.last_value FROM pgbus.wake_slots AS s WHERE NOT s.is_called)
                                = CAST(:slot AS bigint)
                           THEN nextval('pgbus.wake_slots') ELSE 0 END END AS integer) AS slot,
       set_config('idle_session_timeout', CAST(:silence AS text), false) AS silence,
       pg_notify(CAST(:work_channel AS text), 'awake') AS told

-- name: is_asleep
-- Whether the bus sleeps.
SELECT NOT s.is_called AS is_asleep FROM pgbus.wake_slots AS s

-- name: may_close
-- Whether the bus sleeps, and no transaction is open that has published or changed something: its commit notifies, and
-- who has no session then does not hear it.
SELECT NOT s.is_called AND NOT EXISTS (
    SELECT FROM pg_locks AS l
    WHERE l.locktype = 'relation'
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND l.relation IN (CAST('pgbus.outbox' AS regclass), CAST('pgbus.deliveries' AS regclass),
                         CAST('pgbus.listeners' AS regclass), CAST('pgbus.schedules' AS regclass))
      AND l.mode = 'RowExclusiveLock') AS may_close
FROM pgbus.wake_slots AS s

-- name: find_held_slots
-- The slots that open transactions share: each may still commit an event without a NOTIFY.
SELECT DISTINCT CAST(CAST(l.objid AS bigint) AS integer) AS slot
FROM pg_locks AS l
WHERE l.locktype = 'advisory'
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND CAST(l.classid AS bigint) = (CAST(hashtext('pgbus.wake') AS bigint) & 4294967295)
  AND l.objsubid = 2
  AND l.mode = 'ShareLock'

-- name: try_lead
-- Become the leader if there is none; true if this session leads now.
SELECT pg_try_advisory_lock(hashtext(CAST(:namespace AS text) || '.leader'), 1) AS leads

-- name: find_leader
-- Whether there is no leader, and whether the bus sleeps, when there should be none. If the lock is free, it is released
-- again: it is for the session that will lead.
SELECT CASE WHEN pg_try_advisory_lock(hashtext(CAST(:namespace AS text) || '.leader'), 1)
            THEN pg_advisory_unlock(hashtext(CAST(:namespace AS text) || '.leader'), 1)
            ELSE false END AS leaderless,
       NOT s.is_called AS is_asleep
FROM pgbus.wake_slots AS s

-- name: beat
-- Do nothing: the server ends a leader's session that is silent.
SELECT 1 AS beat

-- name: note_leader
-- Write which worker leads, and since when; false when a row was locked, and is still to be written.
WITH changed AS MATERIALIZED (
    SELECT w.id
    FROM pgbus.workers AS w
    WHERE w.id = CAST(:worker_id AS integer) OR w.leading_since IS NOT NULL
    FOR UPDATE SKIP LOCKED
), written AS (
    UPDATE pgbus.workers AS w
    SET leading_since = CASE WHEN w.id = CAST(:worker_id AS integer) THEN now() END
    FROM changed AS c
    WHERE w.id = c.id
    RETURNING w.id
)
SELECT (SELECT count(*) FROM written) = count(*) AS is_noted
FROM pgbus.workers AS w
WHERE w.id = CAST(:worker_id AS integer) OR w.leading_since IS NOT NULL

-- name: find_ready_listeners
-- Those of these listeners that have deliveries to claim now: a poll in case a notification was lost.
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
