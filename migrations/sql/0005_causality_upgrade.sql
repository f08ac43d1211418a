-- Causality: the tree of all that one request, event, call or run has brought about.

-- All that has this correlation_id, depth first, siblings in the order of their times. `at`: when it was published, called
-- or begun; `actor`: the service that published it, the process that called, or the worker that ran it. A cause that is
-- not there, such as a call of before a restore, leaves what it caused at depth 0, with its `causation_id`.
CREATE FUNCTION pgbus.correlation_tree(correlation_id text)
    RETURNS TABLE (depth integer, kind text, id uuid, causation_id uuid, name text, actor text, at timestamptz, state text,
                   "position" bigint)
    LANGUAGE sql STABLE ROWS 20
AS $$
    WITH RECURSIVE found AS (
        SELECT c.kind, c.id, c.causation_id, COALESCE(e.topic, c.name) AS name, COALESCE(e.published_by, c.actor) AS actor,
               COALESCE(e.published_at, c.at) AS at, c.state, e.position
        FROM pgbus.causes AS c
        LEFT JOIN pgbus.events AS e ON e.position = c.position AND c.kind = 'event'
        WHERE c.correlation_id = correlation_tree.correlation_id
        UNION ALL
        -- The root, which has no row there: its own id is the tree's.
        SELECT 'event', e.event_id, NULL, e.topic, e.published_by, e.published_at, NULL, e.position
        FROM pgbus.events AS e
        WHERE e.event_id = pgbus.uuid_or_null(correlation_tree.correlation_id)
          AND (e.headers ?| '{correlation_id,causation_id}') IS NOT TRUE
        UNION ALL
        SELECT 'call', r.call_id, NULL, r.procedure, r.caller, r.requested_at, r.state, NULL
        FROM pgbus.rpc_calls AS r
        WHERE r.call_id = pgbus.uuid_or_null(correlation_tree.correlation_id) AND r.headers IS NULL
        UNION ALL
        SELECT 'run', s.run_id, NULL, s.schedule_name, s.worker, s.started_at, s.outcome, NULL
        FROM pgbus.schedule_history AS s
        WHERE s.run_id = pgbus.uuid_or_null(correlation_tree.correlation_id)
        UNION ALL
        SELECT 'call', r.call_id, pgbus.uuid_or_null(r.headers ->> 'causation_id'), r.procedure, r.caller, r.requested_at,
               r.state, NULL
        FROM pgbus.rpc_calls AS r
        WHERE pgbus.correlation_of(r.call_id, r.headers) = correlation_tree.correlation_id AND r.headers IS NOT NULL
    ), nodes AS MATERIALIZED (
        SELECT row_number() OVER (ORDER BY f.at, f.position, f.id) AS number, f.* FROM found AS f
    ), tree AS (
        SELECT ARRAY[n.number] AS path, n.number, n.id
        FROM nodes AS n
        WHERE NOT EXISTS (SELECT FROM nodes AS p WHERE p.id = n.causation_id AND p.number <> n.number)
        UNION ALL
        SELECT t.path || n.number, n.number, n.id
        FROM tree AS t
        JOIN nodes AS n ON n.causation_id = t.id
        -- Anyone may write headers: a circle must end.
        WHERE n.number <> ALL (t.path)
    )
    SELECT cardinality(t.path) - 1, n.kind, n.id, n.causation_id, n.name, n.actor, n.at, n.state, n.position
    FROM tree AS t
    JOIN nodes AS n ON n.number = t.number
    ORDER BY t.path
$$;
COMMENT ON FUNCTION pgbus.correlation_tree(text) IS 'Events, calls and runs with this correlation_id, each below its cause';

-- The whole tree that an event, call or run is part of, from its root on.
CREATE FUNCTION pgbus.event_tree(event_id uuid)
    RETURNS TABLE (depth integer, kind text, id uuid, causation_id uuid, name text, actor text, at timestamptz, state text,
                   "position" bigint)
    LANGUAGE sql STABLE ROWS 20
AS $$
    SELECT t.*
    FROM (
        SELECT COALESCE(
            (SELECT pgbus.correlation_of(e.event_id, e.headers) FROM pgbus.events AS e
             WHERE e.event_id = event_tree.event_id LIMIT 1),
            (SELECT pgbus.correlation_of(r.call_id, r.headers) FROM pgbus.rpc_calls AS r
             WHERE r.call_id = event_tree.event_id),
            CAST(event_tree.event_id AS text)) AS correlation_id
    ) AS asked
    CROSS JOIN LATERAL pgbus.correlation_tree(asked.correlation_id) AS t
$$;
COMMENT ON FUNCTION pgbus.event_tree(uuid) IS 'The tree of all that has the same origin as this event, call or run';
