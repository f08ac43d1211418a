-- Schemas of events, procedures and listeners, as their services declare them.

-- name: find_new_schemas
-- A service's schemas that are not stored yet.
SELECT w.kind, w.name
FROM unnest(CAST(:kinds AS text[]), CAST(:names AS text[]), CAST(:hashes AS text[])) AS w (kind, name, hash)
WHERE NOT EXISTS (SELECT 1 FROM pgbus.schemas AS s
                  WHERE s.kind = w.kind AND s.name = w.name AND s.hash = w.hash
                    AND s.service = CAST(:service AS text))

-- name: publish_schemas
-- Store the schemas of a service. Returns the existing rows: for a schema that another process stores at the same time
-- there may be none yet, so call it again until all exist. One at a time: the next version is the last one plus 1, and
-- rows are locked. What is said about them replaces what was said before.
WITH alone AS MATERIALIZED (
    SELECT pg_advisory_xact_lock(hashtext(CAST(:channel AS text)))
), wanted AS MATERIALIZED (
    SELECT w.kind, w.name, w.schema, w.hash, w.about
    FROM alone
    CROSS JOIN unnest(
        CAST(:kinds AS text[]), CAST(:names AS text[]), CAST(:schemas AS text[]), CAST(:hashes AS text[]),
        CAST(:abouts AS text[])
    ) AS w (kind, name, schema, hash, about)
), stored AS MATERIALIZED (
    SELECT s.id, s.kind, s.name, w.about
    FROM wanted AS w
    JOIN pgbus.schemas AS s
        ON s.kind = w.kind AND s.name = w.name AND s.hash = w.hash AND s.service = CAST(:service AS text)
), known AS MATERIALIZED (
    SELECT o.id, o.kind, o.name
    FROM pgbus.republish_schemas(
        (SELECT array_agg(t.id ORDER BY t.id) FROM stored AS t),
        (SELECT array_agg(t.about ORDER BY t.id) FROM stored AS t)) AS r (id)
    JOIN stored AS o ON o.id = r.id
), added AS (
    INSERT INTO pgbus.schemas AS s (kind, name, service, version, schema, hash, about)
    SELECT w.kind, w.name, CAST(:service AS text),
           COALESCE((SELECT max(o.version) FROM pgbus.schemas AS o
                     WHERE o.kind = w.kind AND o.name = w.name AND o.service = CAST(:service AS text)), 0) + 1,
           CAST(w.schema AS jsonb), w.hash, CAST(w.about AS jsonb)
    FROM wanted AS w
    WHERE NOT EXISTS (SELECT 1 FROM known AS k WHERE k.kind = w.kind AND k.name = w.name)
    ON CONFLICT DO NOTHING
    RETURNING s.id, s.kind, s.name, s.version
), told AS MATERIALIZED (
    -- Other processes cache schemas until a change: a new version, or an old one that is used again.
    SELECT pg_notify(CAST(:channel AS text), '') AS done
    WHERE EXISTS (SELECT 1 FROM added)
       OR EXISTS (SELECT 1
                  FROM known AS k
                  JOIN pgbus.schemas AS s ON s.id = k.id
                  JOIN pgbus.schemas AS o ON o.kind = k.kind AND o.name = k.name AND o.published_at > s.published_at)
)
SELECT found.kind, found.name, found.version, found.is_new, (SELECT count(*) FROM told) AS told
FROM (
    SELECT a.kind, a.name, a.version, TRUE AS is_new FROM added AS a
    UNION ALL
    SELECT s.kind, s.name, s.version, FALSE FROM known AS k JOIN pgbus.schemas AS s ON s.id = k.id
) AS found

