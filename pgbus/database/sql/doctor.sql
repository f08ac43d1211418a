-- Queries of `pgbus doctor`: one statement for each group of checks. They change nothing and take no locks.

-- name: read_clock
-- The server's clock.
SELECT clock_timestamp() AS now

-- name: read_server_settings
-- Settings of the server as they are at the start of a session of this user in this database.
SELECT s.name, COALESCE(s.reset_val, '') AS value
FROM pg_settings AS s
WHERE s.name = ANY (CAST(:names AS text[]))

-- name: read_horizon
-- What may keep dead rows from being removed: transactions, prepared transactions, replication slots and standbys.
-- `seconds` is how long it has lasted, NULL where the server does not say; `xids` is the age, in transactions, of the
-- oldest row that it may still read.
SELECT 'session' AS kind, CAST(a.pid AS text) AS name, COALESCE(a.application_name, '') AS owner,
       CAST(extract(epoch FROM clock_timestamp() - a.xact_start) AS double precision) AS seconds,
       COALESCE(GREATEST(age(a.backend_xmin), age(a.backend_xid)), 0) AS xids
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
UNION ALL
SELECT 'prepared transaction', p.gid, CAST(p.owner AS text),
       CAST(extract(epoch FROM clock_timestamp() - p.prepared) AS double precision), age(p.transaction)
FROM pg_prepared_xacts AS p
WHERE p.database = current_database()
UNION ALL
SELECT 'slot', CAST(s.slot_name AS text), CASE WHEN s.active THEN 'active' ELSE 'inactive' END, NULL,
       GREATEST(age(s.xmin), age(s.catalog_xmin))
FROM pg_replication_slots AS s
WHERE s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL
UNION ALL
SELECT 'standby', CAST(r.pid AS text), COALESCE(r.application_name, ''), NULL, age(r.backend_xmin)
FROM pg_stat_replication AS r
WHERE r.backend_xmin IS NOT NULL
ORDER BY xids DESC

-- name: read_slots
-- Replication slots: whether someone reads from them, and the bytes of WAL that they keep.
SELECT CAST(s.slot_name AS text) AS name, s.active, COALESCE(s.wal_status, '') AS wal_status,
       CAST(COALESCE(pg_wal_lsn_diff(
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
           s.restart_lsn), 0) AS bigint) AS kept
FROM pg_replication_slots AS s
ORDER BY s.slot_name

-- name: read_notification_queue
-- How full the server's queue of notifications is, from 0 to 1, and how many commits wait for the lock that all
-- notifying commits of the server share.
SELECT pg_notification_queue_usage() AS usage,
       (SELECT count(*) FROM pg_locks AS k
        WHERE k.locktype = 'object' AND k.classid = 1262 AND k.objid = 0 AND k.database = 0 AND NOT k.granted) AS waiting

-- name: read_tables
-- The bus's tables: live and dead rows as the server estimates them, and the age of their oldest rows in transactions.
SELECT CAST(c.relname AS text) AS name, COALESCE(s.n_live_tup, 0) AS live_rows, COALESCE(s.n_dead_tup, 0) AS dead_rows,
       COALESCE(s.n_mod_since_analyze, 0) AS changed_rows, age(c.relfrozenxid) AS xids,
       COALESCE(c.reloptions, '{}') AS options
FROM pg_class AS c
LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
WHERE c.relkind = 'r'
  AND c.relnamespace = (SELECT t.relnamespace FROM pg_class AS t WHERE t.oid = CAST('pgbus.workers' AS regclass))
ORDER BY c.relname

-- name: read_space
-- The size of all tables in bytes, when the log began, its last position, and its partitions: the newest one, the oldest
-- one with the end of its period (NULL: it is the newest), and a listener to which an event of that one is owed.
WITH periods AS (
    SELECT p.number, p.opened_at, lead(p.opened_at) OVER (ORDER BY p.number) AS ended_at
    FROM pgbus.partitions AS p
), oldest AS (
    SELECT o.number, o.ended_at FROM periods AS o ORDER BY o.number LIMIT 1
)
SELECT CAST((SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class AS c
             WHERE c.relkind = 'r'
               AND c.relnamespace = (SELECT t.relnamespace FROM pg_class AS t
                                     WHERE t.oid = CAST('pgbus.workers' AS regclass))) AS bigint) AS bytes,
       (SELECT min(p.opened_at) FROM periods AS p) AS began_at,
       COALESCE((SELECT max(e.position) FROM pgbus.events AS e), 0) AS log_head,
       (SELECT max(p.number) FROM periods AS p) AS newest,
       o.number AS oldest, o.ended_at,
       (SELECT l.listener_name
        FROM pgbus.listeners AS l
        WHERE l.cursor < (o.number + 1) * bigint '1000000000'
           OR EXISTS (SELECT FROM pgbus.deliveries AS d
                      WHERE d.listener_id = l.id AND d.first < (o.number + 1) * bigint '1000000000')
           OR EXISTS (SELECT FROM pgbus.dead_letters AS x
                      WHERE x.listener_id = l.id AND x.position < (o.number + 1) * bigint '1000000000')
        ORDER BY l.listener_name
        LIMIT 1) AS debtor
