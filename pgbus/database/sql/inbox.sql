-- The inbox, a table in a handler's own database. These statements run on the handler's connection.

-- name: create_inbox_namespace
-- The schema of the inbox, unless the database already has it for a bus.
-- IF NOT EXISTS does not make it safe for two programs at once: the second may fail on a unique index of the catalog.
CREATE SCHEMA IF NOT EXISTS pgbus

-- name: create_inbox
-- One row for each event that a listener has taken.
CREATE TABLE IF NOT EXISTS pgbus.inbox (
    listener_name text        NOT NULL,
    event_id      uuid        NOT NULL,
    taken_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (listener_name, event_id)
)

-- name: create_inbox_index
-- For the cleanup. The rows are stored in the order of time, so a BRIN index suffices.
CREATE INDEX IF NOT EXISTS inbox_taken_at ON pgbus.inbox USING brin (taken_at)

-- name: take_events
-- Record that the listener takes these events; returns the ids of those that it had not taken before.
-- For an event that another open transaction takes, this waits for the end of that transaction. Sorted, so that two
-- batches with events in common do not wait for each other.
INSERT INTO pgbus.inbox (listener_name, event_id)
SELECT CAST(:listener_name AS text), given.event_id
FROM unnest(CAST(:event_ids AS uuid[])) AS given (event_id)
ORDER BY given.event_id
ON CONFLICT (listener_name, event_id) DO NOTHING
RETURNING CAST(event_id AS text) AS event_id

-- name: forget_taken_events
-- Delete the rows of events that were taken more than this many seconds ago; returns their number. No index
-- serves a comparison with clock_timestamp().
WITH forgotten AS (
    DELETE FROM pgbus.inbox AS i
    WHERE i.taken_at < now() - CAST(:age AS double precision) * INTERVAL '1 second'
    RETURNING i.event_id
)
SELECT CAST(count(*) AS text) AS events
FROM forgotten AS f
