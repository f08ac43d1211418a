-- Registered listeners, and live workers.

-- name: register_listeners
-- Insert listeners, or lock their rows; returns which are new, and the current options of the others. It does not
-- change them, because our code may be an older version: `set_listener_options` does. `start_positions` are where new
-- listeners begin; NULL: with the events logged from now on. In the order of their names: workers that register the
-- same ones at once must not deadlock.
WITH wanted AS MATERIALIZED (
    SELECT w.listener_name, w.lanes, w.options, w.start_position
    FROM unnest(
        CAST(:listener_names AS text[]), CAST(:lanes AS smallint[]), CAST(:options AS text[]),
        CAST(:start_positions AS bigint[])
    ) AS w (listener_name, lanes, options, start_position)
), known AS MATERIALIZED (
    -- Locked, so that a row that is being deleted at the same time is not found.
    SELECT l.id, l.listener_name, l.options
    FROM pgbus.listeners AS l
    WHERE l.listener_name = ANY (CAST(:listener_names AS text[]))
    ORDER BY l.listener_name
    FOR NO KEY UPDATE
), changed AS (
    UPDATE pgbus.listeners AS l
    SET last_seen_at = now()
    FROM known AS k
    WHERE l.id = k.id
    RETURNING l.id, l.listener_name
), begun AS (
    -- Only for new listeners: INSERT ... ON CONFLICT consumes an id even if it inserts nothing.
    INSERT INTO pgbus.listeners AS l (listener_name, lanes, options, service, cursor)
    SELECT w.listener_name, w.lanes, CAST(w.options AS jsonb), CAST(:service AS text), w.start_position
    FROM wanted AS w
    WHERE w.listener_name NOT IN (SELECT k.listener_name FROM known AS k)
    ORDER BY w.listener_name
    ON CONFLICT (listener_name) DO UPDATE SET last_seen_at = now()
    RETURNING l.id, l.listener_name
)
SELECT r.id, r.listener_name, k.id IS NULL AS is_new, CAST(k.options AS text) AS old_options
FROM (SELECT * FROM changed UNION ALL SELECT * FROM begun) AS r
LEFT JOIN known AS k ON k.id = r.id

-- name: set_listener_options
-- Set the options of listeners, and the service that runs them. The transaction has locked their rows by registering
-- them.
UPDATE pgbus.listeners AS l
SET lanes = w.lanes,
    options = CAST(w.options AS jsonb),
    service = CAST(:service AS text)
FROM unnest(CAST(:listener_ids AS integer[]), CAST(:lanes AS smallint[]), CAST(:options AS text[]))
    AS w (id, lanes, options)
WHERE l.id = w.id

-- name: replace_subscriptions
-- Replace the subscriptions of listeners by these patterns, each in a row with its listener; returns the patterns that
-- were added and those that were removed. The transaction has locked the listeners' rows, as `expire_declarations`
-- does: nobody removes a pattern that is found here already. The rows' trigger has the leader read the routes again,
-- and until it has, it logs no event.
WITH wanted AS MATERIALIZED (
    SELECT w.listener_id, w.pattern, w.regex
    FROM unnest(CAST(:pattern_listener_ids AS integer[]), CAST(:patterns AS text[]), CAST(:regexes AS text[]))
        AS w (listener_id, pattern, regex)
), added AS (
    INSERT INTO pgbus.subscriptions AS s (listener_id, pattern, regex)
    SELECT w.listener_id, w.pattern, w.regex FROM wanted AS w
    ON CONFLICT (listener_id, pattern) DO NOTHING
    RETURNING s.listener_id, s.pattern
), removed AS (
    DELETE FROM pgbus.subscriptions AS s
    WHERE s.listener_id = ANY (CAST(:listener_ids AS integer[]))
      AND ((s.listener_id, s.pattern) IN (SELECT w.listener_id, w.pattern FROM wanted AS w)) IS FALSE
    RETURNING s.listener_id, s.pattern
)
SELECT a.listener_id, 'added' AS change, a.pattern FROM added AS a
UNION ALL
SELECT r.listener_id, 'removed' AS change, r.pattern FROM removed AS r

-- name: find_declarations
-- The declarations of listeners by versions of services, each with one of the other live workers that run it, or NULL.
-- `is_recent`: it was seen within `ttl` seconds, or one of them declares it, which says nothing while the bus sleeps.
SELECT d.listener_id, d.service, d.patterns, CAST(d.options AS text) AS options, d.first_seen_at, w.id AS worker_id, w.name AS worker, w.host, w.pid, w.home,
       w.id IS NOT NULL
           OR d.last_seen_at > now() - CAST(:ttl AS double precision) * INTERVAL '1 second' AS is_recent
