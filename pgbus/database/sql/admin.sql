-- The few changes that an operator makes.

-- name: lock_dead_letters
-- Hold dead letters until the transaction ends. A statement of its own: only the next one sees what a worker, who was
-- settling at this moment, has put aside behind them.
SELECT x.id
FROM pgbus.dead_letters AS x
WHERE x.id = ANY (CAST(:ids AS bigint[]))
ORDER BY x.id
FOR UPDATE

-- name: retry_dead_letters
-- Turn dead letters into deliveries of one event each, due at once. A letter that someone else took meanwhile is left out.
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
    -- What waited behind the last dead letter of its key may go on, after the letter itself: it comes later in the log.
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
-- Remove dead letters, and say so in the history.
WITH taken AS (
    DELETE FROM pgbus.dead_letters AS x
    WHERE x.id = ANY (CAST(:ids AS bigint[]))
    RETURNING x.id, x.listener_id, x.position, x.attempts, x.error, x.blocked_key
), told AS (
    INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker, error)
    SELECT t.position, t.listener_id, t.attempts, 'discarded', now(), 0, 'operator', t.error
    FROM taken AS t
), unblocked AS (
    -- What waited behind the last dead letter of its key may go on, after the letter itself: it comes later in the log.
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
-- The listener's id, its row locked against the leader and other operators until the transaction ends.
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
-- Owe a listener the log from a position on.
UPDATE pgbus.listeners AS l
SET cursor = CAST(:cursor AS bigint)
WHERE l.id = CAST(:listener_id AS integer)

-- name: delete_waiting_deliveries
-- Delete the deliveries of a listener that are not claimed. Claimed ones are left to their workers.
DELETE FROM pgbus.deliveries AS d
WHERE d.listener_id = CAST(:listener_id AS integer)
  AND d.claim_token IS NULL

-- name: delete_deliveries
-- Delete everything that is owed to a listener; a worker that holds a claim on it can no longer settle it.
DELETE FROM pgbus.deliveries AS d
WHERE d.listener_id = CAST(:listener_id AS integer)

-- name: delete_listener
-- Delete a listener with its subscriptions and dead letters.
DELETE FROM pgbus.listeners AS l
WHERE l.id = CAST(:listener_id AS integer)
