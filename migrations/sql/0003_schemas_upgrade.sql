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
COMMENT ON COLUMN pgbus.schemas.hash IS 'SHA-256 of the schema, as hexadecimal digits';

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

-- The lock (hashtext('<namespace>.worker'), id) shows that a worker is alive; its row is deleted later.
CREATE VIEW pgbus.live_workers AS
SELECT w.id, w.name, w.service, w.host, w.pid, w.version, w.listeners, w.started_at, w.last_seen_at, w.leading_since
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
COMMENT ON VIEW pgbus.live_workers IS 'The live workers';

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
COMMENT ON VIEW pgbus.running IS 'Calls of handlers, procedures and tasks that have run for a second or more, as the live workers reported last';

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
COMMENT ON VIEW pgbus.schema_versions IS 'Every version of every schema, and the live workers that use it';

CREATE OR REPLACE FUNCTION pgbus.oldest_code() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT '0003' $$;
