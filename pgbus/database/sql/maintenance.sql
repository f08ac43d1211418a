-- The leader's maintenance: partitions of the log, and rows that are no longer needed.

-- name: open_partition
-- Open a partition of the log and of history, if it is not open yet. It waits 0.1 s for its locks, then fails, and is
-- tried again: what others read or back up just now must not stop the sequencer, which shares this session.
SELECT pgbus.open_partition(CAST(:number AS integer)) AS opened

-- name: find_partition_age
-- When the first event of a partition was logged, in seconds before now; NULL when it is empty.
SELECT CAST(extract(epoch FROM now() - e.logged_at) AS double precision) AS age
FROM pgbus.events AS e
WHERE e.position >= CAST(:number AS bigint) * 1000000000 AND e.position < (CAST(:number AS bigint) + 1) * 1000000000
ORDER BY e.position
LIMIT 1

-- name: find_expired_partitions
-- Partitions below the current one whose last event is older than the retention.
SELECT p.number
FROM pgbus.partitions AS p
LEFT JOIN LATERAL (
    SELECT e.logged_at
    FROM pgbus.events AS e
    WHERE e.position >= CAST(p.number AS bigint) * 1000000000
      AND e.position < (CAST(p.number AS bigint) + 1) * 1000000000
    ORDER BY e.position DESC
    LIMIT 1
) AS newest ON true
WHERE p.number < CAST(:current AS integer)
  AND COALESCE(newest.logged_at, p.opened_at) < now() - CAST(:retention AS double precision) * INTERVAL '1 second'
ORDER BY p.number

-- name: drop_partition
-- Drop a partition of the log and of history; raises an error while a listener still needs it.
SELECT pgbus.drop_partition(CAST(:number AS integer)) AS dropped

-- name: release_lanes
-- Remove deliveries from the lanes of listeners that are no longer ordered, because claims no longer search the lanes.
-- Returns the number of rows.
WITH stranded AS MATERIALIZED (
    -- In two parts, because each has its own index, and listener by listener: the rows of those that are ordered are not
    -- read, nor the dead ones that a long-running snapshot keeps of theirs.
    SELECT x.id
    FROM pgbus.listeners AS l
    CROSS JOIN LATERAL (
        (SELECT d.id FROM pgbus.deliveries AS d
         WHERE d.listener_id = l.id AND d.lane IS NOT NULL AND d.blocked_key IS NULL AND d.claim_token IS NULL
         LIMIT CAST(:batch AS bigint))
        UNION ALL
        (SELECT d.id FROM pgbus.deliveries AS d
         WHERE d.listener_id = l.id AND d.blocked_key IS NOT NULL
         LIMIT CAST(:batch AS bigint))
    ) AS x
    WHERE l.lanes IS NULL
    LIMIT CAST(:batch AS bigint)
), free AS MATERIALIZED (
    SELECT d.id
    FROM pgbus.deliveries AS d
    WHERE d.id = ANY (ARRAY(SELECT s.id FROM stranded AS s)) AND d.claim_token IS NULL
    FOR UPDATE SKIP LOCKED
), released AS (
    UPDATE pgbus.deliveries AS d
    SET lane = NULL, blocked_key = NULL, available_at = COALESCE(d.available_at, now())
    WHERE d.id = ANY (ARRAY(SELECT f.id FROM free AS f))
    RETURNING d.listener_id
), woken AS MATERIALIZED (
    SELECT count(*) AS rows, array_agg(DISTINCT r.listener_id) AS listener_ids FROM released AS r
)
SELECT w.rows,
       -- A notification carries less than 8000 bytes: 700 ids, however long they are.
       (SELECT count(pg_notify(CAST(:work_channel AS text), array_to_string(w.listener_ids[n:n + 699], ',')))
        FROM generate_series(1, cardinality(w.listener_ids), 700) AS n) AS told
FROM woken AS w

-- name: prune_dedup_keys
-- Delete dedup keys that have expired. Keys that a publisher takes over at the same moment are skipped, because locked
-- rows are checked again: a renewed key has not expired.
WITH expired AS MATERIALIZED (
    SELECT k.dedup_key
    FROM pgbus.dedup_keys AS k
    WHERE k.expires_at <= now()
    ORDER BY k.expires_at
    LIMIT CAST(:batch AS bigint)
    FOR UPDATE SKIP LOCKED
)
DELETE FROM pgbus.dedup_keys AS k
WHERE k.dedup_key = ANY (ARRAY(SELECT e.dedup_key FROM expired AS e))