FROM oldest AS o

-- name: find_unheard_topics
-- Topics of the last 10,000 events that no listener hears.
SELECT r.topic
FROM (SELECT DISTINCT e.topic, e.ancestors
      FROM (SELECT x.topic, x.ancestors FROM pgbus.events AS x ORDER BY x.position DESC LIMIT 10000) AS e) AS r
WHERE NOT EXISTS (
    SELECT FROM pgbus.subscriptions AS s
    CROSS JOIN unnest(ARRAY[r.topic] || ARRAY(SELECT unnest(r.ancestors))) AS n (name)
    WHERE CASE WHEN s.regex IS NULL THEN n.name = s.pattern ELSE n.name || '.' ~ s.regex END)
GROUP BY r.topic
ORDER BY r.topic

-- name: find_quiet_subscriptions
-- Subscriptions, at least an hour old, that match no event that a service has declared and none of the last 10,000.
WITH known AS MATERIALIZED (
    SELECT s.name FROM pgbus.schemas AS s WHERE s.kind = 'event'
    UNION
    SELECT n.name
    FROM (SELECT DISTINCT e.topic, e.ancestors
          FROM (SELECT x.topic, x.ancestors FROM pgbus.events AS x ORDER BY x.position DESC LIMIT 10000) AS e) AS r
    CROSS JOIN unnest(ARRAY[r.topic] || ARRAY(SELECT unnest(r.ancestors))) AS n (name)
)
SELECT l.listener_name, s.pattern
FROM pgbus.subscriptions AS s
JOIN pgbus.listeners AS l ON l.id = s.listener_id
WHERE l.registered_at < now() - INTERVAL '1 hour'
  AND NOT EXISTS (SELECT FROM known AS k
                  WHERE CASE WHEN s.regex IS NULL THEN k.name = s.pattern ELSE k.name || '.' ~ s.regex END)
ORDER BY l.listener_name, s.pattern

-- name: read_recent_work
-- For each listener the attempts of the last 15 minutes, those of them that failed, and the 99th percentile of their
-- durations in seconds.
SELECT a.listener_name, count(*) AS attempts, count(*) FILTER (WHERE a.outcome IN ('retry', 'dead')) AS failed,
       CAST(COALESCE(percentile_disc(0.99) WITHIN GROUP (ORDER BY a.duration), 0) AS double precision) AS longest
FROM pgbus.attempts AS a
WHERE a.started_at > now() - INTERVAL '15 minutes' AND a.listener_name IS NOT NULL
GROUP BY a.listener_name
ORDER BY a.listener_name

-- name: count_recent_dead_letters
-- For each listener with dead letters: all of them, and those of the last hour.
SELECT l.listener_name, count(*) AS dead, count(*) FILTER (WHERE x.dead_at > now() - INTERVAL '1 hour') AS recent
FROM pgbus.dead_letters AS x
JOIN pgbus.listeners AS l ON l.id = x.listener_id
GROUP BY l.listener_name
ORDER BY l.listener_name

-- name: count_parked_events
-- Events that workers could not handle and left to others, by listener, with one of the reasons.
SELECT p.listener_name, CAST(sum(p.events) AS bigint) AS events, max(p.last_error) AS reason
FROM pgbus.pending AS p
WHERE p.state = 'parked'
GROUP BY p.listener_name
ORDER BY sum(p.events) DESC, p.listener_name

-- name: find_unanswered_calls
-- Procedures with calls of the last 10 minutes that no worker served, or that were not answered in time.
SELECT c.procedure, count(*) FILTER (WHERE c.state = 'unserved') AS unserved,
       count(*) FILTER (WHERE c.state IN ('expired', 'lost')) AS unanswered
FROM pgbus.rpc_calls AS c
WHERE c.deadline > now() - INTERVAL '10 minutes' AND c.state IN ('unserved', 'expired', 'lost')
GROUP BY c.procedure
ORDER BY c.procedure

-- name: read_connections
-- Connections of the whole server, the live workers of this bus, and how this session is connected. `sees_all`: whether
-- this user sees what the sessions of other users do.
SELECT CAST(COALESCE((SELECT sum(d.numbackends) FROM pg_stat_database AS d), 0) AS bigint) AS used,
       (SELECT count(*) FROM pgbus.live_workers) AS workers,
       pg_is_in_recovery() AS read_only,
       pg_has_role(current_user, 'pg_read_all_stats', 'MEMBER') AS sees_all,
       COALESCE((SELECT t.ssl FROM pg_stat_ssl AS t WHERE t.pid = pg_backend_pid()), false) AS encrypted,
       COALESCE(inet_client_addr() = inet_server_addr() OR inet_client_addr() << inet '127.0.0.0/8', true) AS is_local