FROM pgbus.declarations AS d
LEFT JOIN (
    SELECT x.id, x.name, x.host, x.pid, x.home
    FROM pgbus.live_workers AS v
    JOIN pgbus.workers AS x ON x.id = v.id
    WHERE x.id <> CAST(:worker_id AS integer)
) AS w ON w.id = ANY (d.worker_ids)
WHERE d.listener_id = ANY (CAST(:listener_ids AS integer[]))

-- name: note_declarations
-- Record that a worker declares these topics (each list as the text of an array) and options for listeners, whose rows
-- the transaction has locked by registering them.
WITH declared AS MATERIALIZED (
    SELECT w.listener_id, CAST(w.patterns AS text[]) AS patterns, CAST(w.options AS jsonb) AS options
    FROM unnest(CAST(:listener_ids AS integer[]), CAST(:patterns AS text[]), CAST(:options AS text[]))
        AS w (listener_id, patterns, options)
), noted AS (
    UPDATE pgbus.declarations AS d
    SET worker_ids = ARRAY(
            SELECT w.id FROM pgbus.workers AS w
            WHERE w.id = ANY (d.worker_ids) OR w.id = CAST(:worker_id AS integer)),
        last_seen_at = clock_timestamp()
    FROM declared AS n
    WHERE d.listener_id = n.listener_id
      AND d.service = CAST(:service AS text)
      AND d.patterns = n.patterns
      AND d.options = n.options
    RETURNING d.listener_id
)
INSERT INTO pgbus.declarations (listener_id, service, patterns, options, worker_ids)
SELECT n.listener_id, CAST(:service AS text), n.patterns, n.options, ARRAY[CAST(:worker_id AS integer)]
FROM declared AS n
WHERE n.listener_id NOT IN (SELECT x.listener_id FROM noted AS x)

-- name: find_patterns
-- The patterns that a listener is subscribed to.
SELECT s.pattern FROM pgbus.subscriptions AS s WHERE s.listener_id = CAST(:listener_id AS integer)

-- name: pause_copy
-- In a copy of the bus's database, pause all that could send something; the operation's id, NULL where nothing was
-- paused. Each worker runs it before it claims anything, and waits here for the one that pauses.
SELECT pgbus.pause_copy() AS operation_id

-- name: register_worker
-- Insert the row of a worker; returns its id.
INSERT INTO pgbus.workers AS w (name, service, home, host, pid, version, listeners)
VALUES (
    CAST(:name AS text), CAST(:service AS text), CAST(:home AS text), CAST(:host AS text), CAST(:pid AS integer),
    CAST(:version AS text), CAST(:listeners AS text[])
)
RETURNING w.id

-- name: lock_worker
-- Take the advisory lock that shows that a worker is alive; it is held until this session ends. It does not wait: who
-- holds it may be the same worker's last session, of which the server has not noticed yet that it is gone.
SELECT pg_try_advisory_lock(hashtext(CAST(:namespace AS text) || '.worker'), CAST(:worker_id AS integer)) AS locked

-- name: touch_worker
-- Record that this worker and its listeners were seen now, which of its parts have failed, and what runs in it. Returns
-- the number of other live workers: without any, notifications are useless. A locked row is skipped: another worker
-- records the same at this moment, and two workers that waited for each other's rows would deadlock.
WITH seen_listeners AS (
    UPDATE pgbus.listeners AS l
    SET last_seen_at = now()
    FROM (
        SELECT f.id FROM pgbus.listeners AS f
        WHERE f.id = ANY (CAST(:listener_ids AS integer[]))
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS free
    WHERE l.id = free.id
), seen_declarations AS (
    UPDATE pgbus.declarations AS d
    SET last_seen_at = now()
    FROM (
        SELECT f.listener_id, f.service, f.patterns, f.options FROM pgbus.declarations AS f
        WHERE f.listener_id = ANY (CAST(:listener_ids AS integer[])) AND CAST(:worker_id AS integer) = ANY (f.worker_ids)
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS free
    WHERE d.listener_id = free.listener_id AND d.service = free.service AND d.patterns = free.patterns
      AND d.options = free.options
), seen AS (
    UPDATE pgbus.workers AS w
    SET last_seen_at = now(),
        listeners = CAST(:listeners AS text[]),
        failures = jsonb_object(CAST(:failed_parts AS text[]), CAST(:failures AS text[])),
        running = CAST(:running AS jsonb)
    WHERE w.id = CAST(:worker_id AS integer)
)
SELECT count(*) AS others
FROM pgbus.live_workers AS w
WHERE w.id <> CAST(:worker_id AS integer)

-- name: remove_worker
-- Delete the row of a worker that stopped. It has settled or released its claims before; what it left is freed as a
-- dead worker's, by its lock, which is gone.
DELETE FROM pgbus.workers AS w WHERE w.id = CAST(:worker_id AS integer)
