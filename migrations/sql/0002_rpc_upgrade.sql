-- Calls. The flow:
--
--   caller: INSERT rpc_requests --notify--> a server claims it --> the procedure --> INSERT rpc_responses --notify--> caller
--
-- A request is taken off the queue once, so a call runs at most once. The first response is the only one, from the
-- server, from a caller that found the server dead, from a caller that cancelled, or from the leader after the
-- deadline.

-- A procedure that a worker serves; valid while the worker holds its advisory lock.
CREATE TABLE pgbus.rpc_servers (
    worker_id   integer NOT NULL REFERENCES pgbus.workers (id) ON DELETE CASCADE,
    procedure   text    NOT NULL,
    concurrency integer NOT NULL,
    timeout     double precision,
    PRIMARY KEY (procedure, worker_id),
    CONSTRAINT rpc_servers_procedure_is_short CHECK (length(procedure) BETWEEN 1 AND 255),
    CONSTRAINT rpc_servers_numbers_are_positive CHECK (concurrency > 0 AND timeout > 0)
);
CREATE INDEX rpc_servers_worker ON pgbus.rpc_servers (worker_id);

-- What callers write is checked by domains and not by CHECKs of the table: PostgreSQL reads the text of a table's CHECKs
-- again for every statement that inserts or updates. What only workers write is left to them.
CREATE DOMAIN pgbus.procedure AS text
    CONSTRAINT procedure_is_short CHECK (length(VALUE) BETWEEN 1 AND 255);
-- The channel is <namespace>_reply_<caller>, of at most 63 bytes; a namespace has up to 40.
CREATE DOMAIN pgbus.caller AS text
    CONSTRAINT caller_ends_a_channel CHECK (VALUE ~ '^[A-Za-z0-9_-]{1,16}$');
CREATE DOMAIN pgbus.caller_name AS text
    CONSTRAINT caller_name_is_short CHECK (length(VALUE) <= 255);
CREATE DOMAIN pgbus.deadline AS timestamptz
    CONSTRAINT deadline_is_near CHECK (VALUE <= clock_timestamp() + INTERVAL '2 days')
    CONSTRAINT deadline_is_in_years_1_to_9999 CHECK (VALUE >= to_timestamp(-62135596800));

