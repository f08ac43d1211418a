-- The life of a delivery: waiting, claimed, gone. Each arrow is one statement; each that ends a claim names its token.
--
-- No statement here waits for another worker, except for a moment: they skip rows that are locked, or lock rows of
-- their own claims. Rows are chosen by a snapshot and locked later. In between another worker may have committed a
-- change of a row; PostgreSQL then compares the conditions again with the row that it has locked, and drops it if they
-- no longer hold. The conditions on which a claim rests (`claim_token IS NULL`, the token, the lease) stand where the
-- lock is taken, so that they are compared again.

-- name: claim_deliveries
-- Take runs for a worker, up to `limit` events, in pieces of at most `piece` events, and return their events.
--
-- `due` are rows that waited for an instant, `ready` those that the sequencer wrote, `heads` the first row of each lane
-- of an ordered listener (the other two are empty then). With `floor`, `due_floor`, and the `lane_floors` of lane 0, 1
-- and so on, the scans skip dead rows, which a long-running snapshot keeps in the table. A row of the result without an
-- id tells the first row of each lane from its floor on, if there is one: `lanes` and `tops`. `left_topics` are topics
-- that this worker does not declare and has left to other workers: it does not claim them again. A suspect, a row whose
-- workers died twice, is claimed alone, and only if `suspects` is true. Only one piece of a lane is claimed, because
-- its pieces must be handled one after the other.
WITH active AS MATERIALIZED (
    SELECT l.id FROM pgbus.listeners AS l WHERE l.id = CAST(:listener_id AS integer) AND l.state = 'active'
), due AS MATERIALIZED (
    SELECT d.id, d.lane, d.first, d.last, d.events, d.positions, d.available_at, d.attempt, d.crashes, d.last_error
    FROM pgbus.deliveries AS d
    WHERE d.listener_id = (SELECT a.id FROM active AS a)
      AND d.lane IS NULL
      AND d.claim_token IS NULL
      AND d.available_at >= to_timestamp(CAST(:due_floor AS double precision))
      AND d.available_at <= now()
      AND (d.crashes < 2 OR CAST(:suspects AS boolean))
      AND (d.left_topic IS NULL OR d.left_topic <> ALL (CAST(:left_topics AS text[])))
    ORDER BY d.available_at
    LIMIT CAST(:rows AS bigint)
    FOR UPDATE SKIP LOCKED
), ready AS MATERIALIZED (
    SELECT d.id, d.lane, d.first, d.last, d.events, d.positions, d.available_at, d.attempt, d.crashes, d.last_error
    FROM pgbus.deliveries AS d
    WHERE d.listener_id = (SELECT a.id FROM active AS a)
      AND d.lane IS NULL
      AND d.claim_token IS NULL
      AND d.available_at IS NULL
      AND d.first >= CAST(:floor AS bigint)
    ORDER BY d.first
    LIMIT CAST(:rows AS bigint)
    FOR UPDATE SKIP LOCKED
), tops AS MATERIALIZED (
    SELECT n.number - 1 AS lane, t.*
    FROM unnest(CAST(:lane_floors AS bigint[])) WITH ORDINALITY AS n (floor, number)
    CROSS JOIN LATERAL (
        SELECT d.id, d.first, d.claim_token, d.available_at, d.crashes, d.left_topic
        FROM pgbus.deliveries AS d
        WHERE d.listener_id = (SELECT a.id FROM active AS a)
          AND d.lane = n.number - 1
          AND d.blocked_key IS NULL
          AND d.first >= n.floor
        ORDER BY d.first
        LIMIT 1
    ) AS t
), returned AS MATERIALIZED (
    -- Below the floor there is only what has come back since: the sequencer's own rows come in the order of the log.
    SELECT n.number - 1 AS lane, t.*
    FROM unnest(CAST(:lane_floors AS bigint[])) WITH ORDINALITY AS n (floor, number)
    CROSS JOIN LATERAL (
        SELECT d.id, d.first, d.claim_token, d.available_at, d.crashes, d.left_topic
        FROM pgbus.deliveries AS d
        WHERE d.listener_id = (SELECT a.id FROM active AS a)
          AND d.lane = n.number - 1
          AND d.blocked_key IS NULL
          AND d.available_at IS NOT NULL
          AND d.first < n.floor
        ORDER BY d.first
        LIMIT 1
    ) AS t
), heads AS MATERIALIZED (
    SELECT h.id, h.first, h.lane, (CAST(:lane_floors AS bigint[]))[h.lane + 1] AS floor
    FROM (
        -- The first row blocks its lane, whether it is claimed or waits for its instant.
        SELECT * FROM returned
        UNION ALL
        SELECT t.* FROM tops AS t WHERE (EXISTS (SELECT 1 FROM returned AS r WHERE r.lane = t.lane)) IS FALSE
    ) AS h
    WHERE h.claim_token IS NULL
      AND (h.available_at IS NULL OR h.available_at <= now())
      AND (h.crashes < 2 OR CAST(:suspects AS boolean))
      AND (h.left_topic IS NULL OR h.left_topic <> ALL (CAST(:left_topics AS text[])))
), lanes AS MATERIALIZED (
    -- Checked again on the locked row: another worker may have claimed its beginning, and `first` has increased. Looked
    -- up one by one: the planner could choose a join that reads the whole index, including dead rows.
    -- A claimed row behind the head blocks the lane too: a retried dead letter, or a reset, may have inserted rows before
    -- it.
    SELECT d.*
    FROM (SELECT h.* FROM heads AS h ORDER BY h.first) AS h
    CROSS JOIN LATERAL (
        SELECT x.id, x.lane, x.first, x.last, x.events, x.positions, x.available_at, x.attempt, x.crashes, x.last_error
        FROM pgbus.deliveries AS x
        WHERE x.id = h.id AND x.claim_token IS NULL AND x.first = h.first
          AND pgbus.take_lane(CAST(:listener_id AS integer), CAST(h.lane AS smallint), h.floor)
        FOR UPDATE SKIP LOCKED
    ) AS d
    LIMIT CAST(:rows AS bigint)
), offered AS MATERIALIZED (
    SELECT c.*, CASE WHEN c.lane IS NULL THEN c.events ELSE LEAST(c.events, CAST(:piece AS integer)) END AS offer
    FROM (SELECT * FROM due UNION ALL SELECT * FROM ready UNION ALL SELECT * FROM lanes) AS c
), candidates AS MATERIALIZED (
    SELECT o.*,
           COALESCE(sum(CASE WHEN o.crashes >= 2 THEN CAST(:limit AS integer) ELSE o.offer END)
                    OVER (ORDER BY o.crashes >= 2 DESC, o.available_at NULLS LAST, o.first, o.id
                          ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
    FROM offered AS o
), chosen AS MATERIALIZED (
    SELECT c.*, CAST(LEAST(c.offer, CAST(:limit AS integer) - c.before) AS integer) AS taken
    FROM candidates AS c
    WHERE c.before < CAST(:limit AS integer)
), whole AS (
    -- `= ANY` here and below: where vacuum has counted few rows, the planner would choose a join that reads the whole
    -- primary key, including dead rows.
    UPDATE pgbus.deliveries AS d
    SET claim_token = CAST(:claim_token AS uuid),
        worker_id = CAST(:worker_id AS integer),
        lease_expires_at = now() + CAST(:lease AS double precision) * INTERVAL '1 second'
    WHERE d.id = ANY (ARRAY(
        SELECT c.id FROM chosen AS c WHERE c.taken = c.events AND c.events <= CAST(:piece AS integer)))
    RETURNING d.id, d.lane, d.first, d.last, d.events, d.positions, d.available_at, d.attempt, d.crashes
), rest AS (
    UPDATE pgbus.deliveries AS d
    SET first = COALESCE(c.positions[c.taken + 1], c.first + c.taken),
        events = c.events - c.taken,
        positions = c.positions[c.taken + 1:]
    FROM chosen AS c
    WHERE d.id = c.id AND d.id = ANY (ARRAY(SELECT x.id FROM chosen AS x WHERE x.taken < x.events))
), cut AS (
    DELETE FROM pgbus.deliveries AS d
    WHERE d.id = ANY (ARRAY(
        SELECT c.id FROM chosen AS c WHERE c.taken = c.events AND c.events > CAST(:piece AS integer)))
), pieces AS (
    INSERT INTO pgbus.deliveries
        (listener_id, lane, first, last, events, positions, available_at, attempt, crashes, last_error,
         claim_token, worker_id, lease_expires_at)
    SELECT CAST(:listener_id AS integer), c.lane,
           COALESCE(c.positions[p.skipped + 1], c.first + p.skipped),
           COALESCE(c.positions[p.skipped + p.events], c.first + p.skipped + p.events - 1),
           p.events,
           c.positions[p.skipped + 1:p.skipped + p.events],
           c.available_at, c.attempt, c.crashes, c.last_error,
           CAST(:claim_token AS uuid), CAST(:worker_id AS integer),
           now() + CAST(:lease AS double precision) * INTERVAL '1 second'
    FROM chosen AS c
    CROSS JOIN LATERAL (
        SELECT s.skipped, LEAST(CAST(:piece AS integer), c.taken - s.skipped) AS events
        FROM generate_series(0, c.taken - 1, CAST(:piece AS integer)) AS s (skipped)
    ) AS p
    WHERE c.taken < c.events OR c.events > CAST(:piece AS integer)
    RETURNING id, lane, first, last, events, positions, available_at, attempt, crashes
), claimed AS (
    SELECT * FROM whole UNION ALL SELECT * FROM pieces
)
SELECT c.id, c.lane, c.attempt, c.crashes >= 2 AS suspect, c.available_at IS NULL AS fresh, c.last, c.events,
       e.position, e.event_id, e.topic, e.ancestors, e.key, e.payload, e.headers,
       pgbus.readable(e.published_at) AS published_at, pgbus.readable(e.deliver_at) AS deliver_at,
       CASE WHEN CAST(:blocking AS boolean) THEN EXISTS (
           SELECT 1 FROM pgbus.dead_letters AS x
           WHERE x.listener_id = CAST(:listener_id AS integer) AND x.blocked_key = e.key
       ) END AS blocked,
       CAST(extract(epoch FROM clock_timestamp()) AS double precision) AS claimed_at,
       f.lanes, f.tops
FROM claimed AS c
-- In a row of its own: no id is NULL.
FULL JOIN (
    SELECT CAST(NULL AS bigint) AS id, array_agg(t.lane) AS lanes, array_agg(t.first) AS tops
    FROM tops AS t
    HAVING count(*) > 0
) AS f ON f.id = c.id
-- A claim whose events were all deleted from the log is also returned.
LEFT JOIN LATERAL (
    SELECT x.* FROM pgbus.events AS x
    WHERE c.positions IS NULL AND x.position BETWEEN c.first AND c.last
    UNION ALL
    SELECT x.* FROM unnest(c.positions) AS p (position)
    JOIN pgbus.events AS x ON x.position = p.position
) AS e ON true

-- name: claim_ready
-- What `claim_deliveries` would do where that is simple, at half of its cost: take all ready runs of a listener without
-- order. Takes nothing, and says so in `fits`, when something is due or when a run would have to be cut, in pieces of
-- at most `piece` events or so that not more than `limit` are taken.
WITH ready AS MATERIALIZED (
    SELECT d.id, d.events
    FROM pgbus.deliveries AS d
    WHERE d.listener_id = CAST(:listener_id AS integer)
      AND d.lane IS NULL
      AND d.claim_token IS NULL
      AND d.available_at IS NULL
      AND d.first >= CAST(:floor AS bigint)
    ORDER BY d.first
    LIMIT CAST(:rows AS bigint)
    FOR UPDATE SKIP LOCKED
), fit AS MATERIALIZED (
    SELECT COALESCE(sum(r.events) <= CAST(:limit AS integer) AND max(r.events) <= CAST(:piece AS integer), true)
           AND NOT EXISTS (
               SELECT 1 FROM pgbus.deliveries AS d
               WHERE d.listener_id = CAST(:listener_id AS integer)
                 AND d.lane IS NULL
                 AND d.claim_token IS NULL
                 AND d.available_at >= to_timestamp(CAST(:due_floor AS double precision))
                 AND d.available_at <= now()
                 AND d.crashes < 2
                 AND (d.left_topic IS NULL OR d.left_topic <> ALL (CAST(:left_topics AS text[])))
           ) AS fits
    FROM ready AS r
), claimed AS (
    UPDATE pgbus.deliveries AS d
    SET claim_token = CAST(:claim_token AS uuid),
        worker_id = CAST(:worker_id AS integer),
        lease_expires_at = now() + CAST(:lease AS double precision) * INTERVAL '1 second'
    WHERE d.id = ANY (ARRAY(SELECT r.id FROM ready AS r))
      AND (SELECT f.fits FROM fit AS f)
      AND EXISTS (SELECT 1 FROM pgbus.listeners AS l
                  WHERE l.id = CAST(:listener_id AS integer) AND l.state = 'active')
    RETURNING d.id, d.first, d.last, d.events, d.positions, d.attempt
)
SELECT f.fits, c.id, CAST(NULL AS smallint) AS lane, c.attempt, false AS suspect, true AS fresh, c.last, c.events,
       e.position, e.event_id, e.topic, e.ancestors, e.key, e.payload, e.headers,
       pgbus.readable(e.published_at) AS published_at, pgbus.readable(e.deliver_at) AS deliver_at,
       CAST(NULL AS boolean) AS blocked,
       CAST(extract(epoch FROM clock_timestamp()) AS double precision) AS claimed_at
FROM fit AS f
LEFT JOIN claimed AS c ON true
-- A claim whose events were all deleted is returned, too.
LEFT JOIN LATERAL (
    SELECT x.* FROM pgbus.events AS x
    WHERE c.positions IS NULL AND x.position BETWEEN c.first AND c.last
    UNION ALL
    SELECT x.* FROM unnest(c.positions) AS p (position)
    JOIN pgbus.events AS x ON x.position = p.position
) AS e ON true

-- name: claim_lanes
-- What `claim_deliveries` would do for some lanes of an ordered listener where that is simple: take the first row of each
-- lane in which nothing is claimed. Takes nothing, and says so in `fits`, when a first row has come back and is due, or
-- when a run would have to be cut, in pieces of at most `piece` events or so that not more than `limit` are taken.
--
-- `lanes` and `lane_floors` go together. The first row of the result has no id. It tells, of each of these lanes in which
-- there is a row, the position from which on the next claim need look, and whether rows are `left` in it.
WITH heads AS MATERIALIZED (
    SELECT n.lane, n.floor, h.*
    FROM unnest(CAST(:lanes AS smallint[]), CAST(:lane_floors AS bigint[])) AS n (lane, floor)
    CROSS JOIN LATERAL (
        -- Below the floor there is only what has come back.
        (SELECT d.id, d.first, d.claim_token, d.available_at, d.crashes, d.left_topic
         FROM pgbus.deliveries AS d
         WHERE d.listener_id = CAST(:listener_id AS integer) AND d.lane = n.lane AND d.blocked_key IS NULL
           AND d.available_at IS NOT NULL
           AND d.first < n.floor
         ORDER BY d.first
         LIMIT 1)
        UNION ALL
        (SELECT d.id, d.first, d.claim_token, d.available_at, d.crashes, d.left_topic
         FROM pgbus.deliveries AS d
         WHERE d.listener_id = CAST(:listener_id AS integer) AND d.lane = n.lane AND d.blocked_key IS NULL
           AND d.first >= n.floor
         ORDER BY d.first
         LIMIT 1)
        ORDER BY first
        LIMIT 1
    ) AS h
    WHERE EXISTS (SELECT 1 FROM pgbus.listeners AS l WHERE l.id = CAST(:listener_id AS integer) AND l.state = 'active')
), ready AS MATERIALIZED (
    -- Checked again on the locked row, and behind it, as in `claim_deliveries`.
    SELECT d.id, d.events
    FROM (
        SELECT f.* FROM heads AS f WHERE f.claim_token IS NULL AND f.available_at IS NULL ORDER BY f.first
    ) AS h
    CROSS JOIN LATERAL (
        SELECT x.id, x.events
        FROM pgbus.deliveries AS x
        WHERE x.id = h.id AND x.claim_token IS NULL AND x.first = h.first
          AND pgbus.take_lane(CAST(:listener_id AS integer), h.lane, h.floor)
        FOR UPDATE SKIP LOCKED
    ) AS d
    LIMIT CAST(:rows AS bigint)
), fit AS MATERIALIZED (
    SELECT COALESCE(sum(r.events) <= CAST(:limit AS integer) AND max(r.events) <= CAST(:piece AS integer), true)
           AND NOT EXISTS (
               SELECT 1 FROM heads AS h
               WHERE h.claim_token IS NULL
                 AND h.available_at <= now()
                 AND h.crashes < 2
                 AND (h.left_topic IS NULL OR h.left_topic <> ALL (CAST(:left_topics AS text[])))
           ) AS fits
    FROM ready AS r
), claimed AS (
    UPDATE pgbus.deliveries AS d
    SET claim_token = CAST(:claim_token AS uuid),
        worker_id = CAST(:worker_id AS integer),
        lease_expires_at = now() + CAST(:lease AS double precision) * INTERVAL '1 second'
    WHERE d.id = ANY (ARRAY(SELECT r.id FROM ready AS r)) AND (SELECT f.fits FROM fit AS f)
    RETURNING d.id, d.lane, d.first, d.last, d.events, d.positions, d.attempt
)
SELECT CAST(NULL AS bigint) AS id, CAST(NULL AS smallint) AS lane, CAST(NULL AS integer) AS attempt,
       CAST(NULL AS boolean) AS suspect, CAST(NULL AS boolean) AS fresh, CAST(NULL AS bigint) AS last,
       CAST(NULL AS integer) AS events, CAST(NULL AS bigint) AS position, CAST(NULL AS uuid) AS event_id,
       CAST(NULL AS text) AS topic, CAST(NULL AS text[]) AS ancestors, CAST(NULL AS text) AS key,
       CAST(NULL AS jsonb) AS payload, CAST(NULL AS jsonb) AS headers, CAST(NULL AS timestamptz) AS published_at,
       CAST(NULL AS timestamptz) AS deliver_at, CAST(NULL AS boolean) AS blocked,
       CAST(NULL AS double precision) AS claimed_at,
       (SELECT f.fits FROM fit AS f) AS fits,
       array_agg(h.lane) AS lanes,
       array_agg(GREATEST(h.first, h.floor)) AS tops,
       array_agg(h.id <> ALL (ARRAY(SELECT r.id FROM ready AS r)) OR EXISTS (
           SELECT 1 FROM pgbus.deliveries AS d
           WHERE d.listener_id = CAST(:listener_id AS integer) AND d.lane = h.lane AND d.blocked_key IS NULL
             AND d.first > h.first
       )) AS left
FROM heads AS h
UNION ALL
SELECT c.id, c.lane, c.attempt, false, true, c.last, c.events,
       e.position, e.event_id, e.topic, e.ancestors, e.key, e.payload, e.headers,
       pgbus.readable(e.published_at), pgbus.readable(e.deliver_at),
       CASE WHEN CAST(:blocking AS boolean) THEN EXISTS (
           SELECT 1 FROM pgbus.dead_letters AS x
           WHERE x.listener_id = CAST(:listener_id AS integer) AND x.blocked_key = e.key
       ) END,
       CAST(extract(epoch FROM clock_timestamp()) AS double precision),
       NULL, NULL, NULL, NULL
FROM claimed AS c
-- A claim whose events were all deleted is returned, too.
LEFT JOIN LATERAL (
    SELECT x.* FROM pgbus.events AS x
    WHERE c.positions IS NULL AND x.position BETWEEN c.first AND c.last
    UNION ALL
    SELECT x.* FROM unnest(c.positions) AS p (position)
    JOIN pgbus.events AS x ON x.position = p.position
) AS e ON true

-- name: is_work_left
-- After an empty claim: whether there are rows to claim that another session has locked. Reads without a lock, so that
-- it sees them as they were before that session's change, if it has not committed.
SELECT EXISTS (
    SELECT 1 FROM pgbus.deliveries AS d
    WHERE d.listener_id = l.id AND d.lane IS NULL AND d.claim_token IS NULL AND d.available_at IS NULL
      AND d.first >= CAST(:floor AS bigint)
) OR EXISTS (
    SELECT 1 FROM pgbus.deliveries AS d
    WHERE d.listener_id = l.id AND d.lane IS NULL AND d.claim_token IS NULL
      AND d.available_at >= to_timestamp(CAST(:due_floor AS double precision)) AND d.available_at <= now()
      AND d.crashes < 2
) AS is_left
FROM pgbus.listeners AS l
WHERE l.id = CAST(:listener_id AS integer) AND l.state = 'active'

-- name: skip_missing_events
-- Remove events that are no longer in the log from our claims, write the outcome `skipped` to the history, and end
-- claims without remaining events; returns the positions of the events. If someone dropped the partition by hand, the
-- history has no partition for them either.
WITH ours AS MATERIALIZED (
    SELECT d.id, d.first, d.last, d.positions, d.attempt
    FROM pgbus.deliveries AS d
    WHERE d.id = ANY (CAST(:delivery_ids AS bigint[])) AND d.claim_token = CAST(:claim_token AS uuid)
    FOR UPDATE
), owed AS MATERIALIZED (
    SELECT o.id, o.attempt, p.position,
           EXISTS (SELECT 1 FROM pgbus.events AS e WHERE e.position = p.position) AS is_logged
    FROM ours AS o
    CROSS JOIN LATERAL (
        SELECT u.position FROM unnest(o.positions) AS u (position)
        UNION ALL
        SELECT g.position FROM generate_series(o.first, o.last) AS g (position) WHERE o.positions IS NULL
    ) AS p
), kept AS MATERIALIZED (
    SELECT w.id, array_agg(w.position ORDER BY w.position) AS positions
    FROM owed AS w
    WHERE w.is_logged
    GROUP BY w.id
), shrunk AS (
    UPDATE pgbus.deliveries AS d
    SET first = k.positions[1],
        last = k.positions[cardinality(k.positions)],
        events = cardinality(k.positions),
        positions = k.positions
    FROM kept AS k
    WHERE d.id = k.id AND d.id = ANY (CAST(:delivery_ids AS bigint[]))
), ended AS (
    DELETE FROM pgbus.deliveries AS d
    WHERE d.id = ANY (ARRAY(SELECT o.id FROM ours AS o EXCEPT SELECT k.id FROM kept AS k))
), skipped AS (
    INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker, error)
    SELECT w.position, CAST(:listener_id AS integer), w.attempt, 'skipped', now(), 0, CAST(:worker AS text),
           'the event is no longer in the log'
    FROM owed AS w
    WHERE NOT w.is_logged AND to_regclass('pgbus.history_p' || w.position / 1000000000) IS NOT NULL
)
SELECT w.position
FROM owed AS w
WHERE NOT w.is_logged
ORDER BY w.position

-- name: lock_delivery
-- Lock a claimed delivery until the end of a transactional handler's transaction; returns no row if the claim is lost.
-- Returns the transaction's id: it may be settled only in that transaction. The connection is its user's, so what has
-- the server notice that our host has vanished is set for this transaction.
SELECT CAST(pg_current_xact_id() AS text) AS xid,
       set_config('tcp_keepalives_idle', '6', true) AS idle,
       set_config('tcp_keepalives_interval', '3', true) AS interval,
       set_config('tcp_keepalives_count', '3', true) AS count,
       set_config('tcp_user_timeout', '15000', true) AS user_timeout
FROM pgbus.deliveries AS d
WHERE d.id = CAST(:delivery_id AS bigint) AND d.claim_token = CAST(:claim_token AS uuid)
FOR UPDATE

-- name: settle_done
-- End claims of which every event is done: they go into history. Returns the deliveries whose claims were still ours;
-- for the others nothing is written, nor in another transaction than `xid`, unless that is NULL.
--
-- A run of `done` is one row of history; of one with several events, `run_offsets` and `run_durations` from `since` to
-- `upto` belong to it. What a run needs no array for is NULL there. `(x IN (...)) IS TRUE` keeps a hashed subplan: a
-- join over thousands of one-event claims would be quadratic. `= ANY` makes the planner look them up by key; another
-- plan would read all claims, including dead rows.
WITH settled AS MATERIALIZED (
    DELETE FROM pgbus.deliveries AS d
    WHERE d.id = ANY (CAST(:delivery_ids AS bigint[]))
      AND (CAST(:xid AS bigint) IS NULL
           OR CAST(CAST(pg_current_xact_id_if_assigned() AS text) AS bigint) = CAST(:xid AS bigint))
      AND ((d.id, d.claim_token) IN (
          SELECT c.id, c.claim_token
          FROM unnest(CAST(:delivery_ids AS bigint[]), CAST(:claim_tokens AS uuid[])) AS c (id, claim_token)
      )) IS TRUE
    RETURNING d.id
), done AS (
    INSERT INTO pgbus.history
        (first, started_at, listener_id, attempt, duration, span, outcome, worker, offsets, durations)
    SELECT r.first, to_timestamp(r.started_at), CAST(:listener_id AS integer), r.attempt, r.duration, r.span, 'done',
           CAST(:worker AS text),
           CASE WHEN r.span > r.upto - r.since THEN (CAST(:run_offsets AS smallint[]))[r.since : r.upto] END,
           CASE WHEN r.duration IS NULL THEN (CAST(:run_durations AS real[]))[r.since : r.upto] END
    FROM unnest(
        CAST(:done_deliveries AS bigint[]), CAST(:done_firsts AS bigint[]), CAST(:done_spans AS smallint[]),
        CAST(:done_attempts AS integer[]), CAST(:done_started AS double precision[]), CAST(:done_durations AS real[]),
        CAST(:done_since AS integer[]), CAST(:done_upto AS integer[])
    ) AS r (delivery_id, first, span, attempt, started_at, duration, since, upto)
    WHERE (r.delivery_id IN (SELECT s.id FROM settled AS s)) IS TRUE
)
SELECT s.id FROM settled AS s

-- name: settle_deliveries
-- End claims as `settle_done` does, of which some event is not done: what failed comes back later, or becomes a dead
-- letter; what was not started is released. A statement of its own, for each INSERT costs also where there is nothing
-- to insert, and most claims need none of these.
WITH settled AS MATERIALIZED (
    DELETE FROM pgbus.deliveries AS d
    WHERE d.id = ANY (CAST(:delivery_ids AS bigint[]))
      AND (CAST(:xid AS bigint) IS NULL
           OR CAST(CAST(pg_current_xact_id_if_assigned() AS text) AS bigint) = CAST(:xid AS bigint))
      AND ((d.id, d.claim_token) IN (
          SELECT c.id, c.claim_token
          FROM unnest(CAST(:delivery_ids AS bigint[]), CAST(:claim_tokens AS uuid[])) AS c (id, claim_token)
      )) IS TRUE
    RETURNING d.id
), done AS (
    INSERT INTO pgbus.history
        (first, started_at, listener_id, attempt, duration, span, outcome, worker, offsets, durations)
    SELECT r.first, to_timestamp(r.started_at), CAST(:listener_id AS integer), r.attempt, r.duration, r.span, 'done',
           CAST(:worker AS text),
           CASE WHEN r.span > r.upto - r.since THEN (CAST(:run_offsets AS smallint[]))[r.since : r.upto] END,
           CASE WHEN r.duration IS NULL THEN (CAST(:run_durations AS real[]))[r.since : r.upto] END
    FROM unnest(
        CAST(:done_deliveries AS bigint[]), CAST(:done_firsts AS bigint[]), CAST(:done_spans AS smallint[]),
        CAST(:done_attempts AS integer[]), CAST(:done_started AS double precision[]), CAST(:done_durations AS real[]),
        CAST(:done_since AS integer[]), CAST(:done_upto AS integer[])
    ) AS r (delivery_id, first, span, attempt, started_at, duration, since, upto)
    WHERE (r.delivery_id IN (SELECT s.id FROM settled AS s)) IS TRUE
), others AS MATERIALIZED (
    SELECT o.*
    FROM unnest(
        CAST(:other_deliveries AS bigint[]), CAST(:other_positions AS bigint[]), CAST(:other_attempts AS integer[]),
        CAST(:other_outcomes AS text[]), CAST(:other_started AS double precision[]), CAST(:other_durations AS real[]),
        CAST(:other_lanes AS smallint[]), CAST(:other_delays AS double precision[]), CAST(:other_errors AS text[]),
        CAST(:other_fingerprints AS text[]), CAST(:other_tracebacks AS text[]), CAST(:other_keys AS text[]),
        CAST(:other_left_topics AS text[])
    ) AS o (delivery_id, position, attempt, outcome, started_at, duration, lane, delay, error, fingerprint, traceback, key,
            left_topic)
    WHERE (o.delivery_id IN (SELECT s.id FROM settled AS s)) IS TRUE
), failed AS (
    INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker, error)
    SELECT o.position, CAST(:listener_id AS integer), o.attempt, o.outcome, to_timestamp(o.started_at), o.duration,
           CAST(:worker AS text), o.error
    FROM others AS o
    WHERE o.outcome IN ('retry', 'dead')
), retried AS (
    INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events, available_at, attempt, last_error)
    SELECT CAST(:listener_id AS integer), o.lane, o.position, o.position, 1,
           clock_timestamp() + o.delay * INTERVAL '1 second', o.attempt + 1, o.error
    FROM others AS o
    WHERE o.outcome = 'retry'
), dead AS (
    INSERT INTO pgbus.dead_letters (listener_id, position, lane, attempts, error, fingerprint, traceback, worker, blocked_key)
    SELECT CAST(:listener_id AS integer), o.position, o.lane, o.attempt, o.error, o.fingerprint, o.traceback,
           CAST(:worker AS text),
           CASE WHEN CAST(:blocking AS boolean) THEN o.key END
    FROM others AS o
    WHERE o.outcome = 'dead'
), barring AS MATERIALIZED (
    -- Locked against operators: an operator who retries or discards such a dead letter now either waits for us, and
    -- then releases the events that we block; or has finished, the dead letter is gone, and the event returns to its
    -- lane.
    SELECT x.blocked_key AS key
    FROM pgbus.dead_letters AS x
    WHERE x.listener_id = CAST(:listener_id AS integer)
      AND x.blocked_key IN (SELECT o.key FROM others AS o WHERE o.outcome = 'blocked')
    FOR KEY SHARE
), blocked AS (
    -- An event whose key is blocked by a dead letter, an old one or one of this settlement: it waits until an operator
    -- retries or discards that.
    INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events, available_at, attempt, blocked_key)
    SELECT CAST(:listener_id AS integer), o.lane, o.position, o.position, 1, now(), o.attempt,
           CASE WHEN o.key IN (SELECT b.key FROM barring AS b)
                  OR o.key IN (SELECT x.key FROM others AS x WHERE x.outcome = 'dead') THEN o.key END
    FROM others AS o
    WHERE o.outcome = 'blocked'
), released AS (
    INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events, positions, available_at, attempt)
    SELECT CAST(:listener_id AS integer), o.lane, min(o.position), max(o.position), count(*),
           CASE WHEN count(*) < max(o.position) - min(o.position) + 1 THEN array_agg(o.position ORDER BY o.position) END,
           now(), o.attempt
    FROM others AS o
    WHERE o.outcome IN ('released', 'alone')
    GROUP BY o.delivery_id, o.lane, o.attempt, CASE WHEN o.outcome = 'alone' THEN o.position END
), left_to_others AS (
    INSERT INTO pgbus.deliveries
        (listener_id, lane, first, last, events, available_at, attempt, left_topic, last_error)
    SELECT CAST(:listener_id AS integer), o.lane, o.position, o.position, 1, now(), o.attempt, o.left_topic, o.error
    FROM others AS o
    WHERE o.outcome = 'left'
)
SELECT s.id FROM settled AS s

