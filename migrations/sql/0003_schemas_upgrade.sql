-- Schemas of each service's events, procedures and listeners, by version, with the times at which they were in use.
--
--   a worker starts, or a process fires its first event --> publish: a new row, or last_seen_at of the one that is there

-- `version` counts the changes of one service's declaration: 1, 2, 3, ... A declaration that returns, for example after
-- a rollback, keeps its old version. Rows are kept when their service stops. `schema` holds JSON Schemas (2020-12), and
-- by kind, `name` is
--   event:     a topic,          {"parameters": ...} of the events that the service fires
--   procedure: its full name,    {"parameters": ..., "response": ...}
--   listener:  a listener_name,  {"events": {<topic or pattern>: ...}}, the payloads that its handler takes
CREATE TABLE pgbus.schemas (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text        NOT NULL,
    name          text        NOT NULL,
    service       text        NOT NULL DEFAULT '',
    version       integer     NOT NULL,
    schema        jsonb       NOT NULL,
    hash          text          NOT NULL,
    -- {"owner": ..., "description": ..., "links": {<title>: <URL>}} as its service said it last; no part of the hash.
    about         jsonb         NOT NULL DEFAULT '{}',
    first_seen_at pgbus.instant NOT NULL DEFAULT now(),
    -- When a process last started with it: the version with the newest instant is the current one.
    published_at  pgbus.instant NOT NULL DEFAULT now(),
    last_seen_at  pgbus.instant NOT NULL DEFAULT now(),
    UNIQUE (kind, name, service, version),
    UNIQUE (kind, name, service, hash),
    CONSTRAINT schemas_kind_is_known CHECK (kind IN ('event', 'procedure', 'listener')),
    CONSTRAINT schemas_name_is_short CHECK (length(name) BETWEEN 1 AND 255),
    CONSTRAINT schemas_version_is_positive CHECK (version > 0),
    CONSTRAINT schemas_schema_is_whole CHECK ((CASE kind
        WHEN 'event' THEN jsonb_typeof(schema -> 'parameters') IN ('object', 'boolean')
        WHEN 'procedure' THEN jsonb_typeof(schema -> 'parameters') IN ('object', 'boolean')
                              AND jsonb_typeof(schema -> 'response') IN ('object', 'boolean')
        ELSE jsonb_typeof(schema -> 'events') = 'object' END) IS TRUE),
    CONSTRAINT schemas_about_is_short CHECK (jsonb_typeof(about) = 'object' AND pg_column_size(about) <= 65536),
    CONSTRAINT schemas_seen_in_order CHECK (first_seen_at <= published_at AND published_at <= last_seen_at)
);

-- Records that a process starts with these versions now, and what it says about each; returns the existing ones.
-- Publishers have no other way to change rows: with an instant of their choice they could make a version current forever.
CREATE FUNCTION pgbus.republish_schemas(ids integer[], abouts text[]) RETURNS SETOF integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM s.id FROM pgbus.schemas AS s WHERE s.id = ANY (ids) ORDER BY s.id FOR UPDATE;
    RETURN QUERY
    UPDATE pgbus.schemas AS s
    SET published_at = now(), last_seen_at = now(), about = CAST(w.about AS jsonb)
    FROM unnest(ids, abouts) AS w (id, about)
    WHERE s.id = w.id
    RETURNING s.id;
END
$$;

REVOKE EXECUTE ON FUNCTION pgbus.republish_schemas(integer[], text[]) FROM PUBLIC;

-- The versions that each worker uses. A version's last_seen_at is updated while a worker uses it.
CREATE TABLE pgbus.worker_schemas (
    worker_id integer NOT NULL REFERENCES pgbus.workers (id) ON DELETE CASCADE,
    schema_id integer NOT NULL REFERENCES pgbus.schemas (id) ON DELETE CASCADE,
    PRIMARY KEY (worker_id, schema_id)
);
CREATE INDEX worker_schemas_schema ON pgbus.worker_schemas (schema_id);

-- The lock (hashtext('<namespace>.worker'), id) shows that a worker is alive; its row is deleted later. While the bus
-- sleeps no worker says that it is here: `last_seen_at` is then from before that.
CREATE VIEW pgbus.live_workers AS
SELECT w.id, w.name, w.service, w.host, w.pid, w.version, w.listeners, w.started_at, w.last_seen_at, w.leading_since,
       (SELECT NOT s.is_called FROM pgbus.wake_slots AS s) AS is_asleep
