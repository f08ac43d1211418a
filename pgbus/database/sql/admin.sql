-- Changes that operators make.

-- name: lock_dead_letters
-- Lock dead letters until the transaction ends. This is a separate statement: only the next one sees events that a
-- worker, which settles at the same time, has blocked behind them.
SELECT x.id
FROM pgbus.dead_letters AS x
WHERE x.id = ANY (CAST(:ids AS bigint[]))
ORDER BY x.id
FOR UPDATE

-- name: retry_dead_letters
-- Turn dead letters into deliveries of one event each, due at once. Dead letters that another operator took meanwhile
-- are skipped.
WITH taken AS (
    DELETE FROM pgbus.dead_letters AS x
    WHERE x.id = ANY (CAST(:ids AS bigint[]))
    RETURNING x.id, x.listener_id, x.lane, x.position, x.blocked_key
), owed AS (
    INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events, available_at)
    SELECT t.listener_id, t.lane, t.position, t.position, 1, now()
    FROM taken AS t
    ORDER BY t.position
), unblocked AS (
    -- Events blocked by the last dead letter of their key are released: they come after it in the log.
    UPDATE pgbus.deliveries AS d
    SET blocked_key = NULL, available_at = now()
    FROM taken AS t
    WHERE d.listener_id = t.listener_id
      AND d.blocked_key = t.blocked_key
      AND NOT EXISTS (
          SELECT 1 FROM pgbus.dead_letters AS x
          WHERE x.listener_id = t.listener_id AND x.blocked_key = t.blocked_key AND x.id <> ALL (CAST(:ids AS bigint[])))
)
SELECT t.id
FROM taken AS t
ORDER BY t.id

-- name: discard_dead_letters
-- Delete dead letters, and write the outcome `discarded` to the history.
WITH taken AS (
    DELETE FROM pgbus.dead_letters AS x
    WHERE x.id = ANY (CAST(:ids AS bigint[]))
    RETURNING x.id, x.listener_id, x.position, x.attempts, x.error, x.blocked_key
), told AS (
    INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker, error)
    SELECT t.position, t.listener_id, t.attempts, 'discarded', now(), 0, 'operator', t.error
    FROM taken AS t
), unblocked AS (
    -- Events blocked by the last dead letter of their key are released: they come after it in the log.
    UPDATE pgbus.deliveries AS d
    SET blocked_key = NULL, available_at = now()
    FROM taken AS t
    WHERE d.listener_id = t.listener_id
      AND d.blocked_key = t.blocked_key
      AND NOT EXISTS (
          SELECT 1 FROM pgbus.dead_letters AS x
          WHERE x.listener_id = t.listener_id AND x.blocked_key = t.blocked_key AND x.id <> ALL (CAST(:ids AS bigint[])))
)
SELECT t.id
FROM taken AS t
ORDER BY t.id

-- name: lock_listener
-- Return the listener's id, and lock its row against the leader and other operators until the transaction ends.
SELECT l.id
FROM pgbus.listeners AS l
WHERE l.listener_name = CAST(:listener_name AS text)
FOR UPDATE

-- name: set_listener_state
-- Pause or resume a listener.
UPDATE pgbus.listeners AS l
SET state = CAST(:state AS text)
WHERE l.id = CAST(:listener_id AS integer)

-- name: set_listener_cursor
-- Let the leader write deliveries for a listener from a position of the log on.
UPDATE pgbus.listeners AS l
SET cursor = CAST(:cursor AS bigint)
WHERE l.id = CAST(:listener_id AS integer)

-- name: delete_waiting_deliveries
-- Delete the deliveries of a listener that are not claimed. Claimed ones are left to their workers.
DELETE FROM pgbus.deliveries AS d
WHERE d.listener_id = CAST(:listener_id AS integer)
  AND d.claim_token IS NULL

-- name: delete_deliveries
-- Delete all deliveries of a listener; a worker that has claimed some of them can no longer settle them.
DELETE FROM pgbus.deliveries AS d
WHERE d.listener_id = CAST(:listener_id AS integer)

-- name: delete_listener
-- Delete a listener with its subscriptions and dead letters.
DELETE FROM pgbus.listeners AS l
WHERE l.id = CAST(:listener_id AS integer)