-- name: extend_leases
-- Extend the leases of claims that are still being handled; returns their ids. A row that a transactional handler has
-- locked needs no lease: nobody can free it. It is skipped: to wait for it would be to wait for the handler, while the
-- leases of all other claims run out.
WITH held AS (
    SELECT d.id
    FROM pgbus.deliveries AS d
    WHERE d.id = ANY (CAST(:delivery_ids AS bigint[]))
      AND ((d.id, d.claim_token) IN (
          SELECT c.id, c.claim_token
          FROM unnest(CAST(:delivery_ids AS bigint[]), CAST(:claim_tokens AS uuid[])) AS c (id, claim_token)
      )) IS TRUE
    FOR UPDATE SKIP LOCKED
)
UPDATE pgbus.deliveries AS d
SET lease_expires_at = now() + CAST(:lease AS double precision) * INTERVAL '1 second'
WHERE d.id = ANY (ARRAY(SELECT h.id FROM held AS h))
RETURNING d.id

-- name: find_our_claims
-- The ids of those claims that are still ours, locked or not. For those that `extend_leases` has skipped or not found.
SELECT d.id
FROM pgbus.deliveries AS d
WHERE d.id = ANY (CAST(:delivery_ids AS bigint[]))
  AND ((d.id, d.claim_token) IN (
      SELECT c.id, c.claim_token
      FROM unnest(CAST(:delivery_ids AS bigint[]), CAST(:claim_tokens AS uuid[])) AS c (id, claim_token)
  )) IS TRUE

