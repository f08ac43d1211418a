-- pgbus: the outbox, the log, listeners and deliveries. The flow:
--
--   INSERT outbox --(commit)--> sequence: outbox -> events, + deliveries --> claim --> handler --> settle: history, or a later
--   delivery, or a dead letter
--
-- Every name has the namespace `pgbus`; the migration replaces it when the bus uses another one.

-- The revision of the oldest code that may run on this schema. A revision that needs new code replaces the function; one
-- that only adds, so that the code before it goes on, leaves it as it is.
CREATE FUNCTION pgbus.oldest_code() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT '0001' $$;

-- A UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then random bits. PostgreSQL has a function for it only from
-- version 18.
CREATE FUNCTION pgbus.uuid7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT encode(
        set_bit(
            set_bit(
                overlay(uuid_send(gen_random_uuid())
                        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                        FROM 1 FOR 6),
                52, 1),
            53, 1),
        'hex')::uuid
$$;

-- An instant that publishers write, of the years 1 to 9999 in UTC. PostgreSQL also has other years and infinity, which
-- a Python datetime cannot represent.
CREATE DOMAIN pgbus.instant AS timestamptz
    CONSTRAINT instant_is_in_years_1_to_9999 CHECK (VALUE >= to_timestamp(-62135596800) AND VALUE < to_timestamp(253402300800));

-- Domains check the columns that publishers write, and not CHECKs of the table: PostgreSQL parses the text of a table's
-- CHECKs at every statement, and a domain's once per session, which saves a third of the cost of one INSERT.
CREATE DOMAIN pgbus.topic AS text
    CONSTRAINT topic_is_dotted_words CHECK (VALUE ~ '^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$' AND length(VALUE) <= 255);
CREATE DOMAIN pgbus.ancestors AS text[]
    CONSTRAINT ancestors_are_a_list CHECK (array_ndims(VALUE) = 1 AND array_position(VALUE, NULL) IS NULL);
CREATE DOMAIN pgbus.key AS text
    CONSTRAINT key_is_short CHECK (VALUE <> '' AND length(VALUE) <= 255);
CREATE DOMAIN pgbus.headers AS jsonb
    CONSTRAINT headers_are_strings CHECK (
        jsonb_path_match(VALUE, 'strict $.type() == "object" && !exists($.* ? (@.type() != "string"))'));

