-- The rights of each group role, for members that do not own the namespace. Not a revision: `pgbus.migrate.grant_roles`
-- runs it, again after every upgrade. Every `pgbus`, alone or at the start of a role's name, is replaced by the
-- namespace.

-- Publishers insert, and can read the new event's id; they read no payload, not even their own. The database sets `id`,
-- on which sequencing depends, and `published_at`. An INSERT of many rows sets `wake` once for all of them.
GRANT USAGE ON SCHEMA pgbus TO pgbus_publisher;
GRANT INSERT (wake, event_id, topic, ancestors, key, payload, headers, deliver_at, published_by), SELECT (event_id)
    ON pgbus.outbox TO pgbus_publisher;
GRANT SELECT ON pgbus.wake_slots, pgbus.alembic_version TO pgbus_publisher;
-- They publish the schemas of their events, and read those of others.
GRANT SELECT, INSERT (kind, name, service, version, schema, hash, about) ON pgbus.schemas TO pgbus_publisher;
GRANT EXECUTE
    ON FUNCTION pgbus.uuid7(), pgbus.wake_leader(), pgbus.take_dedup_keys(text[], uuid[], double precision),
                pgbus.republish_schemas(integer[], text[])
    TO pgbus_publisher;

-- Callers call procedures: they post calls, read responses, cancel calls, and fail calls of dead workers. They cannot
-- read arguments, write results, or read the response to a call whose id they do not know. The names of channels on
-- which results travel are 96 random bits, which they cannot look up.
GRANT USAGE ON SCHEMA pgbus TO pgbus_caller;
GRANT INSERT (call_id, procedure, arguments, headers, caller, caller_name, deadline) ON pgbus.rpc_requests TO pgbus_caller;
GRANT EXECUTE ON FUNCTION pgbus.read_responses(uuid[]), pgbus.withdraw_calls(uuid[], text, text),
                          pgbus.fail_lost_calls(uuid[])
    TO pgbus_caller;
GRANT SELECT ON pgbus.rpc_servers, pgbus.live_workers, pgbus.schemas, pgbus.alembic_version TO pgbus_caller;

-- Workers run everything and call procedures; they can append to the log and the history, and not change them.
GRANT USAGE ON SCHEMA pgbus TO pgbus_worker;
GRANT SELECT, INSERT ON pgbus.events, pgbus.history, pgbus.causes TO pgbus_worker;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON pgbus.outbox, pgbus.dedup_keys, pgbus.listeners, pgbus.subscriptions, pgbus.route_changes,
       pgbus.declarations, pgbus.deliveries, pgbus.dead_letters,
       pgbus.workers, pgbus.rpc_servers, pgbus.rpc_requests, pgbus.rpc_responses, pgbus.schemas, pgbus.worker_schemas,
       pgbus.schedules, pgbus.schedule_runs
    TO pgbus_worker;
-- Relays run as workers. What was refused, they only add.
GRANT SELECT, INSERT, DELETE ON pgbus.received TO pgbus_worker;
GRANT SELECT
    ON pgbus.partitions, pgbus.alembic_version, pgbus.identity,
       pgbus.attempts, pgbus.event_history, pgbus.pending, pgbus.listener_lag, pgbus.dead, pgbus.scheduled, pgbus.rpc_calls,
       pgbus.schema_versions, pgbus.live_workers, pgbus.running, pgbus.timetable, pgbus.schedule_history,
       pgbus.audit_trail, pgbus.removed_listeners, pgbus.operations, pgbus.operation_steps, pgbus.operation_items, pgbus.installation
    TO pgbus_worker;