-- name: find_own_claims
-- The claims of a worker. Those whose leases have expired are left to the leader; without them the scan reads only the
-- dead rows of one lease's duration.
SELECT d.id, d.claim_token
FROM pgbus.deliveries AS d
WHERE d.claim_token IS NOT NULL
  AND d.worker_id = CAST(:worker_id AS integer)
  AND d.lease_expires_at > now()

-- name: return_claims
-- Free claims that their live worker does not know: the result of the claim was lost with the connection, or its
-- settlement with a server that crashed. No worker died, so `crashes` does not change. Expired leases are left to the
-- leader, as in `find_own_claims`; here and in `forfeit_claims`.
WITH lost AS MATERIALIZED (
    SELECT d.id
    FROM pgbus.deliveries AS d
    WHERE d.id = ANY (CAST(:delivery_ids AS bigint[]))
      AND ((d.id, d.claim_token) IN (
          SELECT c.id, c.claim_token
          FROM unnest(CAST(:delivery_ids AS bigint[]), CAST(:claim_tokens AS uuid[])) AS c (id, claim_token)
      )) IS TRUE
      AND (d.lease_expires_at > now()) IS TRUE
    FOR UPDATE SKIP LOCKED
), freed AS (
    DELETE FROM pgbus.deliveries AS d
    WHERE d.id = ANY (ARRAY(SELECT l.id FROM lost AS l))
    RETURNING d.listener_id, d.lane, d.first, d.last, d.events, d.positions, d.attempt, d.crashes, d.last_error
), again AS (
    INSERT INTO pgbus.deliveries
        (listener_id, lane, first, last, events, positions, available_at, attempt, crashes, last_error)
    SELECT f.listener_id, f.lane, f.first, f.last, f.events, f.positions, now(), f.attempt, f.crashes, f.last_error
    FROM freed AS f
)
SELECT pg_notify(CAST(:work_channel AS text), 'reload') AS told
WHERE EXISTS (SELECT 1 FROM freed)