-- name: prune_workers
-- Delete the rows of workers that were not seen for `worker_ttl` seconds, and do not live: those of a bus that has slept
-- were not seen for longer. Not all that are dead: the name of a worker that died explains its claims and its history,
-- for people, for some time. One that reports at this moment is skipped, or compared again.
WITH gone AS MATERIALIZED (
    SELECT w.id
    FROM pgbus.workers AS w
    WHERE w.last_seen_at < now() - CAST(:worker_ttl AS double precision) * INTERVAL '1 second'
      AND w.id <> CAST(:worker_id AS integer)
      AND w.id <> ALL (ARRAY(SELECT l.id FROM pgbus.live_workers AS l))
    FOR UPDATE SKIP LOCKED
)
DELETE FROM pgbus.workers AS w
WHERE w.id = ANY (ARRAY(SELECT g.id FROM gone AS g))

-- name: expire_declarations
-- Delete declarations that no worker has made for `ttl` seconds and none that lives has made, and subscriptions that only
-- they had; a listener that no worker runs keeps both.
--
-- A worker that registers at this moment may declare such a pattern again. It finds it subscribed, inserts nothing, and
-- this snapshot does not show its declaration: it would never hear what it declares. Registering locks and changes the
-- listener's row, until its commit. So what is being registered is skipped here by that lock; and what has been since
-- this snapshot by `last_seen_at`, which PostgreSQL compares again when it has locked the row. From then on,
-- registering waits for us, and inserts what we have deleted.
WITH live AS MATERIALIZED (
    SELECT w.id FROM pgbus.live_workers AS w
), seen AS MATERIALIZED (
    SELECT l.id, l.last_seen_at
    FROM pgbus.listeners AS l
    WHERE EXISTS (
        SELECT 1 FROM pgbus.declarations AS d
        WHERE d.listener_id = l.id
          AND d.last_seen_at <= now() - CAST(:ttl AS double precision) * INTERVAL '1 second'
          AND NOT d.worker_ids && ARRAY(SELECT w.id FROM live AS w))
), free AS MATERIALIZED (
    SELECT l.id
    FROM pgbus.listeners AS l
    JOIN seen AS s ON s.id = l.id AND s.last_seen_at = l.last_seen_at
    FOR NO KEY UPDATE OF l SKIP LOCKED
), kept AS MATERIALIZED (
    SELECT d.listener_id, d.patterns
    FROM pgbus.declarations AS d
    WHERE d.last_seen_at > now() - CAST(:ttl AS double precision) * INTERVAL '1 second'
       OR d.worker_ids && ARRAY(SELECT l.id FROM live AS l)
), expired AS (
    DELETE FROM pgbus.declarations AS d
    USING (SELECT f.id FROM free AS f WHERE EXISTS (SELECT 1 FROM kept AS k WHERE k.listener_id = f.id)) AS l
    WHERE d.listener_id = l.id
      AND d.last_seen_at <= now() - CAST(:ttl AS double precision) * INTERVAL '1 second'
      AND NOT d.worker_ids && ARRAY(SELECT w.id FROM live AS w)
    RETURNING d.listener_id, d.patterns
)
DELETE FROM pgbus.subscriptions AS s
USING expired AS e
WHERE s.listener_id = e.listener_id
  AND s.pattern = ANY (e.patterns)
  AND NOT EXISTS (SELECT 1 FROM kept AS k WHERE k.listener_id = s.listener_id AND s.pattern = ANY (k.patterns))

