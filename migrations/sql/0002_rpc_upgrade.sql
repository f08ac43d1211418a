-- Calls. What flows where:
--
--   caller: INSERT rpc_requests --notify--> a server takes it --> the procedure --> INSERT rpc_responses --notify--> caller
--
-- A request is taken off the queue once in its life, so a call runs at most once. It ends with one response, whoever
-- writes that first: the server, a caller that found the server dead, the canceller, the leader when the deadline passed.

-- A procedure that a worker serves. It is alive when its worker is, whose lock says so.
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
COMMENT ON COLUMN pgbus.rpc_servers.timeout IS 'Seconds a caller waits who names no timeout; NULL: as the caller''s settings say';

-- `call_id` is a UUIDv7, so old calls lie together. `caller` names the channel on which the caller hears of answers.
-- waiting (taken_at is NULL) -> taken: by a worker (worker_id), or withdrawn when cancelled or expired (no worker_id).
CREATE TABLE pgbus.rpc_requests (
    call_id      uuid        PRIMARY KEY,
    procedure    text        NOT NULL,
    arguments    json        NOT NULL,
    caller       text        NOT NULL,
    caller_name  text        NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deadline     timestamptz NOT NULL,
    taken_at     timestamptz,
    worker_id    integer,
    CONSTRAINT rpc_requests_procedure_is_short CHECK (length(procedure) BETWEEN 1 AND 255),
    CONSTRAINT rpc_requests_worker_took_it CHECK (worker_id IS NULL OR taken_at IS NOT NULL)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX rpc_requests_waiting ON pgbus.rpc_requests (procedure, requested_at) WHERE taken_at IS NULL;
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
    responded_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT rpc_responses_outcome_is_known CHECK (
        outcome IN ('answered', 'failed', 'refused', 'invalid', 'expired', 'cancelled', 'lost', 'unserved')),
    CONSTRAINT rpc_responses_answer_is_whole CHECK (
        (outcome = 'answered') = (result IS NOT NULL) AND (outcome = 'answered') = (error IS NULL)),
    CONSTRAINT rpc_responses_error_is_whole CHECK (
        (outcome = 'failed') = (error_type IS NOT NULL) AND (outcome = 'failed' OR error_arguments IS NULL))
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE VIEW pgbus.rpc_calls AS
SELECT r.call_id, r.procedure, r.arguments, r.caller_name AS caller, r.requested_at, r.deadline,
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
COMMENT ON VIEW pgbus.rpc_calls IS 'Every call that is not pruned yet, with its answer; duration is seconds in the server''s hands';