-- name: set_worker_schemas
-- Replace the schemas that a worker uses by these.
WITH spoken AS MATERIALIZED (
    SELECT s.id
    FROM unnest(CAST(:kinds AS text[]), CAST(:names AS text[]), CAST(:hashes AS text[])) AS w (kind, name, hash)
    JOIN pgbus.schemas AS s
        ON s.kind = w.kind AND s.name = w.name AND s.hash = w.hash AND s.service = CAST(:service AS text)
), gone AS (
    DELETE FROM pgbus.worker_schemas AS x
    WHERE x.worker_id = CAST(:worker_id AS integer)
      AND NOT EXISTS (SELECT 1 FROM spoken AS s WHERE s.id = x.schema_id)
)
INSERT INTO pgbus.worker_schemas AS x (worker_id, schema_id)
SELECT CAST(:worker_id AS integer), s.id FROM spoken AS s
ON CONFLICT (worker_id, schema_id) DO NOTHING

-- name: find_other_versions
-- For a listener that cannot read an event: the live worker with another version of it that started last, and the newest
-- version of the event's topics, if that is newer than the listener's. A first version is not: nobody had to change.
WITH own AS MATERIALIZED (
    SELECT s.id, s.first_seen_at
    FROM pgbus.worker_schemas AS x
    JOIN pgbus.schemas AS s ON s.id = x.schema_id
    WHERE x.worker_id = CAST(:worker_id AS integer) AND s.kind = 'listener' AND s.name = CAST(:listener_name AS text)
), others AS MATERIALIZED (
    SELECT x.worker_id
    FROM own
    JOIN pgbus.schemas AS s
        ON s.kind = 'listener' AND s.name = CAST(:listener_name AS text) AND s.id <> own.id
    JOIN pgbus.worker_schemas AS x ON x.schema_id = s.id
), live AS MATERIALIZED (
    -- Apart: the planner expects few locks, and would read what it is joined with again for each of them.
    SELECT w.id, w.name, w.started_at
    FROM pgbus.live_workers AS w
)
SELECT clock_timestamp() AS now, other.worker, other.worker_since, newer.topic, newer.version, newer.version_since
FROM own
LEFT JOIN LATERAL (
    SELECT w.name AS worker, w.started_at AS worker_since
    FROM live AS w
    WHERE w.id = ANY (ARRAY(SELECT o.worker_id FROM others AS o))
    ORDER BY w.started_at DESC
    LIMIT 1
) AS other ON TRUE
LEFT JOIN LATERAL (
    SELECT s.name AS topic, s.version, s.first_seen_at AS version_since
    FROM pgbus.schemas AS s
    WHERE s.kind = 'event' AND s.name = ANY (CAST(:topics AS text[])) AND s.version > 1
      AND s.first_seen_at > own.first_seen_at
    ORDER BY s.first_seen_at DESC
    LIMIT 1
) AS newer ON TRUE

-- name: touch_schemas
-- Record that a worker's schemas were seen now; rows that another worker is updating are skipped.
UPDATE pgbus.schemas AS s
SET last_seen_at = now()
FROM (
    SELECT o.id
    FROM pgbus.worker_schemas AS x
    JOIN pgbus.schemas AS o ON o.id = x.schema_id
    WHERE x.worker_id = CAST(:worker_id AS integer)
      AND o.last_seen_at < now() - CAST(:age AS double precision) * INTERVAL '1 second'
    FOR UPDATE OF o SKIP LOCKED
) AS old
WHERE s.id = old.id

-- name: load_schemas
-- The current version of every event and procedure: the one with which a process last started.
SELECT DISTINCT ON (s.kind, s.name) s.kind, s.name, CAST(s.schema AS text) AS schema
FROM pgbus.schemas AS s
WHERE s.kind <> 'listener'
ORDER BY s.kind, s.name, s.published_at DESC, s.version DESC

-- name: list_schemas
-- Every version of every schema; a listener's version is not in use if the listener is not registered. Its options are
-- those with which it was registered last.
SELECT v.kind, v.name, v.service, v.version, CAST(v.schema AS text) AS schema, v.is_live, v.workers,
       v.kind <> 'listener' OR l.id IS NOT NULL AS is_registered, CAST(l.options AS text) AS options,
       v.owner, v.description, CAST(v.links AS text) AS links,
       v.first_seen_at, v.published_at, v.last_seen_at
FROM pgbus.schema_versions AS v
LEFT JOIN pgbus.listeners AS l ON v.kind = 'listener' AND l.listener_name = v.name
ORDER BY v.kind, v.name, v.service, v.version