-- name: prune_schedule_runs
-- Delete runs that began more than `retention` seconds ago, except current ones; those that caused something stay in
-- `causes`. Arrays are used so that the planner cannot choose a join that reads the whole table.
WITH old AS (
    DELETE FROM pgbus.schedule_runs AS r
    WHERE r.run_id = ANY (ARRAY(
        SELECT x.run_id
        FROM pgbus.schedule_runs AS x
        WHERE x.started_at < now() - CAST(:retention AS double precision) * INTERVAL '1 second'
          AND x.run_id <> ALL (ARRAY(SELECT s.claim_token FROM pgbus.schedules AS s WHERE s.claim_token IS NOT NULL))
        ORDER BY x.started_at
        LIMIT CAST(:batch AS bigint)
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING r.run_id, r.schedule_name, r.worker, r.started_at, r.outcome
), kept AS (
    INSERT INTO pgbus.causes (position, kind, id, correlation_id, name, actor, at, state)
    SELECT COALESCE((SELECT e.position FROM pgbus.events AS e ORDER BY e.position DESC LIMIT 1), 0), 'run', o.run_id,
           CAST(o.run_id AS text), o.schedule_name, o.worker, o.started_at, o.outcome
    FROM old AS o
    WHERE EXISTS (SELECT FROM pgbus.causes AS c WHERE c.correlation_id = CAST(o.run_id AS text))
)
SELECT count(*) AS runs FROM old

-- name: expire_requests
-- Take requests off the queue whose deadline has passed. One that a server has just claimed, at its last moment, is
-- locked and skipped, or no longer waiting when it is locked here.
WITH late AS MATERIALIZED (
    SELECT r.call_id
    FROM pgbus.rpc_requests AS r
    WHERE r.taken_at IS NULL AND r.deadline <= clock_timestamp()
    LIMIT CAST(:batch AS bigint)
    FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE pgbus.rpc_requests AS r SET taken_at = clock_timestamp() FROM late AS l WHERE r.call_id = l.call_id
    RETURNING r.call_id
), noted AS (
    INSERT INTO pgbus.rpc_responses (call_id, outcome, error)
    SELECT t.call_id, 'expired', 'no server took the call before its deadline' FROM taken AS t
    ON CONFLICT (call_id) DO NOTHING
)
SELECT count(*) AS calls FROM taken

-- name: prune_calls
-- Delete calls whose deadline passed more than `retention` seconds ago; those that something caused, or that caused
-- something, stay in `causes`. A call's id contains the time of its caller's
-- clock, which bounds the scan; the deadline, by our clock, decides. An id with a time more than a day ahead belongs to
-- a caller that uses other ids than UUIDv7, or has a wrong clock: those are checked separately, or they would never be
-- deleted.
WITH bounds AS MATERIALIZED (
    SELECT CAST(lpad(to_hex(CAST((extract(epoch FROM clock_timestamp()) - CAST(:retention AS double precision)) * 1000
                                 AS bigint)), 12, '0') || '00000000000000000000' AS uuid) AS old,
           CAST(lpad(to_hex(CAST((extract(epoch FROM clock_timestamp()) + 86400) * 1000 AS bigint)), 12, '0')
                || '00000000000000000000' AS uuid) AS far
), past AS MATERIALIZED (
    (SELECT x.call_id
     FROM pgbus.rpc_requests AS x
     WHERE x.call_id < (SELECT b.old FROM bounds AS b)
       AND x.deadline < clock_timestamp() - CAST(:retention AS double precision) * INTERVAL '1 second'
     ORDER BY x.call_id
     LIMIT CAST(:batch AS bigint))
    UNION ALL
    (SELECT x.call_id
     FROM pgbus.rpc_requests AS x
     WHERE x.call_id > (SELECT b.far FROM bounds AS b)
       AND x.deadline < clock_timestamp() - CAST(:retention AS double precision) * INTERVAL '1 second'
     ORDER BY x.call_id
     LIMIT CAST(:batch AS bigint))
), free AS MATERIALIZED (
    SELECT r.call_id
    FROM pgbus.rpc_requests AS r
    WHERE r.call_id = ANY (ARRAY(SELECT p.call_id FROM past AS p))
    FOR UPDATE SKIP LOCKED
), old AS (
    DELETE FROM pgbus.rpc_requests AS r
    WHERE r.call_id = ANY (ARRAY(SELECT f.call_id FROM free AS f))
    RETURNING r.call_id, r.procedure, r.caller_name, r.requested_at, r.headers
), answers AS (
    DELETE FROM pgbus.rpc_responses AS a
    WHERE a.call_id = ANY (ARRAY(SELECT o.call_id FROM old AS o))
    RETURNING a.call_id, a.outcome
), kept AS (
    INSERT INTO pgbus.causes (position, kind, id, correlation_id, causation_id, name, actor, at, state)
    SELECT COALESCE((SELECT e.position FROM pgbus.events AS e ORDER BY e.position DESC LIMIT 1), 0), 'call', o.call_id,
           pgbus.correlation_of(o.call_id, o.headers), pgbus.uuid_or_null(o.headers ->> 'causation_id'), o.procedure,
           o.caller_name, o.requested_at, COALESCE(a.outcome, 'lost')
    FROM old AS o
    LEFT JOIN answers AS a ON a.call_id = o.call_id
    WHERE o.headers IS NOT NULL
       OR EXISTS (SELECT FROM pgbus.causes AS c WHERE c.correlation_id = CAST(o.call_id AS text))
)
SELECT count(*) AS calls FROM old

-- name: find_server_age
-- How many seconds ago the server was started.
SELECT CAST(extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()) AS double precision) AS age
