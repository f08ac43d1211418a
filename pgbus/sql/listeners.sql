-- Listeners and workers: who is registered, and who is alive.

-- name: register_listener
-- Make a listener known, or bring its row up to date; says whether it is new, and what its options were before.
-- `start_position` and `start_at` say where a new listener begins; both NULL: with the events logged from now on.
WITH known AS MATERIALIZED (
    -- Locked: a row that is being removed at this moment is not found.
    SELECT l.id, l.options FROM pgbus.listeners AS l WHERE l.listener_name = CAST(:listener_name AS text) FOR NO KEY UPDATE
), changed AS (
    UPDATE pgbus.listeners AS l
    SET lanes = CAST(:lanes AS smallint),
        options = CAST(CAST(:options AS text) AS jsonb),
        service = CAST(:service AS text),
        last_seen_at = now()
    FROM known AS k
    WHERE l.id = k.id
    RETURNING l.id
), begun AS (
    -- Only for a new listener: INSERT ... ON CONFLICT uses up an id even where it inserts nothing.
    INSERT INTO pgbus.listeners AS l (listener_name, lanes, options, service, cursor)
    SELECT CAST(:listener_name AS text),
           CAST(:lanes AS smallint),
           CAST(CAST(:options AS text) AS jsonb),
           CAST(:service AS text),
           CASE WHEN CAST(:start_at AS timestamptz) IS NULL THEN CAST(:start_position AS bigint)
                -- No such event yet: from the end of the log on, and not live, or else an event that the leader is
                -- sequencing at this moment would be missed.
                ELSE COALESCE(
                    (SELECT e.position FROM pgbus.events AS e
                     WHERE e.logged_at >= CAST(:start_at AS timestamptz)
                     ORDER BY e.position
                     LIMIT 1),
                    (SELECT e.position + 1 FROM pgbus.events AS e ORDER BY e.position DESC LIMIT 1),
                    0) END
    WHERE NOT EXISTS (SELECT 1 FROM known)
    ON CONFLICT (listener_name) DO UPDATE SET
        lanes = excluded.lanes,
        options = excluded.options,
        service = excluded.service,
        last_seen_at = now()
    RETURNING l.id
)
SELECT r.id, k.id IS NULL AS is_new, CAST(k.options AS text) AS old_options
FROM (SELECT c.id FROM changed AS c UNION ALL SELECT b.id FROM begun AS b) AS r
LEFT JOIN known AS k ON k.id = r.id

-- name: replace_subscriptions
-- Make a listener's subscriptions these patterns; returns the patterns that were added and those that were removed.
WITH wanted AS MATERIALIZED (
    SELECT w.pattern, w.regex
    FROM unnest(CAST(:patterns AS text[]), CAST(:regexes AS text[])) AS w (pattern, regex)
), added AS (
    INSERT INTO pgbus.subscriptions AS s (listener_id, pattern, regex)
    SELECT CAST(:listener_id AS integer), w.pattern, w.regex FROM wanted AS w
    ON CONFLICT (listener_id, pattern) DO NOTHING
    RETURNING s.pattern
), removed AS (
    DELETE FROM pgbus.subscriptions AS s
    WHERE s.listener_id = CAST(:listener_id AS integer)
      AND s.pattern <> ALL (CAST(:patterns AS text[]))
    RETURNING s.pattern
)
SELECT 'added' AS change, a.pattern FROM added AS a
UNION ALL
SELECT 'removed' AS change, r.pattern FROM removed AS r

-- name: register_worker
-- Make a process known.
INSERT INTO pgbus.workers AS w (name, service, host, pid, version, listeners)
VALUES (
    CAST(:name AS text), CAST(:service AS text), CAST(:host AS text), CAST(:pid AS integer), CAST(:version AS text),
    CAST(:listeners AS text[])
)
RETURNING w.id

-- name: lock_worker
-- Hold the lock that says we live, for as long as this session does.
SELECT pg_try_advisory_lock(hashtext(CAST(:namespace AS text) || '.worker'), CAST(:worker_id AS integer)) AS locked

-- name: touch_worker
-- Say that this worker, and the listeners it runs, were seen. Returns how many live workers there are beside it: whether
-- it is any use to notify.
WITH seen_listeners AS (
    UPDATE pgbus.listeners AS l
    SET last_seen_at = now()
    WHERE l.id = ANY (CAST(:listener_ids AS integer[]))
), seen AS (
    UPDATE pgbus.workers AS w
    SET last_seen_at = now(), listeners = CAST(:listeners AS text[])
    WHERE w.id = CAST(:worker_id AS integer)
)
SELECT count(*) AS others
FROM pgbus.live_workers AS w
WHERE w.id <> CAST(:worker_id AS integer)

-- name: remove_worker
-- Forget a process that stopped.
DELETE FROM pgbus.workers AS w WHERE w.id = CAST(:worker_id AS integer)