-- name: read_sequences
-- The bus's sequences with the part of their range that is used, from 0 to 1, and the ids that exist although the
-- sequence of the outbox has yet to give them out. `readable`: without a right to it, last_value is NULL as if it were
-- new.
SELECT CAST(q.sequencename AS text) AS name,
       CAST(COALESCE(q.last_value, 0) AS double precision) / q.max_value AS used,
       CASE WHEN q.sequencename = 'outbox_id_seq'
            THEN GREATEST(0, (SELECT max(o.id) FROM pgbus.outbox AS o) - COALESCE(q.last_value, 0)) ELSE 0 END AS behind,
       has_sequence_privilege(format('%I.%I', q.schemaname, q.sequencename), 'SELECT, USAGE') AS readable
FROM pg_sequences AS q
WHERE q.schemaname = CAST(:namespace AS text) AND NOT q.cycle
ORDER BY q.sequencename

-- name: find_invalid_indexes
-- Indexes of the bus that the server does not use, because their creation failed.
SELECT CAST(c.relname AS text) AS name
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid
  AND c.relnamespace = (SELECT t.relnamespace FROM pg_class AS t WHERE t.oid = CAST('pgbus.workers' AS regclass))
ORDER BY c.relname

-- name: find_collation_drift
-- Collations of this database whose rules have changed since its indexes were built, with both versions. From
-- PostgreSQL 15 on.
SELECT CAST(d.datname AS text) AS name, d.datcollversion AS recorded,
       pg_database_collation_actual_version(d.oid) AS actual
FROM pg_database AS d
WHERE d.datname = current_database()
  AND d.datcollversion <> pg_database_collation_actual_version(d.oid)

-- name: find_public_rights
-- Rights on the bus's tables, functions and schema that every user of the database has, and none should.
SELECT CAST(c.relname AS text) AS name, x.privilege_type AS privilege
FROM pg_class AS c
CROSS JOIN aclexplode(c.relacl) AS x
WHERE x.grantee = 0
  AND c.relnamespace = (SELECT t.relnamespace FROM pg_class AS t WHERE t.oid = CAST('pgbus.workers' AS regclass))
UNION
SELECT CAST(p.proname AS text) || '()', 'EXECUTE'
FROM pg_proc AS p
WHERE p.prosecdef AND has_function_privilege('public', p.oid, 'EXECUTE')
  AND p.pronamespace = (SELECT t.relnamespace FROM pg_class AS t WHERE t.oid = CAST('pgbus.workers' AS regclass))
UNION
SELECT CAST(n.nspname AS text), 'CREATE'
FROM pg_namespace AS n
WHERE has_schema_privilege('public', n.oid, 'CREATE')
  AND n.oid = (SELECT t.relnamespace FROM pg_class AS t WHERE t.oid = CAST('pgbus.workers' AS regclass))
ORDER BY name, privilege

-- name: find_missing_grants
-- Rights that a group role of the bus had when the roles were made, and has no longer. Roles that are not there have no
-- line.
SELECT CAST(r.rolname AS text) AS role, CAST(w.relation AS text) AS name, w.privilege
FROM (VALUES
    ('publisher', CAST('pgbus.outbox' AS regclass), 'INSERT'),
    ('caller', CAST('pgbus.rpc_requests' AS regclass), 'INSERT'),
    ('worker', CAST('pgbus.outbox' AS regclass), 'SELECT'),
    ('worker', CAST('pgbus.events' AS regclass), 'SELECT'),
    ('worker', CAST('pgbus.deliveries' AS regclass), 'UPDATE'),
    ('worker', CAST('pgbus.history' AS regclass), 'INSERT'),
    ('worker', CAST('pgbus.dead_letters' AS regclass), 'INSERT'),
    ('worker', CAST('pgbus.rpc_responses' AS regclass), 'INSERT'),
    ('worker', CAST('pgbus.schedules' AS regclass), 'UPDATE'),
    ('reader', CAST('pgbus.events' AS regclass), 'SELECT'),
    ('reader', CAST('pgbus.event_history' AS regclass), 'SELECT'),
    ('admin', CAST('pgbus.dead_letters' AS regclass), 'DELETE')
) AS w (role, relation, privilege)
JOIN pg_roles AS r ON r.rolname = CAST(:namespace AS text) || '_' || w.role
WHERE NOT CASE WHEN w.privilege = 'DELETE' THEN has_table_privilege(r.oid, w.relation, w.privilege)
               ELSE has_any_column_privilege(r.oid, w.relation, w.privilege) END
ORDER BY r.rolname, name

-- name: read_installation
-- Where the bus was when a worker began there, where it is now (each NULL where that is not known), and what is paused
-- because it is a copy.
SELECT i.system_identifier AS known_system, i.database AS known_database, h.system_identifier, h.database,
       p.listeners, p.schedules
FROM pgbus.find_installation() AS h
CROSS JOIN pgbus.find_paused_as_copy() AS p
LEFT JOIN pgbus.installation AS i ON true
