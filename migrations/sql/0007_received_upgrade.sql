-- Relays: what this bus has received from other systems, and by which name those know it.

-- One row: the identity of this bus, which relays write into events, so that none comes back to where it has been. A
-- copy of a database that is to exchange events with the original needs another one.
CREATE TABLE pgbus.identity (
    bus_id   uuid    NOT NULL DEFAULT gen_random_uuid(),
    only_row boolean PRIMARY KEY DEFAULT true,
    CONSTRAINT identity_is_one_row CHECK (only_row)
);
INSERT INTO pgbus.identity DEFAULT VALUES;

-- The messages that relays have received: each is published once, by the statement that writes its row.
CREATE TABLE pgbus.received (
    -- Both of a CloudEvent; of another message, the relay with the place that it was read from, and its place there.
    source      text        NOT NULL,
    message_id  text        NOT NULL,
    relay       text        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The event that it became; of a message that cannot be one, why, and what it was.
    event_id    uuid,
    refused     text,
    body        bytea,
    PRIMARY KEY (source, message_id),
    CONSTRAINT received_is_an_event_or_refused
        CHECK ((event_id IS NULL) = (refused IS NOT NULL) AND (refused IS NULL) = (body IS NULL))
);
-- For the cleanup, which leaves what was refused to people.
CREATE INDEX received_received_at ON pgbus.received (received_at) WHERE refused IS NULL;
CREATE INDEX received_refused ON pgbus.received (received_at) WHERE refused IS NOT NULL;

-- -------------------------------------------------------------------------------------------------------------- comments

COMMENT ON TABLE pgbus.received IS 'One row per message that a relay has received: the event that it became, or why it was refused';
COMMENT ON COLUMN pgbus.received.source IS 'Source of a CloudEvent, or the relay and the place it reads';
COMMENT ON COLUMN pgbus.received.message_id IS 'Id of the message at its source';
COMMENT ON COLUMN pgbus.received.relay IS 'Name of the relay';
COMMENT ON COLUMN pgbus.received.received_at IS 'When the relay received it';
COMMENT ON COLUMN pgbus.received.event_id IS 'Event that it became; NULL: refused';
COMMENT ON COLUMN pgbus.received.refused IS 'Why it is not an event; NULL: it is one';
COMMENT ON COLUMN pgbus.received.body IS 'The message, if it was refused';
COMMENT ON TABLE pgbus.identity IS 'The identity of this bus in the origins of events that relays carry';
COMMENT ON COLUMN pgbus.identity.bus_id IS 'Id of this bus';
COMMENT ON COLUMN pgbus.identity.only_row IS 'Always true';