-- An instant of the log, or NULL if Python cannot represent it: rows of the log may be older than the domains.
CREATE FUNCTION pgbus.readable(instant timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN instant >= to_timestamp(-62135596800) AND instant < to_timestamp(253402300800) THEN instant END
$$;

-- ---------------------------------------------------------------------------------------------------------------- outbox

-- The current wake slot. Publishers read it outside of any transaction, the leader advances it. Once it is set and not yet
-- called, its last value is NULL: the bus sleeps, nobody leads, and every publisher notifies.
CREATE SEQUENCE pgbus.wake_slots AS integer CYCLE;
SELECT nextval('pgbus.wake_slots');

-- Runs before a row of the outbox gets its id, as the DEFAULT of the column in front of that. NULL.
-- 1. It takes the transaction's xid first, so that every outbox id assigned so far belongs to a transaction with a lower
--    xid than the next one that any transaction takes; the sequencer's floor depends on that.
-- 2. It wakes the leader only when the leader sleeps. The leader sleeps only while it holds the current slot's lock
--    exclusively, or has made a slot the current one whose number publishers cannot read. Otherwise NOTIFY, which costs
--    a database-wide lock at commit.
-- Of the two looks at the current slot, mostly at one and the same, the second one counts. We share its lock, so the
-- leader cannot hold it. If the leader has left it since we read its number, we had shared the first one by then, and the
-- leader, which asks after each change who shares a slot, finds us.
-- A transaction that is older than a second always notifies: the leader leaves a slot that is shared for long, and a
-- transaction that publishes row by row for an hour would share each slot in turn. On a server that can prepare
-- transactions every transaction notifies: PostgreSQL prepares none that has notified, and this must not depend on
-- whether the leader sleeps.
-- One expression, which PostgreSQL writes into the plan of the INSERT: a trigger costs several times as much. The channel
-- is named after the namespace, which is the first part of any name in it.
CREATE FUNCTION pgbus.wake_leader() RETURNS boolean
    LANGUAGE sql VOLATILE
AS $$
    SELECT CASE WHEN CASE
                         WHEN pg_current_xact_id() IS NULL THEN false
                         WHEN clock_timestamp() - transaction_timestamp() > INTERVAL '1 second' THEN false
                         WHEN current_setting('max_prepared_transactions') <> '0' THEN false
                         -- NULL: the bus sleeps, or this user may INSERT but not read the slot. Before PostgreSQL 18
                         -- that is an error.
                         WHEN pg_try_advisory_xact_lock_shared(
                                  hashtext('pgbus.wake'), CAST(pg_sequence_last_value('pgbus.wake_slots') AS integer))
                             THEN pg_try_advisory_xact_lock_shared(
                                  hashtext('pgbus.wake'), CAST(pg_sequence_last_value('pgbus.wake_slots') AS integer))
                     END THEN CAST(NULL AS boolean)
                WHEN pg_notify((parse_ident('pgbus.wake'))[1] || '_wake', '') IS NULL THEN NULL
           END
$$;

-- The API of publishing: an event that is not yet in the log. Rows stay for milliseconds, or until `deliver_at`.
CREATE TABLE pgbus.outbox (
    -- Holds nothing: its DEFAULT runs, and in the order of the columns, so before that of `id`.
    wake         boolean DEFAULT pgbus.wake_leader(),
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id     uuid        NOT NULL DEFAULT pgbus.uuid7(),
    topic        pgbus.topic NOT NULL,
    ancestors    pgbus.ancestors,
    key          pgbus.key,
    payload      jsonb       NOT NULL DEFAULT '{}',
    headers      pgbus.headers,
    published_at pgbus.instant NOT NULL DEFAULT clock_timestamp(),
    deliver_at   pgbus.instant,
    -- The service, as its code says; the database's user where nothing is said.
    published_by text        NOT NULL DEFAULT CURRENT_USER
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX outbox_scheduled ON pgbus.outbox (deliver_at) WHERE deliver_at IS NOT NULL;
CREATE INDEX outbox_scheduled_event ON pgbus.outbox (event_id) WHERE deliver_at IS NOT NULL;

-- A caller's idempotency key for publishing: until it expires, a second event under it is not published.
CREATE TABLE pgbus.dedup_keys (
    dedup_key  text PRIMARY KEY,
    event_id   uuid          NOT NULL,
    expires_at pgbus.instant NOT NULL,
    CONSTRAINT dedup_keys_key_is_short CHECK (length(dedup_key) BETWEEN 1 AND 255)
);
CREATE INDEX dedup_keys_event_id ON pgbus.dedup_keys (event_id);
CREATE INDEX dedup_keys_expires_at ON pgbus.dedup_keys (expires_at);

-- Takes each key that is free, or has expired, for the event at the same place of the array; returns, for each key, the
-- event that holds it now, and whether this call took it. Keys must be distinct. It runs as the owner: publishers have
-- no other access to the keys, so they can neither end nor extend those of others.
CREATE FUNCTION pgbus.take_dedup_keys(
    dedup_keys text[], event_ids uuid[], ttl double precision,
    OUT dedup_key text, OUT event_id uuid, OUT was_taken boolean
) RETURNS SETOF record
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH wanted AS MATERIALIZED (
        SELECT w.dedup_key, w.event_id, statement_timestamp() + ttl * INTERVAL '1 second' AS expires_at
        FROM unnest(dedup_keys, event_ids) AS w (dedup_key, event_id)
    ), holders AS (
        -- For a key that another open transaction has inserted, this waits for the end of that transaction, and then
        -- sees which event holds it. Sorted, so that two calls with several keys in common do not deadlock.
        INSERT INTO pgbus.dedup_keys AS held (dedup_key, event_id, expires_at)
        SELECT w.dedup_key, w.event_id, w.expires_at
        FROM wanted AS w
        ORDER BY w.dedup_key
        ON CONFLICT ON CONSTRAINT dedup_keys_pkey DO UPDATE SET
            -- An expired key is taken over. Otherwise `expires_at` stays, and differs from ours, which is how
            -- `was_taken` is computed: the ids do not suffice, because a caller may retry with the same event_id.
            event_id = CASE WHEN held.expires_at <= statement_timestamp() THEN excluded.event_id ELSE held.event_id END,
            expires_at = CASE WHEN held.expires_at <= statement_timestamp() THEN excluded.expires_at
                              WHEN held.expires_at = excluded.expires_at THEN held.expires_at + INTERVAL '1 microsecond'
                              ELSE held.expires_at END
        RETURNING held.dedup_key, held.event_id, held.expires_at
    )
    SELECT h.dedup_key, h.event_id, h.expires_at = w.expires_at
    FROM holders AS h
    JOIN wanted AS w ON w.dedup_key = h.dedup_key
$$;
REVOKE EXECUTE ON FUNCTION pgbus.take_dedup_keys(text[], uuid[], double precision) FROM PUBLIC;

-- --------------------------------------------------------------------------------------------------------------- the log

-- The append-only log. The order of `position` is that in which the leader found the events.
-- A partition covers 10^9 positions; the leader opens the next one when a period ends.
CREATE TABLE pgbus.events (
    position     bigint      NOT NULL PRIMARY KEY,
    event_id     uuid        NOT NULL,
    topic        text        NOT NULL,
    ancestors    text[],
    key          text,
    payload      jsonb       NOT NULL,
    headers      jsonb,
    published_at timestamptz NOT NULL,
    deliver_at   timestamptz,
    logged_at    timestamptz NOT NULL,
    published_by text        NOT NULL DEFAULT CURRENT_USER
) PARTITION BY RANGE (position);
CREATE INDEX events_event_id ON pgbus.events (event_id);
CREATE INDEX events_key ON pgbus.events (key, position) WHERE key IS NOT NULL;
CREATE INDEX events_logged_at ON pgbus.events USING brin (logged_at) WITH (pages_per_range = 32);

-- Why an event is there: a row for each one that has an origin besides itself, which the leader writes with its position.
-- Calls and runs are in tables that are pruned sooner than the log; those that belong to a tree get their row here then.
-- The four headers `correlation_id`, `causation_id`, `traceparent` and `tracestate` carry it from process to process. What
-- has none of them is a root: the rows of its tree have its id as their correlation_id.
CREATE TABLE pgbus.causes (
    -- That of the event; for a call or run the end of the log when it was pruned, so that it is kept as long as its events.
    position       bigint      NOT NULL,
    kind           text        NOT NULL DEFAULT 'event',  -- or call, or run
    id             uuid        NOT NULL,
    correlation_id text        NOT NULL,
    causation_id   uuid,
    -- Of a call or run: the procedure or schedule, who called or ran it, when, and its outcome. An event has these itself.
    name           text,
    actor          text,
    at             timestamptz,
    state          text
) PARTITION BY RANGE (position);
CREATE INDEX causes_correlation_id ON pgbus.causes (correlation_id);

-- A header's value if it is a UUID: publishers may write any text. Not by one regular expression for all of it, which
-- would take three times as long: of each state of one, PostgreSQL works out the next ones again for every value.
CREATE FUNCTION pgbus.uuid_or_null(value text) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN value LIKE '________-____-____-____-____________' AND value !~ '[^0-9A-Fa-f-]'
                     AND length(replace(value, '-', '')) = 32 THEN CAST(value AS uuid) END
$$;
-- Which tree an event, call or run belongs to, by its id and its headers; of a value that is too long, its beginning.
CREATE FUNCTION pgbus.correlation_of(id uuid, headers jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT COALESCE(NULLIF(left(headers ->> 'correlation_id', 255), ''), CAST(id AS text))
$$;

-- What became of events at one listener in one attempt, a row for each run of them: events of one claim that are done, lie
-- in one block of 64 positions, and began within a millisecond. Everything else is a run of one. `offsets` says how far
-- each event lies from `first` when the run has holes, `durations` how long each took when they differ. Only the engine
-- writes here, and as deliveries it has no CHECKs: the tests run with those of tests/support/history.sql.
CREATE TABLE pgbus.history (
    first       bigint      NOT NULL,
    -- When the first of them began, which stands for all of them, so that an index finds attempts by their time.
    started_at  timestamptz NOT NULL,
    listener_id integer     NOT NULL,
    attempt     integer     NOT NULL,
    duration    real,
    -- The last position less the first.
    span        smallint    NOT NULL DEFAULT 0,
    outcome     text        NOT NULL,
    worker      text        NOT NULL,
    error       text,
    offsets     smallint[],
    durations   real[]
) PARTITION BY RANGE (first);
-- At most 400 bytes: compressing them costs more than it saves, and readers would have to decompress them.
ALTER TABLE pgbus.history ALTER COLUMN offsets SET STORAGE PLAIN, ALTER COLUMN durations SET STORAGE PLAIN;

-- The smallest of the aligned blocks of 1, 8 and 64 positions that holds a run, as one number. The runs that an event may
-- be in are those of its three blocks, and few, whatever the sizes of the runs around it: each has the block of 8 as its
-- smallest, of which there is room for 4, or crosses the end of one, so that there are 7 of it at most. (For a listener
-- that got each event once.) As 64 divides 10^9, no run crosses the end of a partition.
CREATE FUNCTION pgbus.run_block(first bigint, span smallint) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN span = 0 THEN first << 2
                WHEN first >> 3 = (first + span) >> 3 THEN ((first >> 3) << 5) | 1
                ELSE ((first >> 6) << 8) | 2 END
$$;
CREATE FUNCTION pgbus.event_blocks("position" bigint) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT ARRAY["position" << 2, (("position" >> 3) << 5) | 1, (("position" >> 6) << 8) | 2]
$$;
-- The offsets of a run without holes.
CREATE FUNCTION pgbus.run_offsets(span smallint) RETURNS smallint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (CAST('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,'
                 '39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63}' AS smallint[]))[1:span + 1]
$$;
CREATE INDEX history_run_block ON pgbus.history (pgbus.run_block(first, span));
CREATE INDEX history_started_at ON pgbus.history USING brin (started_at) WITH (pages_per_range = 32);

-- ------------------------------------------------------------------------------------------------------------- listeners

CREATE TABLE pgbus.listeners (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    listener_name text        NOT NULL UNIQUE,
    state         text        NOT NULL DEFAULT 'active',
    lanes         smallint,
    options       jsonb       NOT NULL DEFAULT '{}',
    service       text        NOT NULL DEFAULT '',
    -- NULL: live, the sequencer writes its deliveries. Else the leader still has to write deliveries for the log from
    -- here on.
    cursor        bigint,
    registered_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT listeners_name_is_short CHECK (length(listener_name) BETWEEN 1 AND 255),
    CONSTRAINT listeners_state_is_known CHECK (state IN ('active', 'paused')),
    CONSTRAINT listeners_lanes_is_positive CHECK (lanes > 0),
    CONSTRAINT listeners_cursor_is_position CHECK (cursor >= 0)
);

-- Listeners that were removed: the history has their ids, and keeps their names. Every deleted row leaves one here.
CREATE TABLE pgbus.removed_listeners (
    id            integer PRIMARY KEY,
    listener_name text        NOT NULL,
    service       text        NOT NULL,
    registered_at timestamptz NOT NULL,
    removed_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE FUNCTION pgbus.note_listener_removal() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO pgbus.removed_listeners (id, listener_name, service, registered_at)
    VALUES (OLD.id, OLD.listener_name, OLD.service, OLD.registered_at);
    RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION pgbus.note_listener_removal() FROM PUBLIC;
CREATE TRIGGER listener_removed AFTER DELETE ON pgbus.listeners
    FOR EACH ROW EXECUTE FUNCTION pgbus.note_listener_removal();

-- `regex` is NULL for a pattern without wildcards.
CREATE TABLE pgbus.subscriptions (
    listener_id integer NOT NULL REFERENCES pgbus.listeners (id) ON DELETE CASCADE,
    pattern     text    NOT NULL,
    regex       text,
    PRIMARY KEY (listener_id, pattern)
);

-- What has changed in who is to hear what since the leader read it last: a row for each change, which commits with it. The
-- leader deletes them in the statement that reads the listeners, and logs no event while it sees one. Rows and not one
-- counter: registrations would wait for each other, and the leader for them.
CREATE TABLE pgbus.route_changes (
    listener_id integer NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);
-- Tables without a key whose rows change: where a publication has every table, as a move to another server needs it,
-- PostgreSQL would refuse the changes.
ALTER TABLE pgbus.route_changes REPLICA IDENTITY FULL;

CREATE FUNCTION pgbus.note_listener_change() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO pgbus.route_changes VALUES (CASE TG_OP WHEN 'DELETE' THEN OLD.id ELSE NEW.id END);
    RETURN NULL;
END
$$;
CREATE FUNCTION pgbus.note_subscription_change() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO pgbus.route_changes VALUES (CASE TG_OP WHEN 'DELETE' THEN OLD.listener_id ELSE NEW.listener_id END);
    RETURN NULL;
END
$$;
CREATE TRIGGER listener_came_or_went AFTER INSERT OR DELETE ON pgbus.listeners
    FOR EACH ROW EXECUTE FUNCTION pgbus.note_listener_change();
CREATE TRIGGER listener_changed AFTER UPDATE ON pgbus.listeners
    FOR EACH ROW WHEN (OLD.state <> NEW.state OR OLD.lanes IS DISTINCT FROM NEW.lanes
                       OR (OLD.cursor IS NULL) <> (NEW.cursor IS NULL))
    EXECUTE FUNCTION pgbus.note_listener_change();
CREATE TRIGGER subscription_changed AFTER INSERT OR UPDATE OR DELETE ON pgbus.subscriptions
    FOR EACH ROW EXECUTE FUNCTION pgbus.note_subscription_change();

-- What a version of a service's code declares that a listener hears, its options, and the workers that run it or did.
-- What live workers declare stays subscribed, and so does what the newest version declared, while a restart of an older
-- one may be part of its deploy. The newest version's options hold while it runs.
CREATE TABLE pgbus.declarations (
    listener_id   integer     NOT NULL REFERENCES pgbus.listeners (id) ON DELETE CASCADE,
    service       text        NOT NULL,
    patterns      text[]      NOT NULL,
    options       jsonb       NOT NULL,
    worker_ids    integer[]   NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT declarations_patterns_are_some CHECK (cardinality(patterns) > 0)
);
ALTER TABLE pgbus.declarations REPLICA IDENTITY FULL;
CREATE INDEX declarations_listener ON pgbus.declarations (listener_id);

-- A run of events, `first`..`last`, owed to a listener. `positions` lists them when the run has holes. waiting (no
-- token) -> claimed (token, worker, lease) -> gone. A waiting row with `available_at` waits until then. Only the engine
-- writes here, and the table has no CHECKs: parsing them would cost each look and each claim about 50 us. The tests add
-- the CHECKs of tests/support/deliveries.sql.
CREATE TABLE pgbus.deliveries (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    listener_id      integer  NOT NULL,
    lane             smallint,
    first            bigint   NOT NULL,
    last             bigint   NOT NULL,
    events           integer  NOT NULL,
    positions        bigint[],
    available_at     timestamptz,
    attempt          integer  NOT NULL DEFAULT 1,
    crashes          smallint NOT NULL DEFAULT 0,
    claim_token      uuid,
    worker_id        integer,
    lease_expires_at timestamptz,
    blocked_key      text,
    last_error       text,
    -- A worker that does not declare this topic, or could not read the event, left it to others; `last_error` says why.
    left_topic       text
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0
);
-- Ready runs: written by the sequencer, in the order of the log.
CREATE INDEX deliveries_ready ON pgbus.deliveries (listener_id, first)
    WHERE claim_token IS NULL AND available_at IS NULL AND lane IS NULL;
-- Due runs, which wait for an instant: retries, runs freed from a dead worker, replays.
CREATE INDEX deliveries_due ON pgbus.deliveries (listener_id, available_at)
    WHERE claim_token IS NULL AND available_at IS NOT NULL AND lane IS NULL;
-- Ordered listeners: the head of a lane blocks the rest of it.
CREATE INDEX deliveries_lanes ON pgbus.deliveries (listener_id, lane, first)
    WHERE lane IS NOT NULL AND blocked_key IS NULL;
-- What comes back to a lane comes back as due, perhaps below the floor of a worker's scan.
CREATE INDEX deliveries_lanes_due ON pgbus.deliveries (listener_id, lane, first)
    WHERE lane IS NOT NULL AND blocked_key IS NULL AND available_at IS NOT NULL;
-- Its claimed row blocks the rest too, and need not be the head: a retried dead letter comes before it. Claims of what the
-- sequencer wrote are looked for from a floor on, those of what came back have an index of their own: all claims that a
-- lane ever had may lie in these as dead entries, while someone holds a snapshot. A claimed row is known by its worker
-- here, and by its token in `deliveries_claimed`: that index is smaller, so that the planner, which counts no dead
-- entries, would read all of it to find the claims of one lane.
CREATE INDEX deliveries_lane_claims ON pgbus.deliveries (listener_id, lane, first)
    WHERE lane IS NOT NULL AND worker_id IS NOT NULL AND available_at IS NULL;
CREATE INDEX deliveries_lane_claims_due ON pgbus.deliveries (listener_id, lane)
    WHERE lane IS NOT NULL AND worker_id IS NOT NULL AND available_at IS NOT NULL;
CREATE INDEX deliveries_blocked ON pgbus.deliveries (listener_id, blocked_key) WHERE blocked_key IS NOT NULL;
CREATE INDEX deliveries_claimed ON pgbus.deliveries (lease_expires_at) WHERE claim_token IS NOT NULL;

-- Whether the caller may claim in a lane: nobody else does until its transaction ends, and nothing of the lane is claimed,
-- from `floor` on or of what came back. The statement that calls it has an older snapshot, which may not show a claim that
-- was committed since; here the look comes after the lock, and has a snapshot of its own.
CREATE FUNCTION pgbus.take_lane(listener_id integer, lane smallint, floor bigint) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('pgbus.lanes'), hashtext(listener_id || '.' || lane)) THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM pgbus.deliveries AS d
        WHERE d.listener_id = take_lane.listener_id AND d.lane = take_lane.lane
          AND d.worker_id IS NOT NULL AND d.available_at IS NULL AND d.first >= take_lane.floor
    ) AND NOT EXISTS (
        SELECT FROM pgbus.deliveries AS d
        WHERE d.listener_id = take_lane.listener_id AND d.lane = take_lane.lane
          AND d.worker_id IS NOT NULL AND d.available_at IS NOT NULL
    );
END
$$;

-- Whether the caller may write a first row into a lane that is claimed already: nobody else claims in it until its
-- transaction ends, and nothing is in it, from `floor` on or of what came back. As with `take_lane`, the look comes after
-- the lock.
CREATE FUNCTION pgbus.take_empty_lane(listener_id integer, lane smallint, floor bigint) RETURNS boolean
    LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('pgbus.lanes'), hashtext(listener_id || '.' || lane)) THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM pgbus.deliveries AS d
        WHERE d.listener_id = take_empty_lane.listener_id AND d.lane = take_empty_lane.lane
          AND d.blocked_key IS NULL AND d.first >= take_empty_lane.floor
    ) AND NOT EXISTS (
        SELECT FROM pgbus.deliveries AS d
        WHERE d.listener_id = take_empty_lane.listener_id AND d.lane = take_empty_lane.lane
          AND d.blocked_key IS NULL AND d.available_at IS NOT NULL
    );