FROM pgbus.workers AS w
JOIN pg_locks AS l
    ON l.locktype = 'advisory'
   AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
   AND CAST(l.classid AS bigint) = (
       SELECT CAST(hashtext(n.nspname || '.worker') AS bigint) & 4294967295
       FROM pg_class AS c
       JOIN pg_namespace AS n ON n.oid = c.relnamespace
       WHERE c.oid = CAST('pgbus.workers' AS regclass))
   AND CAST(l.objid AS bigint) = w.id
   AND l.objsubid = 2
   AND l.granted;

-- Workers report every 10 s, so a call may have ended since `reported_at`, and a short one is never here.
CREATE VIEW pgbus.running AS
SELECT r.kind, r.name, w.name AS worker, r.id, r.position, r.topic, r.key,
       COALESCE(r.events, 1) AS events, COALESCE(r.attempt, 1) AS attempt,
       w.last_seen_at - r.age * INTERVAL '1 second' AS started_at, w.last_seen_at AS reported_at
FROM pgbus.live_workers AS l
JOIN pgbus.workers AS w ON w.id = l.id
CROSS JOIN LATERAL jsonb_to_recordset(w.running) AS r (
    kind text, name text, id uuid, "position" bigint, topic text, key text, events integer, attempt integer,
    age double precision);

CREATE VIEW pgbus.schema_versions AS
SELECT s.id, s.kind, s.name,
       CASE WHEN s.kind <> 'listener' THEN COALESCE(substring(s.name FROM '^(.*)[.]'), '') END AS api,
       s.service, s.version, s.schema, s.hash,
       COALESCE(s.about ->> 'owner', '') AS owner, COALESCE(s.about ->> 'description', '') AS description,
       COALESCE(s.about -> 'links', '{}') AS links,
       s.first_seen_at, s.published_at, s.last_seen_at,
       live.workers IS NOT NULL AS is_live,
       COALESCE(live.workers, '{}') AS workers
FROM pgbus.schemas AS s
LEFT JOIN (
    SELECT x.schema_id, array_agg(w.name ORDER BY w.name) AS workers
    FROM pgbus.worker_schemas AS x
    JOIN pgbus.live_workers AS w ON w.id = x.worker_id
    GROUP BY x.schema_id
) AS live ON live.schema_id = s.id;

CREATE OR REPLACE FUNCTION pgbus.oldest_code() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT '0003' $$;

-- -------------------------------------------------------------------------------------------------------------- comments