-- name: forfeit_claims
-- End the leases of a worker's claims, so that they count as claims of a dead worker: it failed while it held them. The
-- leader frees them, and counts that: if the worker did it, it would have to know how often each has failed before.
WITH held AS MATERIALIZED (
    SELECT d.id
    FROM pgbus.deliveries AS d
    WHERE d.id = ANY (CAST(:delivery_ids AS bigint[]))
      AND ((d.id, d.claim_token) IN (
          SELECT c.id, c.claim_token
          FROM unnest(CAST(:delivery_ids AS bigint[]), CAST(:claim_tokens AS uuid[])) AS c (id, claim_token)
      )) IS TRUE
      AND (d.lease_expires_at > now()) IS TRUE
    FOR UPDATE SKIP LOCKED
)
UPDATE pgbus.deliveries AS d
SET lease_expires_at = clock_timestamp()
WHERE d.id = ANY (ARRAY(SELECT h.id FROM held AS h))

-- name: free_claims
-- Free the claims whose lease has expired, and those of workers that have been without a session since the last look,
-- which found them `absent`: a worker that has lost its session soon has another. Returns who is absent now, and
-- whether runs of schedules are claimed, which `free_schedules` frees. After the second death of a worker that had
-- claimed it, a run is split into single events, to be handled one at a time; a single event with too many deaths
-- becomes a dead letter. With `lease_floor` the scan skips dead rows, which a long-running snapshot keeps in the table.
-- Without `all_leases` it ends at those that end now: then it reads the claims of a moment, and not all of one lease's
-- duration, and finds no claim of an absent worker. With it, `is_done` says whether none is left that someone had locked.
-- `overdue` are claims below the floor, by id, as `find_overdue_claims` has found them.
--
-- `IS TRUE`, here and above, keeps the planner from the index of all claims, which looks empty when vacuum has counted
-- that few rows live, and may hold all that there ever were.
--
-- A row that a transactional handler has locked is skipped, though its lease has expired: the handler lives, or its
-- session is about to end, and with it the lock. A row whose lease was extended since this snapshot is compared again
-- when it is locked, and stays claimed; a worker that has settled it has deleted it.
WITH live AS MATERIALIZED (
    SELECT w.id AS worker_id FROM pgbus.live_workers AS w
), absent AS MATERIALIZED (
    SELECT w.id AS worker_id
    FROM pgbus.workers AS w
    WHERE NOT EXISTS (SELECT 1 FROM live AS l WHERE l.worker_id = w.id)
    UNION
    SELECT d.worker_id
    FROM pgbus.deliveries AS d
    WHERE CAST(:all_leases AS boolean)
      AND d.claim_token IS NOT NULL
      AND d.lease_expires_at >= to_timestamp(CAST(:lease_floor AS double precision))
      AND NOT EXISTS (SELECT 1 FROM live AS l WHERE l.worker_id = d.worker_id)
), lost AS MATERIALIZED (
    SELECT d.id
    FROM pgbus.deliveries AS d
    WHERE d.claim_token IS NOT NULL
      AND d.lease_expires_at >= to_timestamp(CAST(:lease_floor AS double precision))
      AND d.lease_expires_at < CASE WHEN CAST(:all_leases AS boolean) THEN 'infinity' ELSE now() END
      AND (d.lease_expires_at < now()
           OR (d.worker_id = ANY (CAST(:absent AS integer[]))
               AND d.worker_id IN (SELECT a.worker_id FROM absent AS a)))
    LIMIT CAST(:batch AS bigint)
    FOR UPDATE SKIP LOCKED
), overdue AS MATERIALIZED (
    SELECT d.id
    FROM pgbus.deliveries AS d
    WHERE d.id = ANY (CAST(:overdue AS bigint[]))
      AND (d.lease_expires_at < now()) IS TRUE
    FOR UPDATE SKIP LOCKED
), freed AS (
    DELETE FROM pgbus.deliveries AS d
    WHERE d.id = ANY (ARRAY(SELECT l.id FROM lost AS l UNION SELECT o.id FROM overdue AS o))
    RETURNING d.listener_id, d.lane, d.first, d.last, d.events, d.positions, d.attempt, d.crashes + 1 AS crashes,
              d.worker_id, d.last_error
), dead AS (
    INSERT INTO pgbus.dead_letters (listener_id, position, lane, attempts, error, fingerprint, worker, blocked_key)
    SELECT f.listener_id, f.first, f.lane, f.attempt,
           'the worker died ' || f.crashes || ' times while it handled this event', 'WorkerDied',
           COALESCE((SELECT w.name FROM pgbus.workers AS w WHERE w.id = f.worker_id), 'worker ' || f.worker_id),
           CASE WHEN l.options ->> 'on_poison' = 'block' THEN e.key END
    FROM freed AS f
    JOIN pgbus.listeners AS l ON l.id = f.listener_id
    JOIN pgbus.events AS e ON e.position = f.first
    WHERE f.crashes >= CAST(:max_crashes AS integer) AND f.events = 1
    RETURNING position, listener_id, attempts, error, worker
), noted AS (
    INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker, error)
    SELECT x.position, x.listener_id, x.attempts, 'dead', now(), 0, x.worker, x.error
    FROM dead AS x
), again AS (
    INSERT INTO pgbus.deliveries
        (listener_id, lane, first, last, events, positions, available_at, attempt, crashes, last_error)
    SELECT f.listener_id, f.lane, f.first, f.last, f.events, f.positions, now(), f.attempt, f.crashes, f.last_error
    FROM freed AS f
    WHERE f.crashes < 2 OR (f.events = 1 AND f.crashes < CAST(:max_crashes AS integer))
    UNION ALL
    SELECT f.listener_id, f.lane, p.position, p.position, 1, NULL, now(), f.attempt, f.crashes, f.last_error
    FROM freed AS f
    CROSS JOIN LATERAL (
        SELECT u.position FROM unnest(f.positions) AS u (position)
        UNION ALL
        SELECT g.position FROM generate_series(f.first, f.last) AS g (position) WHERE f.positions IS NULL
    ) AS p
    WHERE f.crashes >= 2 AND f.events > 1
), woken AS (
    SELECT count(*) AS freed, array_agg(DISTINCT f.listener_id) AS listener_ids FROM freed AS f
)
SELECT w.freed, w.listener_ids, (SELECT array_agg(a.worker_id) FROM absent AS a) AS absent,
       CAST(:all_leases AS boolean) AND NOT EXISTS (
           SELECT 1 FROM pgbus.deliveries AS d
           WHERE d.claim_token IS NOT NULL
             AND d.lease_expires_at >= to_timestamp(CAST(:lease_floor AS double precision))
             AND d.worker_id = ANY (CAST(:absent AS integer[]))
             AND d.worker_id IN (SELECT a.worker_id FROM absent AS a)
             AND d.id <> ALL (ARRAY(SELECT l.id FROM lost AS l))
       ) AS is_done,
       EXISTS (SELECT FROM pgbus.schedules AS s WHERE s.claim_token IS NOT NULL) AS has_runs,
       CASE WHEN w.listener_ids IS NOT NULL
            -- More than a wake-up: the worker looks at everything, because only that finds suspects.
            THEN pg_notify(CAST(:work_channel AS text), 'reload') END AS told,
       CAST(extract(epoch FROM now()) AS double precision) AS looked_at