END
$$;

-- An event that one listener gave up on, until an operator retries or discards it.
CREATE TABLE pgbus.dead_letters (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    listener_id integer     NOT NULL REFERENCES pgbus.listeners (id) ON DELETE CASCADE,
    position    bigint      NOT NULL,
    lane        smallint,
    attempts    integer     NOT NULL,
    error       text        NOT NULL,
    -- The exception's type and the function of the application where it was raised: what fails alike has the same.
    fingerprint text,
    traceback   text,
    worker      text        NOT NULL,
    -- Set for a listener that blocks on poison: its later events with this key wait until this one is retried or
    -- discarded.
    blocked_key text,
    dead_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX dead_letters_blocked ON pgbus.dead_letters (listener_id, blocked_key) WHERE blocked_key IS NOT NULL;
CREATE INDEX dead_letters_listener ON pgbus.dead_letters (listener_id, dead_at);
CREATE INDEX dead_letters_fingerprint ON pgbus.dead_letters (listener_id, fingerprint);
CREATE INDEX dead_letters_position ON pgbus.dead_letters (position);

-- The kind of an error: its first line without what differs from event to event, such as ids, numbers and quoted strings.
CREATE FUNCTION pgbus.error_kind(error text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT left(
        regexp_replace(
            regexp_replace(
                split_part(error, chr(10), 1), $q$'[^']*'|"[^"]*"$q$, $q$'*'$q$, 'g'),
            '[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|0x[0-9a-fA-F]+|[0-9]+([.][0-9]+)*', '*', 'g'),
        300)
$$;
-- Whether an error contains this text, in upper or lower case, or is of this kind.
CREATE FUNCTION pgbus.has_error(error text, wanted text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT strpos(lower(error), lower(wanted)) > 0 OR pgbus.error_kind(error) = wanted
$$;

-- A worker process. While it is alive, it holds an advisory lock (hashtext('<namespace>.worker'), id).
CREATE TABLE pgbus.workers (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text        NOT NULL,
    service       text        NOT NULL DEFAULT '',
    host          text        NOT NULL,
    pid           integer     NOT NULL,
    version       text        NOT NULL,
    listeners     text[]      NOT NULL DEFAULT '{}',
    -- Its parts that failed by a fault of code and wait for a restart ("listener mailer", "calls"), with their errors.
    failures      jsonb       NOT NULL DEFAULT '{}',
    -- The calls of handlers, procedures and tasks that had run in it for a second or more at `last_seen_at`.
    running       jsonb       NOT NULL DEFAULT '[]',
    -- The folder from which the service's name is derived; NULL if the name is configured.
    home          text,
    started_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    leading_since timestamptz
);

-- The periods of the log: when the leader opened each partition.
CREATE TABLE pgbus.partitions (
    number    integer PRIMARY KEY,
    opened_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT partitions_number_is_not_negative CHECK (number >= 0)
);

-- Opens the partition of positions from number * 10^9 on, of the log, of history and of causes; false if it is open already. Like
-- drop_partition it runs as the tables' owner, because the leader's user is not the owner, and fails after 0.1 s
-- (lock_not_available), because other statements would queue behind its wait for a lock.
CREATE FUNCTION pgbus.open_partition(partition_number integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms'
AS $$
DECLARE
    beginning CONSTANT bigint := partition_number * bigint '1000000000';
    ending    CONSTANT bigint := beginning + 1000000000;
BEGIN
    -- If two sessions call this at once, the second waits here for the first.
    INSERT INTO pgbus.partitions (number) VALUES (partition_number) ON CONFLICT (number) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Not PARTITION OF, which locks out readers and writers of the whole parent; ATTACH does not.
    EXECUTE format('CREATE TABLE pgbus.events_p%s (LIKE pgbus.events INCLUDING ALL)', partition_number);
    EXECUTE format('CREATE TABLE pgbus.history_p%s (LIKE pgbus.history INCLUDING ALL)', partition_number);
    EXECUTE format('CREATE TABLE pgbus.causes_p%s (LIKE pgbus.causes INCLUDING ALL)', partition_number);
    EXECUTE format('ALTER TABLE pgbus.events ATTACH PARTITION pgbus.events_p%s FOR VALUES FROM (%s) TO (%s)',
                   partition_number, beginning, ending);
    EXECUTE format('ALTER TABLE pgbus.history ATTACH PARTITION pgbus.history_p%s FOR VALUES FROM (%s) TO (%s)',
                   partition_number, beginning, ending);
    EXECUTE format('ALTER TABLE pgbus.causes ATTACH PARTITION pgbus.causes_p%s FOR VALUES FROM (%s) TO (%s)',
                   partition_number, beginning, ending);
    RETURN true;
END
$$;

-- Drops a partition of the log, of history and of causes; false if there is none. Refuses (object_in_use) while an event in it is
-- owed to a listener or is a dead letter, and if no later event is logged: the next position is computed from the last
-- one.
CREATE FUNCTION pgbus.drop_partition(partition_number integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms'
AS $$
DECLARE
    beginning CONSTANT bigint := partition_number * bigint '1000000000';
    ending    CONSTANT bigint := beginning + 1000000000;
    debtor text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'drop_partition must see rows that were committed before it locked the log: use READ COMMITTED'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    DELETE FROM pgbus.partitions WHERE number = partition_number;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Before the checks: resetting a listener begins with reading the log, so a reset has finished by now or waits for
    -- this lock.
    LOCK TABLE ONLY pgbus.events, ONLY pgbus.history, ONLY pgbus.causes IN ACCESS EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM pgbus.events WHERE position >= ending) THEN
        RAISE EXCEPTION 'partition % holds the end of the log', partition_number USING ERRCODE = 'object_in_use';
    END IF;
    -- One statement, so one snapshot: an event that moves from a delivery to a dead letter is seen in one of them.
    SELECT l.listener_name
    INTO debtor
    FROM pgbus.listeners AS l
    WHERE l.cursor < ending
       OR EXISTS (SELECT FROM pgbus.deliveries AS d
                  WHERE d.listener_id = l.id AND d.first < ending AND d.last >= beginning)
       OR EXISTS (SELECT FROM pgbus.dead_letters AS x
                  WHERE x.listener_id = l.id AND x.position >= beginning AND x.position < ending)
    ORDER BY l.listener_name
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'partition % holds events that are still owed to the listener "%"', partition_number, debtor
            USING ERRCODE = 'object_in_use',
                  HINT = 'Let it catch up and retry or discard its dead letters, or remove it.';
    END IF;
    EXECUTE format('ALTER TABLE pgbus.events DETACH PARTITION pgbus.events_p%s', partition_number);
    EXECUTE format('ALTER TABLE pgbus.history DETACH PARTITION pgbus.history_p%s', partition_number);
    EXECUTE format('ALTER TABLE pgbus.causes DETACH PARTITION pgbus.causes_p%s', partition_number);
    EXECUTE format('DROP TABLE pgbus.events_p%1$s, pgbus.history_p%1$s, pgbus.causes_p%1$s', partition_number);
    RETURN true;
END
$$;

REVOKE EXECUTE ON FUNCTION pgbus.open_partition(integer), pgbus.drop_partition(integer) FROM PUBLIC;

SELECT pgbus.open_partition(0);

-- -----------------------------------------------------------------------------------------------------------------
-- views For auditors. These names and columns are stable; the tables behind them may change.

CREATE VIEW pgbus.attempts AS
SELECT h.first + u.step AS position, COALESCE(l.listener_name, r.listener_name) AS listener_name, h.attempt, h.outcome, h.started_at,
       COALESCE(u.duration, h.duration) AS duration, h.worker, h.error
FROM pgbus.history AS h
CROSS JOIN LATERAL (
    SELECT unnest(COALESCE(h.offsets, pgbus.run_offsets(h.span))) AS step, unnest(h.durations) AS duration
) AS u
LEFT JOIN pgbus.listeners AS l ON l.id = h.listener_id
LEFT JOIN pgbus.removed_listeners AS r ON r.id = h.listener_id;

-- Three ways lead through it: from an event to its runs, by the condition on their block; from runs, found by their time,
-- to their events, by the equality; and by that also the join of everything with everything. The other two conditions say
-- nothing new. With the one on `first` only the event's own partition is looked at; that on `step` makes the planner expect
-- one event of a run, as most runs are in a log that has many, and not ten.
CREATE VIEW pgbus.event_history AS
SELECT e.position, e.event_id, e.topic, e.key, e.payload, e.headers, e.published_at, e.published_by, e.logged_at,
       COALESCE(l.listener_name, r.listener_name) AS listener_name, h.attempt, h.outcome, h.started_at, COALESCE(u.duration, h.duration) AS duration, h.worker, h.error
FROM pgbus.events AS e
LEFT JOIN (
    pgbus.history AS h
    CROSS JOIN LATERAL (
        SELECT unnest(COALESCE(h.offsets, pgbus.run_offsets(h.span))) AS step, unnest(h.durations) AS duration
    ) AS u
) ON pgbus.run_block(h.first, h.span) = ANY (pgbus.event_blocks(e.position))
     AND e.position = h.first + u.step
     AND h.first BETWEEN e.position - 63 AND e.position
     AND u.step BETWEEN 0 AND 63
LEFT JOIN pgbus.listeners AS l ON l.id = h.listener_id
LEFT JOIN pgbus.removed_listeners AS r ON r.id = h.listener_id;

CREATE VIEW pgbus.pending AS
SELECT l.listener_name, d.id AS delivery_id, d.first AS first_position, d.last AS last_position, d.events,
       d.attempt, d.available_at, w.name AS worker, d.lease_expires_at, d.blocked_key, d.last_error,
       CASE WHEN d.blocked_key IS NOT NULL THEN 'blocked'
            WHEN d.claim_token IS NOT NULL THEN 'in flight'
            WHEN d.left_topic IS NOT NULL THEN 'parked'
            WHEN d.attempt > 1 THEN 'retrying'
            ELSE 'waiting' END AS state
FROM pgbus.deliveries AS d
JOIN pgbus.listeners AS l ON l.id = d.listener_id
LEFT JOIN pgbus.workers AS w ON w.id = d.worker_id;

CREATE VIEW pgbus.listener_lag AS
SELECT l.listener_name, l.state, l.service, l.last_seen_at,
       COALESCE(owed.events, 0)
           + CASE WHEN l.cursor IS NULL THEN 0
                  ELSE (SELECT count(*) FROM pgbus.events AS e WHERE e.position >= l.cursor) END AS lag_events,
       COALESCE(extract(epoch FROM clock_timestamp() - oldest.logged_at), 0)::double precision AS lag_seconds,
       COALESCE(owed.in_flight, 0) AS in_flight,
       COALESCE(owed.retrying, 0) AS retrying,
       COALESCE(owed.blocked, 0) AS blocked,
       (SELECT count(*) FROM pgbus.dead_letters AS x WHERE x.listener_id = l.id) AS dead
FROM pgbus.listeners AS l
LEFT JOIN LATERAL (
    SELECT sum(d.events) AS events,
           sum(d.events) FILTER (WHERE d.claim_token IS NOT NULL) AS in_flight,
           sum(d.events) FILTER (WHERE d.claim_token IS NULL AND d.attempt > 1 AND d.blocked_key IS NULL) AS retrying,
           sum(d.events) FILTER (WHERE d.blocked_key IS NOT NULL) AS blocked,
           min(d.first) AS first
    FROM pgbus.deliveries AS d
    WHERE d.listener_id = l.id
) AS owed ON true
LEFT JOIN LATERAL (
    SELECT e.logged_at FROM pgbus.events AS e
    WHERE e.position >= LEAST(owed.first, l.cursor)
    ORDER BY e.position
    LIMIT 1
) AS oldest ON true;

CREATE VIEW pgbus.dead AS
SELECT x.id, l.listener_name, x.position, e.event_id, e.topic, e.key, e.payload, e.headers, e.published_at,
       e.published_by, x.attempts, x.error, x.fingerprint, x.traceback, x.worker, x.dead_at
FROM pgbus.dead_letters AS x
JOIN pgbus.listeners AS l ON l.id = x.listener_id
JOIN pgbus.events AS e ON e.position = x.position;

CREATE VIEW pgbus.scheduled AS
SELECT event_id, topic, key, payload, headers, published_at, published_by, deliver_at
FROM pgbus.outbox
WHERE deliver_at IS NOT NULL;

-- -------------------------------------------------------------------------------------------------------------- comments

COMMENT ON TABLE pgbus.outbox IS 'Events that are not in the log yet. INSERT here publishes; rows stay for milliseconds, or until deliver_at';
COMMENT ON COLUMN pgbus.outbox.wake IS 'Holds nothing: its default takes the transaction id, and wakes the leader if it sleeps';
COMMENT ON COLUMN pgbus.outbox.id IS 'Order of the inserts';
COMMENT ON COLUMN pgbus.outbox.event_id IS 'Id of the event, a UUIDv7; unique in practice, and the same at every attempt';
COMMENT ON COLUMN pgbus.outbox.topic IS 'Dotted name under which it was published';
COMMENT ON COLUMN pgbus.outbox.ancestors IS 'Topics of the parent classes of the event class; listeners on them hear the event too; NULL: none';
COMMENT ON COLUMN pgbus.outbox.key IS 'Groups events: an ordered listener handles those with one key in order; NULL: no key';
COMMENT ON COLUMN pgbus.outbox.payload IS 'The data of the event, a JSON object';
COMMENT ON COLUMN pgbus.outbox.headers IS 'Strings that are stored in addition to the payload, a JSON object; NULL: none';
COMMENT ON COLUMN pgbus.outbox.published_at IS 'When the publisher called publish, by the database clock';
COMMENT ON COLUMN pgbus.outbox.deliver_at IS 'The event enters the log no sooner than this; NULL: at once';
COMMENT ON COLUMN pgbus.outbox.published_by IS 'Service that published it; the database user where no service is set';
COMMENT ON TABLE pgbus.dedup_keys IS 'Idempotency keys of publishers: while a row is here, a second event under its key is not published';
COMMENT ON COLUMN pgbus.dedup_keys.dedup_key IS 'Key that the publisher gave, of 1 to 255 characters';
COMMENT ON COLUMN pgbus.dedup_keys.event_id IS 'Event that holds the key';
COMMENT ON COLUMN pgbus.dedup_keys.expires_at IS 'From then on the key is free';
COMMENT ON TABLE pgbus.events IS 'The log: every event, in the order in which the leader found them; a partition for each 1,000,000,000 positions';
COMMENT ON COLUMN pgbus.events.position IS 'Place of the event in the log, from 1; gaps are possible';
COMMENT ON COLUMN pgbus.events.event_id IS 'Id of the event, a UUIDv7; unique in practice, and the same at every attempt';
COMMENT ON COLUMN pgbus.events.topic IS 'Dotted name under which it was published';
COMMENT ON COLUMN pgbus.events.ancestors IS 'Topics of the parent classes of the event class; NULL: none';
COMMENT ON COLUMN pgbus.events.key IS 'Groups events: an ordered listener handles those with one key in order; NULL: no key';
COMMENT ON COLUMN pgbus.events.payload IS 'The data of the event, a JSON object';
COMMENT ON COLUMN pgbus.events.headers IS 'Strings that are stored in addition to the payload, a JSON object; NULL: none';
COMMENT ON COLUMN pgbus.events.published_at IS 'When the publisher called publish, by the database clock';
COMMENT ON COLUMN pgbus.events.deliver_at IS 'When it was to be delivered; NULL: at once';
COMMENT ON COLUMN pgbus.events.logged_at IS 'When the leader wrote it into the log';
COMMENT ON COLUMN pgbus.events.published_by IS 'Service that published it; the database user where no service is set';
COMMENT ON TABLE pgbus.causes IS 'Why an event, call or run exists: a row for each one that another one has caused';
COMMENT ON COLUMN pgbus.causes.position IS 'Position of the event; for a call or run the end of the log when it was pruned';
COMMENT ON COLUMN pgbus.causes.kind IS 'event, call or run';
COMMENT ON COLUMN pgbus.causes.id IS 'Event id, call id or run id';
COMMENT ON COLUMN pgbus.causes.correlation_id IS 'The tree that it belongs to';
COMMENT ON COLUMN pgbus.causes.causation_id IS 'Id of its direct cause; NULL: unknown';
COMMENT ON COLUMN pgbus.causes.name IS 'Procedure or schedule of a call or run; NULL for an event';
COMMENT ON COLUMN pgbus.causes.actor IS 'Process that called, or worker that ran; NULL for an event';
COMMENT ON COLUMN pgbus.causes.at IS 'When it was called or began; NULL for an event';
COMMENT ON COLUMN pgbus.causes.state IS 'Outcome of a call or run; NULL for an event';
COMMENT ON TABLE pgbus.history IS 'Attempts, a row for each run of neighbouring events with the same outcome; the view attempts shows one row for each';
COMMENT ON COLUMN pgbus.history.first IS 'Position of the first event of the run';
COMMENT ON COLUMN pgbus.history.started_at IS 'When the handler was called for the first of them';
COMMENT ON COLUMN pgbus.history.listener_id IS 'Listener, in listeners or removed_listeners';
COMMENT ON COLUMN pgbus.history.attempt IS 'Number of the attempt, from 1';
COMMENT ON COLUMN pgbus.history.duration IS 'Seconds that the handler took; NULL: it was not called';
COMMENT ON COLUMN pgbus.history.span IS 'Last position minus first position, 0 to 63';
COMMENT ON COLUMN pgbus.history.outcome IS 'done, retry, dead, discarded or skipped';
COMMENT ON COLUMN pgbus.history.worker IS 'Name of the worker';
COMMENT ON COLUMN pgbus.history.error IS 'Error of an attempt that failed';
COMMENT ON COLUMN pgbus.history.offsets IS 'Distances of the events from first, if the run has gaps';
COMMENT ON COLUMN pgbus.history.durations IS 'Seconds for each event, if they differ';
COMMENT ON TABLE pgbus.listeners IS 'Every registered listener';
COMMENT ON COLUMN pgbus.listeners.id IS 'Id in other tables';
COMMENT ON COLUMN pgbus.listeners.listener_name IS 'Name of the listener, its identity';
COMMENT ON COLUMN pgbus.listeners.state IS 'active or paused';
COMMENT ON COLUMN pgbus.listeners.lanes IS 'NULL for a listener without order; else its number of lanes';
COMMENT ON COLUMN pgbus.listeners.options IS 'Options that its code declares: a JSON object, durations in seconds';
COMMENT ON COLUMN pgbus.listeners.service IS 'Service that declared it last';
COMMENT ON COLUMN pgbus.listeners.cursor IS 'Position from which the leader still has to write deliveries, after a registration from the beginning or a reset; NULL: live';
COMMENT ON COLUMN pgbus.listeners.registered_at IS 'When it was first registered';
COMMENT ON COLUMN pgbus.listeners.last_seen_at IS 'When a worker that runs it reported last';
COMMENT ON TABLE pgbus.removed_listeners IS 'Listeners that were removed: the history keeps their names';
COMMENT ON COLUMN pgbus.removed_listeners.id IS 'Id in history';
COMMENT ON COLUMN pgbus.removed_listeners.listener_name IS 'Name of the listener';
COMMENT ON COLUMN pgbus.removed_listeners.service IS 'Service that had declared it last';
COMMENT ON COLUMN pgbus.removed_listeners.registered_at IS 'When it was first registered';
COMMENT ON COLUMN pgbus.removed_listeners.removed_at IS 'When it was removed';
COMMENT ON TABLE pgbus.subscriptions IS 'Topics and patterns that each listener hears';
COMMENT ON COLUMN pgbus.subscriptions.listener_id IS 'Listener, in listeners';
COMMENT ON COLUMN pgbus.subscriptions.pattern IS 'Topic, or pattern with * for one word and ** for any number';
COMMENT ON COLUMN pgbus.subscriptions.regex IS 'The pattern as a regular expression; NULL for a topic';
COMMENT ON TABLE pgbus.route_changes IS 'Changes of listeners and subscriptions that the leader has yet to read';
COMMENT ON COLUMN pgbus.route_changes.listener_id IS 'Listener that changed';
COMMENT ON TABLE pgbus.declarations IS 'Subscriptions and options of a listener, by the version of the code that declares them';
COMMENT ON COLUMN pgbus.declarations.listener_id IS 'Listener, in listeners';
COMMENT ON COLUMN pgbus.declarations.service IS 'Service whose code declares it';
COMMENT ON COLUMN pgbus.declarations.patterns IS 'Topics and patterns';
COMMENT ON COLUMN pgbus.declarations.options IS 'Options: a JSON object, durations in seconds';
COMMENT ON COLUMN pgbus.declarations.worker_ids IS 'Workers that run this version, or did';
COMMENT ON COLUMN pgbus.declarations.first_seen_at IS 'When a worker first declared it';
COMMENT ON COLUMN pgbus.declarations.last_seen_at IS 'When a worker that declares it reported last';
COMMENT ON TABLE pgbus.deliveries IS 'Runs of events that are owed to a listener; a row is gone when its events are settled. The view pending explains it';
COMMENT ON COLUMN pgbus.deliveries.id IS 'Id of the delivery';
COMMENT ON COLUMN pgbus.deliveries.listener_id IS 'Listener, in listeners';
COMMENT ON COLUMN pgbus.deliveries.lane IS 'Lane of an ordered listener; NULL: no order';
COMMENT ON COLUMN pgbus.deliveries.first IS 'Position of the first event';
COMMENT ON COLUMN pgbus.deliveries.last IS 'Position of the last event';
COMMENT ON COLUMN pgbus.deliveries.events IS 'Number of events';
COMMENT ON COLUMN pgbus.deliveries.positions IS 'Positions of the events, if the run has gaps';
COMMENT ON COLUMN pgbus.deliveries.available_at IS 'It waits until then; NULL: ready since it was logged';
COMMENT ON COLUMN pgbus.deliveries.attempt IS 'Number of the next or current attempt, from 1';
COMMENT ON COLUMN pgbus.deliveries.crashes IS 'Workers that died while they held it alone';
COMMENT ON COLUMN pgbus.deliveries.claim_token IS 'Id of the claim; NULL: waiting';
COMMENT ON COLUMN pgbus.deliveries.worker_id IS 'Worker that holds the claim';
COMMENT ON COLUMN pgbus.deliveries.lease_expires_at IS 'When the claim ends, unless it is extended';
COMMENT ON COLUMN pgbus.deliveries.blocked_key IS 'Key of the dead letter for which it waits; NULL: none';
COMMENT ON COLUMN pgbus.deliveries.last_error IS 'Error of the last attempt';
COMMENT ON COLUMN pgbus.deliveries.left_topic IS 'Topic that a worker could not handle, and left to workers of another version';
COMMENT ON TABLE pgbus.dead_letters IS 'Events that one listener gave up on. The view dead has the events as well';
COMMENT ON COLUMN pgbus.dead_letters.id IS 'Id, for pgbus dead show';
COMMENT ON COLUMN pgbus.dead_letters.listener_id IS 'Listener, in listeners';
COMMENT ON COLUMN pgbus.dead_letters.position IS 'Position of the event';
COMMENT ON COLUMN pgbus.dead_letters.lane IS 'Lane of an ordered listener';
COMMENT ON COLUMN pgbus.dead_letters.attempts IS 'Number of attempts';
COMMENT ON COLUMN pgbus.dead_letters.error IS 'Error of the last attempt';
COMMENT ON COLUMN pgbus.dead_letters.fingerprint IS 'Type of the exception and the function that raised it; NULL: unknown';
COMMENT ON COLUMN pgbus.dead_letters.traceback IS 'Traceback of the last attempt; NULL: none';
COMMENT ON COLUMN pgbus.dead_letters.worker IS 'Worker of the last attempt';
COMMENT ON COLUMN pgbus.dead_letters.blocked_key IS 'Key whose later events wait for this one; NULL: none';
COMMENT ON COLUMN pgbus.dead_letters.dead_at IS 'When the listener gave up';
COMMENT ON TABLE pgbus.workers IS 'Worker processes, those that died recently included; the view live_workers shows those that are alive';
COMMENT ON COLUMN pgbus.workers.id IS 'Id in other tables, and key of the lock that shows that it is alive';
COMMENT ON COLUMN pgbus.workers.name IS 'Name of the worker, as log lines show it';
COMMENT ON COLUMN pgbus.workers.service IS 'Service that it runs';
COMMENT ON COLUMN pgbus.workers.host IS 'Host name';
COMMENT ON COLUMN pgbus.workers.pid IS 'Process id on its host';
COMMENT ON COLUMN pgbus.workers.version IS 'Version of pgbus';
COMMENT ON COLUMN pgbus.workers.listeners IS 'Names of the listeners that it runs';
COMMENT ON COLUMN pgbus.workers.failures IS 'Parts that failed by a fault of code and wait for a restart, with their errors';
COMMENT ON COLUMN pgbus.workers.running IS 'Calls of handlers, procedures and tasks that have run for 1 second or more; age is in seconds';
COMMENT ON COLUMN pgbus.workers.home IS 'Directory from which the name of the service is derived; NULL: the name is configured';
COMMENT ON COLUMN pgbus.workers.started_at IS 'When it registered';
COMMENT ON COLUMN pgbus.workers.last_seen_at IS 'When it reported last, every 10 seconds';
COMMENT ON COLUMN pgbus.workers.leading_since IS 'When it became the leader; NULL: it is not the leader';
COMMENT ON TABLE pgbus.partitions IS 'Partitions of events, history and causes';
COMMENT ON COLUMN pgbus.partitions.number IS 'Its positions start at number * 1,000,000,000';
COMMENT ON COLUMN pgbus.partitions.opened_at IS 'When the leader opened it';
COMMENT ON VIEW pgbus.attempts IS 'One row per attempt, without its event';
COMMENT ON COLUMN pgbus.attempts.position IS 'Position of the event in the log';
COMMENT ON COLUMN pgbus.attempts.listener_name IS 'Name of the listener';
COMMENT ON COLUMN pgbus.attempts.attempt IS 'Number of the attempt, from 1';
COMMENT ON COLUMN pgbus.attempts.outcome IS 'done, retry, dead, discarded (by an operator) or skipped (the event or its next attempt was gone)';
COMMENT ON COLUMN pgbus.attempts.started_at IS 'When the handler was called';
COMMENT ON COLUMN pgbus.attempts.duration IS 'Seconds that the handler took; NULL: it was not called';
COMMENT ON COLUMN pgbus.attempts.worker IS 'Name of the worker';
COMMENT ON COLUMN pgbus.attempts.error IS 'Error of an attempt that failed, else NULL';
COMMENT ON VIEW pgbus.event_history IS 'One row per attempt at an event, or one row with NULLs for an event without attempts';
COMMENT ON COLUMN pgbus.event_history.position IS 'Place of the event in the log, from 1; gaps are possible';
COMMENT ON COLUMN pgbus.event_history.event_id IS 'Id of the event, a UUIDv7; unique in practice, and the same at every attempt';
COMMENT ON COLUMN pgbus.event_history.topic IS 'Dotted name under which it was published';
COMMENT ON COLUMN pgbus.event_history.key IS 'Groups events: an ordered listener handles those with one key in order; NULL: no key';
COMMENT ON COLUMN pgbus.event_history.payload IS 'The data of the event, a JSON object';
COMMENT ON COLUMN pgbus.event_history.headers IS 'Strings that are stored in addition to the payload, a JSON object; NULL: none';
COMMENT ON COLUMN pgbus.event_history.published_at IS 'When the publisher called publish, by the database clock';
COMMENT ON COLUMN pgbus.event_history.published_by IS 'Service that published it; the database user where no service is set';
COMMENT ON COLUMN pgbus.event_history.logged_at IS 'When the leader wrote it into the log';
COMMENT ON COLUMN pgbus.event_history.listener_name IS 'Name of the listener; NULL: no attempt yet';
COMMENT ON COLUMN pgbus.event_history.attempt IS 'Number of the attempt, from 1';
COMMENT ON COLUMN pgbus.event_history.outcome IS 'done, retry, dead, discarded (by an operator) or skipped (the event or its next attempt was gone)';
COMMENT ON COLUMN pgbus.event_history.started_at IS 'When the handler was called';
COMMENT ON COLUMN pgbus.event_history.duration IS 'Seconds that the handler took; NULL: it was not called';
COMMENT ON COLUMN pgbus.event_history.worker IS 'Name of the worker';
COMMENT ON COLUMN pgbus.event_history.error IS 'Error of an attempt that failed, else NULL';
COMMENT ON VIEW pgbus.pending IS 'Every run of events that is owed to a listener, and its state';
COMMENT ON COLUMN pgbus.pending.listener_name IS 'Name of the listener';
COMMENT ON COLUMN pgbus.pending.delivery_id IS 'Id of the delivery';
COMMENT ON COLUMN pgbus.pending.first_position IS 'Position of the first event';
COMMENT ON COLUMN pgbus.pending.last_position IS 'Position of the last event';
COMMENT ON COLUMN pgbus.pending.events IS 'Number of events';
COMMENT ON COLUMN pgbus.pending.attempt IS 'Number of the next or current attempt, from 1';
COMMENT ON COLUMN pgbus.pending.available_at IS 'It waits until then; NULL: ready since it was logged';
COMMENT ON COLUMN pgbus.pending.worker IS 'Worker that handles it; NULL: none';
COMMENT ON COLUMN pgbus.pending.lease_expires_at IS 'When the claim of that worker ends, unless it is extended';
COMMENT ON COLUMN pgbus.pending.blocked_key IS 'Key of the dead letter for which it waits; NULL: none';
COMMENT ON COLUMN pgbus.pending.last_error IS 'Error of the last attempt; NULL: none';
COMMENT ON COLUMN pgbus.pending.state IS 'waiting, in flight, retrying, blocked (by a dead letter) or parked (left to workers of another version)';
COMMENT ON VIEW pgbus.listener_lag IS 'Per listener: events owed to it, and the age in seconds of the oldest of them';
COMMENT ON COLUMN pgbus.listener_lag.listener_name IS 'Name of the listener';
COMMENT ON COLUMN pgbus.listener_lag.state IS 'active or paused';
COMMENT ON COLUMN pgbus.listener_lag.service IS 'Service that declared it last';
COMMENT ON COLUMN pgbus.listener_lag.last_seen_at IS 'When a worker that runs it reported last';
COMMENT ON COLUMN pgbus.listener_lag.lag_events IS 'Events owed to it, in all states; dead letters do not count';
COMMENT ON COLUMN pgbus.listener_lag.lag_seconds IS 'Seconds since the oldest of them was logged; 0: none';
COMMENT ON COLUMN pgbus.listener_lag.in_flight IS 'Events that workers have claimed';
COMMENT ON COLUMN pgbus.listener_lag.retrying IS 'Events that wait for another attempt';
COMMENT ON COLUMN pgbus.listener_lag.blocked IS 'Events that wait for a dead letter with the same key';
COMMENT ON COLUMN pgbus.listener_lag.dead IS 'Its dead letters';
COMMENT ON VIEW pgbus.dead IS 'Dead letters, joined with their events';
COMMENT ON COLUMN pgbus.dead.id IS 'Id, for pgbus dead show';
COMMENT ON COLUMN pgbus.dead.listener_name IS 'Name of the listener';
COMMENT ON COLUMN pgbus.dead.position IS 'Position of the event in the log';
COMMENT ON COLUMN pgbus.dead.event_id IS 'Id of the event, a UUIDv7; unique in practice, and the same at every attempt';
COMMENT ON COLUMN pgbus.dead.topic IS 'Dotted name under which it was published';
COMMENT ON COLUMN pgbus.dead.key IS 'Groups events: an ordered listener handles those with one key in order; NULL: no key';
COMMENT ON COLUMN pgbus.dead.payload IS 'The data of the event, a JSON object';
COMMENT ON COLUMN pgbus.dead.headers IS 'Strings that are stored in addition to the payload, a JSON object; NULL: none';
COMMENT ON COLUMN pgbus.dead.published_at IS 'When the publisher called publish, by the database clock';
COMMENT ON COLUMN pgbus.dead.published_by IS 'Service that published it; the database user where no service is set';
COMMENT ON COLUMN pgbus.dead.attempts IS 'Number of attempts';
COMMENT ON COLUMN pgbus.dead.error IS 'Error of the last attempt';
COMMENT ON COLUMN pgbus.dead.fingerprint IS 'Type of the exception and the function that raised it: what fails alike has the same; NULL: unknown';
COMMENT ON COLUMN pgbus.dead.traceback IS 'Traceback of the last attempt; NULL: none';
COMMENT ON COLUMN pgbus.dead.worker IS 'Worker of the last attempt';
COMMENT ON COLUMN pgbus.dead.dead_at IS 'When the listener gave up';
COMMENT ON VIEW pgbus.scheduled IS 'Events that wait for their deliver_at';
COMMENT ON COLUMN pgbus.scheduled.event_id IS 'Id of the event, a UUIDv7; unique in practice, and the same at every attempt';
COMMENT ON COLUMN pgbus.scheduled.topic IS 'Dotted name under which it was published';
COMMENT ON COLUMN pgbus.scheduled.key IS 'Groups events: an ordered listener handles those with one key in order; NULL: no key';
COMMENT ON COLUMN pgbus.scheduled.payload IS 'The data of the event, a JSON object';
COMMENT ON COLUMN pgbus.scheduled.headers IS 'Strings that are stored in addition to the payload, a JSON object; NULL: none';
COMMENT ON COLUMN pgbus.scheduled.published_at IS 'When the publisher called publish, by the database clock';
COMMENT ON COLUMN pgbus.scheduled.published_by IS 'Service that published it; the database user where no service is set';
COMMENT ON COLUMN pgbus.scheduled.deliver_at IS 'The event enters the log no sooner than this';
COMMENT ON FUNCTION pgbus.oldest_code() IS 'The oldest schema revision whose code still works with this schema';
COMMENT ON FUNCTION pgbus.uuid7() IS 'A new UUIDv7, from the clock of the server';
COMMENT ON FUNCTION pgbus.readable(timestamptz) IS 'The instant, or NULL outside of the years 1 to 9999, which Python cannot represent';
COMMENT ON FUNCTION pgbus.wake_leader() IS 'Takes the transaction id, and wakes the leader if it sleeps; NULL';
COMMENT ON FUNCTION pgbus.take_lane(integer, smallint, bigint) IS 'Whether the caller may claim in a lane of a listener, where no other claims until the end of its transaction';
COMMENT ON FUNCTION pgbus.take_empty_lane(integer, smallint, bigint) IS 'Whether a lane of a listener is empty, where no other claims until the end of the transaction of the caller';
COMMENT ON FUNCTION pgbus.take_dedup_keys(text[], uuid[], double precision) IS 'Takes each key that is free for the event at the same place of the array, for ttl seconds; returns the holders';
COMMENT ON FUNCTION pgbus.uuid_or_null(text) IS 'The value as a UUID; NULL if it is not one';
COMMENT ON FUNCTION pgbus.correlation_of(uuid, jsonb) IS 'The tree of an event, call or run, by its id and headers';
COMMENT ON FUNCTION pgbus.run_block(bigint, smallint) IS 'Number of the smallest aligned block of 1, 8 or 64 positions that holds a run of history';
COMMENT ON FUNCTION pgbus.event_blocks(bigint) IS 'Numbers of the three blocks in which a run with this position can be';
COMMENT ON FUNCTION pgbus.run_offsets(smallint) IS 'Offsets of a run without gaps: 0 to span';
COMMENT ON FUNCTION pgbus.note_listener_removal() IS 'Trigger of listeners: keeps the name of a removed listener';
COMMENT ON FUNCTION pgbus.note_listener_change() IS 'Trigger of listeners: has the leader read them again';
COMMENT ON FUNCTION pgbus.note_subscription_change() IS 'Trigger of subscriptions: has the leader read them again';
COMMENT ON FUNCTION pgbus.error_kind(text) IS 'First line of an error without ids, numbers and quoted strings';
COMMENT ON FUNCTION pgbus.has_error(text, text) IS 'Whether an error contains a string, in upper or lower case, or is of a kind';
COMMENT ON FUNCTION pgbus.open_partition(integer) IS 'Opens a partition of events, history and causes; false if it is open already';
COMMENT ON FUNCTION pgbus.drop_partition(integer) IS 'Drops a partition of events, history and causes; fails while one of its events is owed to a listener';
