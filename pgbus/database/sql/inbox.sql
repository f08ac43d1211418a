-- The inbox: in a database that a handler writes to and that is not the bus's. These run on the handler's own connection.

-- name: create_inbox_namespace
-- The schema that the inbox lies in, unless the database has a bus of its own there.
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
-- For cleaning up. The rows lie in the order of time, so the smallest kind of index will do.
CREATE INDEX IF NOT EXISTS inbox_taken_at ON pgbus.inbox USING brin (taken_at)

-- name: take_events
-- Note that the listener takes these events; returns the ids of those that it had not taken before.
-- An event that another open transaction takes makes us wait for its end. Sorted, so that two batches with events in
-- common do not wait for each other.
INSERT INTO pgbus.inbox (listener_name, event_id)
SELECT CAST(:listener_name AS text), given.event_id
FROM unnest(CAST(:event_ids AS uuid[])) AS given (event_id)
ORDER BY given.event_id
ON CONFLICT (listener_name, event_id) DO NOTHING
RETURNING CAST(event_id AS text) AS event_id

-- name: forget_taken_events
-- Forget what was taken longer ago than this, in seconds; returns how many events that were.
WITH forgotten AS (
    DELETE FROM pgbus.inbox AS i
    WHERE i.taken_at < clock_timestamp() - CAST(:age AS double precision) * INTERVAL '1 second'
    RETURNING i.event_id
)
SELECT CAST(count(*) AS text) AS events
FROM forgotten AS f
