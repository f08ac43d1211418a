-- Publishing: insert events into the outbox, at most one for each dedup key, and cancel scheduled ones.
--
-- Payloads and headers are bound as text and cast here, because a connection may have its own codec for jsonb; what is
-- returned is text, as it may have one for uuid, too.
-- Ancestors are bound as one string of topics with spaces between them: arrays of arrays must be rectangular.

-- name: insert_event
-- One event that is due at once.
--
-- None of the INSERTs locks anything that another publisher waits for, except `insert_events_once`. What the default of
-- `wake` does to wake the leader is written there. A statement for many rows has it done once, in a subselect.
INSERT INTO pgbus.outbox (event_id, topic, ancestors, key, payload, headers, published_by)
VALUES (
    CAST(:event_id AS uuid),
    CAST(:topic AS text),
    string_to_array(CAST(:ancestors AS text), ' '),
    CAST(:key AS text),
    CAST(CAST(:payload AS text) AS jsonb),
    CAST(CAST(:headers AS text) AS jsonb),
    COALESCE(CAST(:published_by AS text), CURRENT_USER)
)

-- name: insert_lines
-- Events of one topic and with the same headers that are due at once, each payload on a line of its own: a driver sends
-- one long text in a quarter of the time of an array, and the server takes it apart as quickly. JSON holds no line feed
-- but between its values.
-- What all of them share is a subselect each, which runs once: as a plain expression, it would be cast and checked by
-- its domain for each row.
INSERT INTO pgbus.outbox (wake, event_id, topic, ancestors, payload, headers, published_by)
SELECT (SELECT pgbus.wake_leader()),
       CAST(given.event_id AS uuid),
       (SELECT CAST(CAST(:topic AS text) AS pgbus.topic)),
       (SELECT CAST(string_to_array(CAST(:ancestors AS text), ' ') AS pgbus.ancestors)),
       CAST(given.payload AS jsonb),
       (SELECT CAST(CAST(CAST(:headers AS text) AS jsonb) AS pgbus.headers)),
       (SELECT COALESCE(CAST(:published_by AS text), CURRENT_USER))
FROM ROWS FROM (
    string_to_table(CAST(:event_ids AS text), ' '),
    string_to_table(CAST(:payloads AS text), chr(10))
) AS given (event_id, payload)

-- name: insert_events
-- Events in the order of the arrays. An array may be shorter than `event_ids`: missing elements are NULL.
INSERT INTO pgbus.outbox (wake, event_id, topic, ancestors, key, payload, headers, deliver_at, published_by)
SELECT (SELECT pgbus.wake_leader()),
       given.event_id,
       given.topic,
       string_to_array(given.ancestors, ' '),
       given.key,
       CAST(given.payload AS jsonb),
       CAST(given.headers AS jsonb),
       COALESCE(given.deliver_at, clock_timestamp() + given.delay * INTERVAL '1 second'),
       COALESCE(CAST(:published_by AS text), CURRENT_USER)
FROM unnest(
    CAST(:event_ids AS uuid[]),
    CAST(:topics AS text[]),
    CAST(:ancestors AS text[]),
    CAST(:keys AS text[]),
    CAST(:payloads AS text[]),
    CAST(:headers AS text[]),
    CAST(:deliver_ats AS timestamptz[]),
    CAST(:delays AS double precision[])
) AS given (event_id, topic, ancestors, key, payload, headers, deliver_at, delay)

-- name: insert_events_once
-- Events as in `insert_events`, but only the first one under a dedup key; returns, for each key, the id of its event.
-- For a key that another open transaction has taken, it waits for the end of that one: until then nobody knows whether
-- the key's event exists.
WITH given AS MATERIALIZED (
    SELECT g.*
    FROM unnest(
        CAST(:event_ids AS uuid[]),
        CAST(:topics AS text[]),
        CAST(:ancestors AS text[]),
        CAST(:keys AS text[]),
        CAST(:payloads AS text[]),
        CAST(:headers AS text[]),
        CAST(:deliver_ats AS timestamptz[]),
        CAST(:delays AS double precision[]),
        CAST(:dedup_keys AS text[])
    ) WITH ORDINALITY AS g (event_id, topic, ancestors, key, payload, headers, deliver_at, delay, dedup_key, number)
), wanted AS MATERIALIZED (
    -- Within one call, only the first event under a key is published.
    SELECT DISTINCT ON (g.dedup_key) g.dedup_key, g.number, g.event_id
    FROM given AS g
    WHERE g.dedup_key IS NOT NULL
    ORDER BY g.dedup_key, g.number
), holders AS MATERIALIZED (
    SELECT t.dedup_key, t.event_id, t.was_taken
    FROM (SELECT array_agg(w.dedup_key) AS dedup_keys, array_agg(w.event_id) AS event_ids FROM wanted AS w) AS k
    CROSS JOIN LATERAL pgbus.take_dedup_keys(k.dedup_keys, k.event_ids, CAST(:dedup_ttl AS double precision)) AS t
), inserted AS (
    INSERT INTO pgbus.outbox (wake, event_id, topic, ancestors, key, payload, headers, deliver_at, published_by)
    SELECT (SELECT pgbus.wake_leader()),
           g.event_id,
           g.topic,
           string_to_array(g.ancestors, ' '),
           g.key,
           CAST(g.payload AS jsonb),
           CAST(g.headers AS jsonb),
           COALESCE(g.deliver_at, clock_timestamp() + g.delay * INTERVAL '1 second'),
           COALESCE(CAST(:published_by AS text), CURRENT_USER)
    FROM given AS g
    LEFT JOIN wanted AS w ON w.number = g.number
    LEFT JOIN holders AS h ON h.dedup_key = w.dedup_key AND h.was_taken
    WHERE g.dedup_key IS NULL OR h.dedup_key IS NOT NULL
    ORDER BY g.number
)
SELECT h.dedup_key, CAST(h.event_id AS text) AS event_id
FROM holders AS h

-- name: cancel_event
-- Take a scheduled event out of the outbox before it is due, and free its dedup key; returns its id if it was there.
-- The row stays locked until the caller's transaction ends; the leader steps over it. If the leader is the first, this
-- waits for its move, and then finds nothing: the event was not cancelled, and is delivered.
WITH cancelled AS (
    DELETE FROM pgbus.outbox AS o
    WHERE o.event_id = CAST(:event_id AS uuid)
      AND o.deliver_at > clock_timestamp()
    RETURNING o.event_id
), freed AS (
    -- Otherwise a new event under the key would be taken for the cancelled one.
    DELETE FROM pgbus.dedup_keys AS k
    WHERE k.event_id = ANY (ARRAY(SELECT c.event_id FROM cancelled AS c))
)
SELECT CAST(c.event_id AS text) AS event_id
FROM cancelled AS c