-- The leader sets that of the outbox forward where a logical copy of the database has left it behind.
GRANT SELECT, UPDATE ON SEQUENCE pgbus.wake_slots, pgbus.outbox_id_seq TO pgbus_worker;
GRANT EXECUTE
    ON FUNCTION pgbus.uuid7(), pgbus.wake_leader(), pgbus.open_partition(integer), pgbus.drop_partition(integer),
                pgbus.take_lane(integer, smallint, bigint), pgbus.take_empty_lane(integer, smallint, bigint),
                pgbus.take_dedup_keys(text[], uuid[], double precision), pgbus.republish_schemas(integer[], text[]),
                pgbus.read_responses(uuid[]), pgbus.withdraw_calls(uuid[], text, text), pgbus.fail_lost_calls(uuid[]),
                pgbus.find_installation(), pgbus.find_paused_as_copy(), pgbus.pause_copy()
    TO pgbus_worker;

-- Readers audit, and operators read the same: with the views, whose names and columns are stable, and with the read-only
-- commands, which read the tables. They see no dedup keys, and no columns of claims other than those of the views.
GRANT USAGE ON SCHEMA pgbus TO pgbus_reader, pgbus_operator;
GRANT SELECT
    ON pgbus.outbox, pgbus.events, pgbus.history, pgbus.causes, pgbus.listeners, pgbus.removed_listeners,
       pgbus.subscriptions, pgbus.declarations, pgbus.dead_letters, pgbus.operations, pgbus.operation_steps,
       pgbus.operation_items, pgbus.workers, pgbus.schemas, pgbus.partitions, pgbus.installation, pgbus.alembic_version, pgbus.identity, pgbus.received
    TO pgbus_reader, pgbus_operator;
-- A preview of an operation changes nothing, and shows what its readers may read anyway.
GRANT EXECUTE
    ON FUNCTION pgbus.find_installation(), pgbus.find_paused_as_copy(), pgbus.preview_operation(text, jsonb, integer)
    TO pgbus_reader, pgbus_operator;
-- Not `caller`: who knows a caller's channel can notify it of results that nobody wrote.
GRANT SELECT (call_id, procedure, arguments, headers, caller_name, requested_at, deadline, taken_at, worker_id)
    ON pgbus.rpc_requests TO pgbus_reader, pgbus_operator;
GRANT SELECT (id, listener_id, lane, first, last, events, positions, available_at, attempt, blocked_key)
    ON pgbus.deliveries TO pgbus_reader, pgbus_operator;
GRANT SELECT
    ON pgbus.attempts, pgbus.event_history, pgbus.pending, pgbus.listener_lag, pgbus.dead, pgbus.scheduled, pgbus.rpc_calls,
       pgbus.schema_versions, pgbus.live_workers, pgbus.running, pgbus.timetable, pgbus.schedule_history,
       pgbus.audit_trail
    TO pgbus_reader, pgbus_operator;

-- Operators change things, by operations alone: they write no table themselves.
GRANT EXECUTE
    ON FUNCTION pgbus.begin_operation(text, jsonb, text, text), pgbus.resume_operation(bigint, text, text),
                pgbus.continue_operation(bigint, bigint), pgbus.cancel_operation(bigint, text, text)
    TO pgbus_operator;
GRANT EXECUTE ON PROCEDURE pgbus.operate(text, jsonb, text, text, bigint, bigint) TO pgbus_operator;

-- Admins may do everything except altering the tables, which only the owner may, and the record of operations.
GRANT ALL ON SCHEMA pgbus TO pgbus_admin;
GRANT ALL ON ALL TABLES IN SCHEMA pgbus TO pgbus_admin;
GRANT ALL ON ALL SEQUENCES IN SCHEMA pgbus TO pgbus_admin;
GRANT ALL ON ALL FUNCTIONS IN SCHEMA pgbus TO pgbus_admin;
GRANT EXECUTE ON PROCEDURE pgbus.operate(text, jsonb, text, text, bigint, bigint) TO pgbus_admin;
-- The people who change things do not change the record of it.
REVOKE INSERT, UPDATE, DELETE, TRUNCATE
    ON pgbus.operations, pgbus.operation_steps, pgbus.operation_items, pgbus.removed_listeners
    FROM pgbus_admin;
