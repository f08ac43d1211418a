-- What each group role may do, for members that do not own the namespace. Not a revision: `pgbus.migrate.grant_roles`
-- runs it, again after every upgrade. Every `pgbus`, alone or at the head of a role's name, stands for the namespace.

-- Publishers insert, and may have the new event's id returned; they read no payload, not even their own.
GRANT USAGE ON SCHEMA pgbus TO pgbus_publisher;
GRANT INSERT, SELECT (event_id) ON pgbus.outbox TO pgbus_publisher;
GRANT SELECT, INSERT, UPDATE ON pgbus.dedup_keys TO pgbus_publisher;
GRANT SELECT ON pgbus.wake_slots, pgbus.alembic_version TO pgbus_publisher;
-- They say what their events look like, and learn what others said.
GRANT SELECT, INSERT, UPDATE ON pgbus.schemas TO pgbus_publisher;
GRANT EXECUTE ON FUNCTION pgbus.uuid7() TO pgbus_publisher;

-- Callers call procedures: they post calls, hear of answers and read them, take calls back, and note that a worker died.
-- No arguments can be read by them, and no result written.
GRANT USAGE ON SCHEMA pgbus TO pgbus_caller;
GRANT INSERT (call_id, procedure, arguments, caller, caller_name, deadline), SELECT (call_id, taken_at, worker_id),
      UPDATE (taken_at)
    ON pgbus.rpc_requests TO pgbus_caller;
GRANT SELECT, INSERT (call_id, outcome, error, worker) ON pgbus.rpc_responses TO pgbus_caller;
GRANT SELECT ON pgbus.rpc_servers, pgbus.live_workers, pgbus.schemas, pgbus.alembic_version TO pgbus_caller;
GRANT SELECT (id, name) ON pgbus.workers TO pgbus_caller;

-- Workers run everything, and call procedures, but what is in the log and in history cannot be changed by them, only grow.
GRANT USAGE ON SCHEMA pgbus TO pgbus_worker;
GRANT SELECT, INSERT ON pgbus.events, pgbus.history TO pgbus_worker;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON pgbus.outbox, pgbus.dedup_keys, pgbus.listeners, pgbus.subscriptions, pgbus.deliveries, pgbus.dead_letters,
       pgbus.workers, pgbus.rpc_servers, pgbus.rpc_requests, pgbus.rpc_responses, pgbus.schemas, pgbus.worker_schemas,
       pgbus.schedules, pgbus.schedule_runs
    TO pgbus_worker;
GRANT SELECT
    ON pgbus.partitions, pgbus.alembic_version,
       pgbus.event_history, pgbus.pending, pgbus.listener_lag, pgbus.dead, pgbus.scheduled, pgbus.rpc_calls,
       pgbus.schema_versions, pgbus.live_workers, pgbus.timetable, pgbus.schedule_history
    TO pgbus_worker;
GRANT SELECT, USAGE ON SEQUENCE pgbus.wake_slots TO pgbus_worker;
GRANT EXECUTE ON FUNCTION pgbus.uuid7(), pgbus.open_partition(integer), pgbus.drop_partition(integer) TO pgbus_worker;

-- Readers audit: the views, whose names and columns are stable.
GRANT USAGE ON SCHEMA pgbus TO pgbus_reader;
GRANT SELECT
    ON pgbus.event_history, pgbus.pending, pgbus.listener_lag, pgbus.dead, pgbus.scheduled, pgbus.rpc_calls,
       pgbus.schema_versions, pgbus.live_workers, pgbus.timetable, pgbus.schedule_history
    TO pgbus_reader;

-- Admins may do everything but what only an owner may: to change the tables themselves.
GRANT ALL ON SCHEMA pgbus TO pgbus_admin;
GRANT ALL ON ALL TABLES IN SCHEMA pgbus TO pgbus_admin;
GRANT ALL ON ALL SEQUENCES IN SCHEMA pgbus TO pgbus_admin;
GRANT ALL ON ALL FUNCTIONS IN SCHEMA pgbus TO pgbus_admin;
