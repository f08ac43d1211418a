-- Relays: messages of other systems become events, each once.

-- name: receive_messages
-- Publish messages as events in the order of the arrays, except those that were received before; returns the number of
-- new ones. One statement is one transaction: there is a row in `received` if and only if the event is published. If
-- another transaction receives the same message, this waits for its end.
WITH given AS MATERIALIZED (
    SELECT g.*
    FROM unnest(
        CAST(:sources AS text[]),
        CAST(:message_ids AS text[]),
        CAST(:refusals AS text[]),
        CAST(:bodies AS bytea[]),
        CAST(:event_ids AS uuid[]),
        CAST(:topics AS text[]),
        CAST(:ancestors AS text[]),
        CAST(:keys AS text[]),
        CAST(:payloads AS text[]),
        CAST(:headers AS text[])
    ) WITH ORDINALITY AS g (source, message_id, refused, body, event_id, topic, ancestors, key, payload, headers, place)
), new AS (
    -- Sorted, so that two transactions with messages in common do not wait for each other.
    INSERT INTO pgbus.received (source, message_id, relay, event_id, refused, body)
    SELECT g.source, g.message_id, CAST(:relay AS text), g.event_id, g.refused, g.body
    FROM given AS g
    ORDER BY g.source, g.message_id
    ON CONFLICT (source, message_id) DO NOTHING
    RETURNING source, message_id
), published AS (
    INSERT INTO pgbus.outbox (wake, event_id, topic, ancestors, key, payload, headers, published_by)
    SELECT (SELECT pgbus.wake_leader()),
           g.event_id,
           g.topic,
           string_to_array(g.ancestors, ' '),
           g.key,
           CAST(g.payload AS jsonb),
           CAST(g.headers AS jsonb),
           CAST(:relay AS text)
    FROM given AS g
    JOIN new AS n ON n.source = g.source AND n.message_id = g.message_id
    WHERE g.refused IS NULL
    ORDER BY g.place
)
SELECT count(*) AS new
FROM new AS n

-- name: forget_received
-- Delete the oldest of the messages that were received more than this many seconds ago; returns their number. By the
-- places of the rows, which are never updated, and in an array: for a join, the planner reads the whole table. No index
-- serves a comparison with clock_timestamp().
WITH forgotten AS (
    DELETE FROM pgbus.received AS r
    WHERE r.ctid = ANY (ARRAY(
        SELECT x.ctid
        FROM pgbus.received AS x
        WHERE x.refused IS NULL
          AND x.received_at < now() - CAST(:age AS double precision) * INTERVAL '1 second'
        ORDER BY x.received_at
        LIMIT CAST(:most AS integer)
    ))
    RETURNING r.source
)
SELECT count(*) AS messages
FROM forgotten AS f

-- name: read_bus_id
-- The identity of this bus.
SELECT i.bus_id
FROM pgbus.identity AS i

-- name: lock_relay
-- Take the right to receive under this name until the session ends; false while another session has it. The lock's
-- second number is a hash of the name: of two names with one hash, which is 1 in 4 billion, the second relay would
-- stand by.
SELECT pg_try_advisory_lock(hashtext(CAST(:namespace AS text) || '.relay'), hashtext(CAST(:relay AS text))) AS locked