-- `call_id` should be a UUIDv7, so that old calls lie together. `caller` names the channel on which the caller hears of
-- answers, and small results travel: only callers and workers may know it.
-- waiting (taken_at is NULL) -> taken: by a worker (worker_id), or withdrawn when cancelled or expired (no worker_id).
CREATE TABLE pgbus.rpc_requests (
    call_id      uuid              PRIMARY KEY,
    procedure    pgbus.procedure   NOT NULL,
    arguments    json              NOT NULL,
    caller       pgbus.caller      NOT NULL,
    caller_name  pgbus.caller_name NOT NULL,
    requested_at pgbus.instant     NOT NULL DEFAULT clock_timestamp(),
    deadline     pgbus.deadline    NOT NULL,
    taken_at     pgbus.instant,
    worker_id    integer,
    -- Why it is made; NULL for a root.
    headers      pgbus.headers
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX rpc_requests_waiting ON pgbus.rpc_requests (procedure, requested_at) WHERE taken_at IS NULL;
CREATE INDEX rpc_requests_correlation ON pgbus.rpc_requests (pgbus.correlation_of(call_id, headers))
    WHERE headers IS NOT NULL;
CREATE INDEX rpc_requests_deadline ON pgbus.rpc_requests USING brin (deadline) WITH (pages_per_range = 32);

CREATE TABLE pgbus.rpc_responses (
    call_id         uuid        PRIMARY KEY,
    outcome         text        NOT NULL,
    result          json,
    error_type      text,
    error           text,
    error_arguments json,
    traceback       text,
    worker          text,
    responded_at    pgbus.instant NOT NULL DEFAULT clock_timestamp()
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0
);

-- The errors among the responses, for who asks for calls by their error.
CREATE INDEX rpc_responses_errors ON pgbus.rpc_responses (call_id) WHERE error IS NOT NULL;

-- The operations of callers, besides posting calls. The functions run as the owner, and only on calls whose ids are
-- given, so a caller has no access to the calls of others.

-- Returns the existing responses to these calls.
CREATE FUNCTION pgbus.read_responses(call_ids uuid[]) RETURNS SETOF pgbus.rpc_responses
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT a.* FROM pgbus.rpc_responses AS a WHERE a.call_id = ANY (call_ids);
END
$$;

-- Takes these calls off the queue, except those that a server has claimed; returns them. For a row that a server claims at
-- this moment, the UPDATE waits, and then sees `taken_at`: one of the two has the call, and never both.
CREATE FUNCTION pgbus.withdraw_calls(call_ids uuid[], ending text, reason text) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    WITH withdrawn AS (
        UPDATE pgbus.rpc_requests AS r
        SET taken_at = clock_timestamp()
        WHERE r.call_id = ANY (call_ids) AND r.taken_at IS NULL
        RETURNING r.call_id
    )
    INSERT INTO pgbus.rpc_responses AS a (call_id, outcome, error)
    SELECT w.call_id, ending, reason FROM withdrawn AS w
    ON CONFLICT DO NOTHING
    RETURNING a.call_id;
END
$$;

-- Fails those of these calls that a dead worker had claimed. If the worker responded before it died, its response
-- stays, even if this statement's snapshot does not show it yet.
CREATE FUNCTION pgbus.fail_lost_calls(call_ids uuid[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO pgbus.rpc_responses (call_id, outcome, error, worker)
    SELECT r.call_id, 'lost', 'the worker died before it answered', w.name
    FROM pgbus.rpc_requests AS r
    LEFT JOIN pgbus.workers AS w ON w.id = r.worker_id
    WHERE r.call_id = ANY (call_ids)
      AND r.worker_id IS NOT NULL
      AND r.worker_id <> ALL (ARRAY(SELECT l.id FROM pgbus.live_workers AS l))
    ON CONFLICT DO NOTHING;
END
$$;

REVOKE EXECUTE ON FUNCTION pgbus.read_responses(uuid[]), pgbus.withdraw_calls(uuid[], text, text),
                           pgbus.fail_lost_calls(uuid[])
    FROM PUBLIC;

-- JSON as jsonb, for conditions; NULL for JSON that jsonb cannot hold, such as a NUL character. Callers may write any
-- JSON.
CREATE FUNCTION pgbus.searchable(document json) RETURNS jsonb
    LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN CAST(document AS jsonb);
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

CREATE VIEW pgbus.rpc_calls AS
SELECT r.call_id, r.procedure, r.arguments, r.headers, r.caller_name AS caller, r.requested_at, r.deadline,
       CASE WHEN r.worker_id IS NOT NULL THEN r.taken_at END AS started_at,
       COALESCE(a.worker, w.name) AS worker,
       CASE WHEN a.call_id IS NOT NULL THEN a.outcome
            WHEN r.deadline > clock_timestamp() AND r.worker_id IS NOT NULL THEN 'running'
            WHEN r.deadline > clock_timestamp() THEN 'waiting'
            WHEN r.worker_id IS NOT NULL THEN 'lost'
            ELSE 'expired' END AS state,
       a.result, a.error_type, a.error, a.traceback, a.responded_at,
       CASE WHEN r.worker_id IS NOT NULL
            THEN CAST(extract(epoch FROM a.responded_at - r.taken_at) AS double precision) END AS duration
FROM pgbus.rpc_requests AS r
LEFT JOIN pgbus.rpc_responses AS a ON a.call_id = r.call_id
LEFT JOIN pgbus.workers AS w ON w.id = r.worker_id;

CREATE OR REPLACE FUNCTION pgbus.oldest_code() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT '0002' $$;

-- -------------------------------------------------------------------------------------------------------------- comments

COMMENT ON TABLE pgbus.rpc_servers IS 'Procedures that workers serve; a row counts while its worker is alive';
COMMENT ON COLUMN pgbus.rpc_servers.worker_id IS 'Worker, in workers';
COMMENT ON COLUMN pgbus.rpc_servers.procedure IS 'Full name of the procedure';
COMMENT ON COLUMN pgbus.rpc_servers.concurrency IS 'Calls that the worker runs at once';
COMMENT ON COLUMN pgbus.rpc_servers.timeout IS 'Seconds that a call without a timeout waits; NULL: the caller''s setting';
COMMENT ON TABLE pgbus.rpc_requests IS 'Calls; a worker takes each at most once. The view rpc_calls shows their state';
COMMENT ON COLUMN pgbus.rpc_requests.call_id IS 'Id of the call, a UUIDv7';
COMMENT ON COLUMN pgbus.rpc_requests.procedure IS 'Full name of the procedure';
COMMENT ON COLUMN pgbus.rpc_requests.arguments IS 'Arguments, a JSON object';
COMMENT ON COLUMN pgbus.rpc_requests.caller IS 'Ends the name of the channel on which the caller hears of its answer';
COMMENT ON COLUMN pgbus.rpc_requests.caller_name IS 'Process that calls, for people';
COMMENT ON COLUMN pgbus.rpc_requests.requested_at IS 'When it was called';
COMMENT ON COLUMN pgbus.rpc_requests.deadline IS 'When the caller stops waiting';
COMMENT ON COLUMN pgbus.rpc_requests.taken_at IS 'When a worker took it, or when it was withdrawn; NULL: waiting';
COMMENT ON COLUMN pgbus.rpc_requests.worker_id IS 'Worker that took it; NULL: none';
COMMENT ON COLUMN pgbus.rpc_requests.headers IS 'Correlation and trace headers, a JSON object of strings; NULL: none';
COMMENT ON TABLE pgbus.rpc_responses IS 'Responses of calls; the first one counts';
COMMENT ON COLUMN pgbus.rpc_responses.call_id IS 'The call, in rpc_requests';
COMMENT ON COLUMN pgbus.rpc_responses.outcome IS 'answered, failed, refused, invalid, cancelled, expired, unserved or lost';
COMMENT ON COLUMN pgbus.rpc_responses.result IS 'Result, as JSON; NULL: none';
COMMENT ON COLUMN pgbus.rpc_responses.error_type IS 'Type of the exception';
COMMENT ON COLUMN pgbus.rpc_responses.error IS 'Message of the exception';
COMMENT ON COLUMN pgbus.rpc_responses.error_arguments IS 'Arguments of the exception, as JSON';
COMMENT ON COLUMN pgbus.rpc_responses.traceback IS 'Traceback, where the caller may see it';
COMMENT ON COLUMN pgbus.rpc_responses.worker IS 'Name of the worker';
COMMENT ON COLUMN pgbus.rpc_responses.responded_at IS 'When it was written';
COMMENT ON VIEW pgbus.rpc_calls IS 'Every call that is not pruned yet, with its response; duration is in seconds, from claim to response';
COMMENT ON COLUMN pgbus.rpc_calls.call_id IS 'Id of the call, a UUIDv7';
COMMENT ON COLUMN pgbus.rpc_calls.procedure IS 'Full name of the procedure';
COMMENT ON COLUMN pgbus.rpc_calls.arguments IS 'Arguments, a JSON object';
COMMENT ON COLUMN pgbus.rpc_calls.headers IS 'Correlation and trace headers, a JSON object of strings; NULL: none';
COMMENT ON COLUMN pgbus.rpc_calls.caller IS 'Process that called';
COMMENT ON COLUMN pgbus.rpc_calls.requested_at IS 'When it was called';
COMMENT ON COLUMN pgbus.rpc_calls.deadline IS 'When the caller stops waiting';
COMMENT ON COLUMN pgbus.rpc_calls.started_at IS 'When a worker took it; NULL: none did';
COMMENT ON COLUMN pgbus.rpc_calls.worker IS 'Name of the worker; NULL: none';
COMMENT ON COLUMN pgbus.rpc_calls.state IS 'waiting, running, answered, failed, refused, invalid, cancelled, expired, unserved or lost';
COMMENT ON COLUMN pgbus.rpc_calls.result IS 'Result, as JSON; NULL: none';
COMMENT ON COLUMN pgbus.rpc_calls.error_type IS 'Type of the exception; NULL: none';
COMMENT ON COLUMN pgbus.rpc_calls.error IS 'Message of the exception, or reason; NULL: none';
COMMENT ON COLUMN pgbus.rpc_calls.traceback IS 'Traceback; NULL: none';
COMMENT ON COLUMN pgbus.rpc_calls.responded_at IS 'When the response was written; NULL: not yet';
COMMENT ON COLUMN pgbus.rpc_calls.duration IS 'Seconds from claim to response; NULL: not both';
COMMENT ON FUNCTION pgbus.read_responses(uuid[]) IS 'The responses that these calls have';
COMMENT ON FUNCTION pgbus.withdraw_calls(uuid[], text, text) IS 'Takes these calls off the queue, except those that a worker has claimed; returns them';
COMMENT ON FUNCTION pgbus.fail_lost_calls(uuid[]) IS 'Fails those of these calls that a dead worker had claimed';
COMMENT ON FUNCTION pgbus.searchable(json) IS 'JSON as jsonb; NULL for JSON that jsonb cannot hold';
