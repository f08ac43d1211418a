-- For tests of programs that use pgbus: the events that an open transaction has published, and the attempts at events.

-- name: find_transaction
-- The id of the current transaction; it differs for each statement if none was begun.
SELECT CAST(pg_current_xact_id() AS text) AS xid

-- name: take_own_events
-- Delete from the outbox, and return, the due events that this transaction has published and no other session can see.
--
-- Of all visible rows, only those of our own transaction and its savepoints have an xmin that is in progress. An xmin
-- is the lower half of such an xid; the upper half is taken from our own. All values are text, because the user's
-- connection may have codecs for other types.
WITH ours AS MATERIALIZED (
    SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint) >> 32 << 32 AS epoch
), taken AS (
    DELETE FROM pgbus.outbox AS o
    USING ours
    WHERE (o.deliver_at IS NULL OR o.deliver_at <= clock_timestamp())
      AND pg_xact_status(CAST(CAST(ours.epoch + CAST(CAST(o.xmin AS text) AS bigint) AS text) AS xid8)) = 'in progress'
    RETURNING o.id, o.event_id, o.topic, o.ancestors, o.key, CAST(o.payload AS text) AS payload,
              CAST(o.headers AS text) AS headers, o.published_at, o.deliver_at
)
SELECT CAST(t.id AS text) AS id, CAST(t.event_id AS text) AS event_id, t.topic,
       array_to_string(t.ancestors, ' ') AS ancestors, t.key, t.payload, t.headers,
       to_json(t.published_at) #>> '{}' AS published_at,
       to_json(t.deliver_at) #>> '{}' AS deliver_at
FROM taken AS t
ORDER BY t.id

-- name: count_unsettled
-- The number of due events that these listeners have not settled yet, and the current instant.
SELECT (SELECT count(*) FROM pgbus.outbox AS o WHERE o.deliver_at IS NULL OR o.deliver_at <= clock_timestamp())
     + (SELECT count(*)
        FROM pgbus.listeners AS l
        WHERE l.listener_name = ANY (CAST(:listener_names AS text[])) AND l.cursor IS NOT NULL)
     + (SELECT count(*)
        FROM pgbus.deliveries AS d
        JOIN pgbus.listeners AS l ON l.id = d.listener_id
        WHERE l.listener_name = ANY (CAST(:listener_names AS text[]))
          AND l.state = 'active'
          AND d.blocked_key IS NULL
          AND (d.claim_token IS NOT NULL OR d.available_at IS NULL OR d.available_at <= clock_timestamp())) AS unsettled,
       clock_timestamp() AS looked_at

-- name: stop_leading
-- Release the leader's lock, which a test has held so that no event enters the log.
SELECT pg_advisory_unlock(hashtext(CAST(:namespace AS text) || '.leader'), 1)

-- name: find_attempts
-- The attempts of these listeners that began after an instant, and their events.
-- The instants are those of the worker's clock as it was at each claim: a retry without a delay may seem to have begun
-- before the attempt that it repeats.
SELECT h.listener_name, h.attempt, h.outcome, h.error,
       e.position, e.event_id, e.topic, e.ancestors, e.key, e.payload, e.headers, e.published_at, e.deliver_at
FROM pgbus.attempts AS h
JOIN pgbus.events AS e ON e.position = h.position
WHERE h.started_at >= CAST(:since AS timestamptz)
  AND h.listener_name = ANY (CAST(:listener_names AS text[]))
ORDER BY max(h.started_at) OVER (PARTITION BY h.listener_name, h.position ORDER BY h.attempt), h.position, h.attempt