COMMENT ON TABLE pgbus.schemas IS 'Every version of every schema of a service';
COMMENT ON COLUMN pgbus.schemas.id IS 'Id in worker_schemas';
COMMENT ON COLUMN pgbus.schemas.kind IS 'event, procedure or listener';
COMMENT ON COLUMN pgbus.schemas.name IS 'A topic, the full name of a procedure, or the name of a listener';
COMMENT ON COLUMN pgbus.schemas.service IS 'Service that declares it';
COMMENT ON COLUMN pgbus.schemas.version IS 'Counts the changes of the declaration by its service, from 1; a declaration that returns keeps its number';
COMMENT ON COLUMN pgbus.schemas.schema IS 'JSON Schema (2020-12) of the parameters, the response, or the events that a handler takes';
COMMENT ON COLUMN pgbus.schemas.hash IS 'SHA-256 of the schema, as hexadecimal digits';
COMMENT ON COLUMN pgbus.schemas.about IS 'owner, description and links, as the service declared them last; a JSON object';
COMMENT ON COLUMN pgbus.schemas.first_seen_at IS 'When a process first published it';
COMMENT ON COLUMN pgbus.schemas.published_at IS 'When a process last started with it: the newest of a name is current';
COMMENT ON COLUMN pgbus.schemas.last_seen_at IS 'When a live worker used it last';
COMMENT ON TABLE pgbus.worker_schemas IS 'Versions of schemas that each worker uses';
COMMENT ON COLUMN pgbus.worker_schemas.worker_id IS 'Worker, in workers';
COMMENT ON COLUMN pgbus.worker_schemas.schema_id IS 'Version, in schemas';
COMMENT ON VIEW pgbus.live_workers IS 'The live workers: those that hold the lock of their id';
COMMENT ON COLUMN pgbus.live_workers.id IS 'Id in other tables';
COMMENT ON COLUMN pgbus.live_workers.name IS 'Name of the worker, as log lines show it';
COMMENT ON COLUMN pgbus.live_workers.service IS 'Service that it runs';
COMMENT ON COLUMN pgbus.live_workers.host IS 'Host name';
COMMENT ON COLUMN pgbus.live_workers.pid IS 'Process id on its host';
COMMENT ON COLUMN pgbus.live_workers.version IS 'Version of pgbus';
COMMENT ON COLUMN pgbus.live_workers.listeners IS 'Names of the listeners that it runs';
COMMENT ON COLUMN pgbus.live_workers.started_at IS 'When it registered';
COMMENT ON COLUMN pgbus.live_workers.last_seen_at IS 'When it reported last, every 10 seconds';
COMMENT ON COLUMN pgbus.live_workers.leading_since IS 'When it became the leader; NULL: it is not the leader';
COMMENT ON COLUMN pgbus.live_workers.is_asleep IS 'Whether the whole bus sleeps, as nothing is owed: then nobody reports, and nobody leads';
COMMENT ON VIEW pgbus.running IS 'Calls of handlers, procedures and tasks that have run for a second or more, as the live workers reported last';
COMMENT ON COLUMN pgbus.running.kind IS 'listener, procedure or schedule';
COMMENT ON COLUMN pgbus.running.name IS 'Name of the listener, procedure or schedule';
COMMENT ON COLUMN pgbus.running.worker IS 'Name of the worker';
COMMENT ON COLUMN pgbus.running.id IS 'Event id, call id or run id';
COMMENT ON COLUMN pgbus.running.position IS 'Position of the event; NULL: not an event';
COMMENT ON COLUMN pgbus.running.topic IS 'Topic of the event; NULL: not an event';
COMMENT ON COLUMN pgbus.running.key IS 'Key of the event; NULL: none';
COMMENT ON COLUMN pgbus.running.events IS 'Number of events in the call of the handler; 1 for all other calls';
COMMENT ON COLUMN pgbus.running.attempt IS 'Number of the attempt, from 1';
COMMENT ON COLUMN pgbus.running.started_at IS 'When it was called';
COMMENT ON COLUMN pgbus.running.reported_at IS 'When the worker reported it; it may have ended since';
COMMENT ON VIEW pgbus.schema_versions IS 'Every version of every schema, and the live workers that use it';
COMMENT ON COLUMN pgbus.schema_versions.id IS 'Id of the version';
COMMENT ON COLUMN pgbus.schema_versions.kind IS 'event, procedure or listener';
COMMENT ON COLUMN pgbus.schema_versions.name IS 'A topic, the full name of a procedure, or the name of a listener';
COMMENT ON COLUMN pgbus.schema_versions.api IS 'Name without its last word; NULL for a listener';
COMMENT ON COLUMN pgbus.schema_versions.service IS 'Service that declares it';
COMMENT ON COLUMN pgbus.schema_versions.version IS 'Counts the changes of the declaration by its service, from 1; a declaration that returns keeps its number';
COMMENT ON COLUMN pgbus.schema_versions.schema IS 'JSON Schema (2020-12) of the parameters, the response, or the events that a handler takes';
COMMENT ON COLUMN pgbus.schema_versions.hash IS 'SHA-256 of the schema, as hexadecimal digits';
COMMENT ON COLUMN pgbus.schema_versions.owner IS 'Owner, as the service declares it; empty: none';
COMMENT ON COLUMN pgbus.schema_versions.description IS 'Description, as the service declares it; empty: none';
COMMENT ON COLUMN pgbus.schema_versions.links IS 'Titles and URLs, a JSON object';
COMMENT ON COLUMN pgbus.schema_versions.first_seen_at IS 'When a process first published it';
COMMENT ON COLUMN pgbus.schema_versions.published_at IS 'When a process last started with it: the newest of a name is current';
COMMENT ON COLUMN pgbus.schema_versions.last_seen_at IS 'When a live worker used it last';
COMMENT ON COLUMN pgbus.schema_versions.is_live IS 'Whether a live worker uses it';
COMMENT ON COLUMN pgbus.schema_versions.workers IS 'Names of the live workers that use it';
COMMENT ON FUNCTION pgbus.republish_schemas(integer[], text[]) IS 'Records that a process starts with these versions now, and what it says about each';