FROM woken AS w

-- name: find_overdue_claims
-- Claims whose leases ended before an instant: below the floor of `free_claims`, which has left them because someone had
-- locked them, or has not seen them, as they had not committed. Reads the dead rows of all claims that a snapshot keeps.
SELECT d.id
FROM pgbus.deliveries AS d
WHERE d.claim_token IS NOT NULL
  AND d.lease_expires_at < to_timestamp(CAST(:before AS double precision))
LIMIT CAST(:batch AS bigint)

-- name: count_untried
-- The number of due events, published up to an instant (NULL: up to now), that these listeners have not tried yet; and
-- the current instant.
SELECT (SELECT count(*)
        FROM pgbus.outbox AS o
        WHERE o.published_at <= COALESCE(CAST(:until AS timestamptz), clock_timestamp())
          AND (o.deliver_at IS NULL OR o.deliver_at <= clock_timestamp()))
     + (SELECT count(*)
        FROM pgbus.deliveries AS d
        JOIN pgbus.listeners AS l ON l.id = d.listener_id
        WHERE l.listener_name = ANY (CAST(:listener_names AS text[]))
          AND l.state = 'active'
          AND d.attempt = 1
          AND d.blocked_key IS NULL
          AND EXISTS (SELECT
                      FROM pgbus.events AS e
                      WHERE e.position = d.first
                        AND e.published_at <= COALESCE(CAST(:until AS timestamptz), clock_timestamp()))) AS untried,
       clock_timestamp() AS looked_at
