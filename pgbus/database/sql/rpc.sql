-- Calls: the caller posts requests and reads responses, servers claim and answer; every batch is one short transaction.

-- name: register_procedures
-- Replace the procedures that a worker serves by these. The rows are that worker's alone, which runs one such statement
-- after the other, so that nobody else waits for them.
WITH gone AS (
    DELETE FROM pgbus.rpc_servers AS s
    WHERE s.worker_id = CAST(:worker_id AS integer) AND s.procedure <> ALL (CAST(:procedures AS text[]))
)
INSERT INTO pgbus.rpc_servers AS s (worker_id, procedure, concurrency, timeout)
SELECT CAST(:worker_id AS integer), w.procedure, w.concurrency, w.timeout
FROM unnest(
    CAST(:procedures AS text[]), CAST(:concurrencies AS integer[]), CAST(:timeouts AS double precision[])
) AS w (procedure, concurrency, timeout)
ON CONFLICT (procedure, worker_id) DO UPDATE SET concurrency = excluded.concurrency, timeout = excluded.timeout

-- name: find_strangers
-- Those of these procedures that a live worker of another service than ours serves, with one such worker. Two services
-- whose folders have the same name are different services.
SELECT DISTINCT ON (s.procedure) s.procedure, w.name AS worker, w.service, w.home
FROM pgbus.rpc_servers AS s
JOIN pgbus.live_workers AS v ON v.id = s.worker_id
JOIN pgbus.workers AS w ON w.id = v.id
WHERE s.procedure = ANY (CAST(:procedures AS text[]))
  AND w.id <> CAST(:worker_id AS integer)
  AND (w.service <> CAST(:service AS text) OR w.home <> CAST(:home AS text))
ORDER BY s.procedure, w.id

-- name: find_servers
-- Those of these procedures that were ever registered: whether a live worker serves them, and their declared timeout.
WITH live AS MATERIALIZED (
    SELECT w.id AS worker_id FROM pgbus.live_workers AS w
)
SELECT DISTINCT ON (s.procedure) s.procedure, l.worker_id IS NOT NULL AS is_served, s.timeout
FROM pgbus.rpc_servers AS s
LEFT JOIN live AS l ON l.worker_id = s.worker_id
WHERE s.procedure = ANY (CAST(:procedures AS text[]))
ORDER BY s.procedure, l.worker_id IS NOT NULL DESC, s.worker_id DESC

-- name: post_requests
-- Insert requests, and wake the servers. A request that is posted again after the connection broke is not duplicated.
-- If the first INSERT is still under way in the server, in the session that was lost, this waits for its end.
WITH posted AS (
    INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, headers, caller, caller_name, deadline)
    SELECT x.call_id, x.procedure, CAST(x.arguments AS json), CAST(x.headers AS jsonb), CAST(:caller AS text),
           CAST(:caller_name AS text), clock_timestamp() + x.timeout * INTERVAL '1 second'
    FROM unnest(
        CAST(:call_ids AS uuid[]), CAST(:procedures AS text[]), CAST(:arguments AS text[]),
        CAST(:timeouts AS double precision[]), CAST(:headers AS text[])
    ) AS x (call_id, procedure, arguments, timeout, headers)
    -- No column is named: naming one requires the right to read it.
    ON CONFLICT DO NOTHING
)
SELECT pg_notify(CAST(:channel AS text), CAST(:payload AS text))

-- name: claim_requests
-- Claim the oldest waiting requests of each procedure, up to the number of its free slots, unless their deadline has
-- passed. A request that another server claims, or its caller withdraws, at this moment is locked, and skipped: so each
-- is taken once, and servers do not wait for each other. `= ANY`: where vacuum has counted few rows, the planner would
-- choose a join that reads the whole table, including dead rows.
WITH due AS MATERIALIZED (
    SELECT oldest.call_id
    FROM unnest(CAST(:procedures AS text[]), CAST(:rooms AS integer[])) AS p (procedure, room)
    CROSS JOIN LATERAL (
        SELECT r.call_id
        FROM pgbus.rpc_requests AS r
        WHERE r.procedure = p.procedure AND r.taken_at IS NULL AND r.deadline > clock_timestamp()
        ORDER BY r.requested_at
        LIMIT p.room
        FOR UPDATE SKIP LOCKED
    ) AS oldest
)
UPDATE pgbus.rpc_requests AS r
SET taken_at = clock_timestamp(), worker_id = CAST(:worker_id AS integer)
WHERE r.call_id = ANY (ARRAY(SELECT d.call_id FROM due AS d))
RETURNING r.call_id, r.procedure, CAST(r.arguments AS text) AS arguments, CAST(r.headers AS text) AS headers, r.caller,
          -- Bounded before the subtraction: it may be infinity, if a constraint was disabled.
          CAST(extract(epoch FROM LEAST(r.deadline, clock_timestamp() + INTERVAL '2 days') - clock_timestamp())
               AS double precision) AS seconds_left

-- name: answer_requests
-- Write responses and tell the callers: the payload has results, unless one of the calls has another response already.
-- Then the hint says which calls to look at, for the first response counts. The primary key decides between the server,
-- a caller that saw the server's lock free, and the leader after the deadline: the later one waits for the earlier
-- one's commit, and inserts nothing.
WITH answered AS (
    INSERT INTO pgbus.rpc_responses
        (call_id, outcome, result, error_type, error, error_arguments, traceback, worker)
    SELECT x.call_id, x.outcome, CAST(x.result AS json), x.error_type, x.error, CAST(x.error_arguments AS json),
           x.traceback, CAST(:worker AS text)
    FROM unnest(
        CAST(:call_ids AS uuid[]), CAST(:outcomes AS text[]), CAST(:results AS text[]), CAST(:error_types AS text[]),
        CAST(:errors AS text[]), CAST(:error_arguments AS text[]), CAST(:tracebacks AS text[])
    ) AS x (call_id, outcome, result, error_type, error, error_arguments, traceback)
    ON CONFLICT (call_id) DO NOTHING
    RETURNING 1
)
SELECT pg_notify(n.channel, CASE WHEN (SELECT count(*) FROM answered) = cardinality(CAST(:call_ids AS uuid[]))
                                 THEN n.payload ELSE n.hint END)
FROM unnest(CAST(:channels AS text[]), CAST(:payloads AS text[]), CAST(:hints AS text[])) AS n (channel, payload, hint)
-- A name that is too long for a channel: the caller cannot listen to it.
WHERE octet_length(n.channel) < 64

-- name: answer_and_claim
-- Both at once, for a server that has more to do: what `answer_requests` does, and then what `claim_requests` does.
WITH answered AS (
    INSERT INTO pgbus.rpc_responses
        (call_id, outcome, result, error_type, error, error_arguments, traceback, worker)
    SELECT x.call_id, x.outcome, CAST(x.result AS json), x.error_type, x.error, CAST(x.error_arguments AS json),
           x.traceback, CAST(:worker AS text)
    FROM unnest(
        CAST(:call_ids AS uuid[]), CAST(:outcomes AS text[]), CAST(:results AS text[]), CAST(:error_types AS text[]),
        CAST(:errors AS text[]), CAST(:error_arguments AS text[]), CAST(:tracebacks AS text[])
    ) AS x (call_id, outcome, result, error_type, error, error_arguments, traceback)
    ON CONFLICT (call_id) DO NOTHING
    RETURNING 1
), due AS MATERIALIZED (
    SELECT oldest.call_id
    FROM unnest(CAST(:procedures AS text[]), CAST(:rooms AS integer[])) AS p (procedure, room)
    CROSS JOIN LATERAL (
        SELECT r.call_id
        FROM pgbus.rpc_requests AS r
        WHERE r.procedure = p.procedure AND r.taken_at IS NULL AND r.deadline > clock_timestamp()
        ORDER BY r.requested_at
        LIMIT p.room
        FOR UPDATE SKIP LOCKED
    ) AS oldest
), claimed AS (
    UPDATE pgbus.rpc_requests AS r
    SET taken_at = clock_timestamp(), worker_id = CAST(:worker_id AS integer)
    WHERE r.call_id = ANY (ARRAY(SELECT d.call_id FROM due AS d))
    RETURNING r.call_id, r.procedure, CAST(r.arguments AS text) AS arguments, CAST(r.headers AS text) AS headers, r.caller,
              CAST(extract(epoch FROM LEAST(r.deadline, clock_timestamp() + INTERVAL '2 days') - clock_timestamp())
                   AS double precision) AS seconds_left
), told AS MATERIALIZED (
    SELECT pg_notify(n.channel, CASE WHEN (SELECT count(*) FROM answered) = cardinality(CAST(:call_ids AS uuid[]))
                                     THEN n.payload ELSE n.hint END)
    FROM unnest(CAST(:channels AS text[]), CAST(:payloads AS text[]), CAST(:hints AS text[])) AS n (channel, payload, hint)
    WHERE octet_length(n.channel) < 64
)
SELECT c.call_id, c.procedure, c.arguments, c.headers, c.caller, c.seconds_left
FROM claimed AS c
-- PostgreSQL runs a SELECT only if someone reads it.
WHERE (SELECT count(*) FROM told) >= 0

-- name: fetch_responses
-- The existing responses to these calls.
SELECT a.call_id, a.outcome, CAST(a.result AS text) AS result, a.error_type, a.error,
       CAST(a.error_arguments AS text) AS error_arguments, a.traceback, a.worker
FROM pgbus.read_responses(CAST(:call_ids AS uuid[])) AS a

-- name: fail_lost_calls
-- Fail those of these calls that a dead worker had claimed. Who has answered before it died is not overruled.
SELECT pgbus.fail_lost_calls(CAST(:call_ids AS uuid[]))

-- name: fail_unknown_claims
-- Fail requests that the table says that a worker claimed, but the worker does not know: the result of its claim was
-- lost. They are not put back into the queue: a call runs at most once, and nobody can tell that this one did not.
-- `known` are the calls that it owes an answer, as they were when it sent this statement; it sends no claim meanwhile.
INSERT INTO pgbus.rpc_responses (call_id, outcome, error, worker)
SELECT r.call_id, 'lost', 'the worker lost the database when it took the call', CAST(:worker AS text)
FROM pgbus.rpc_requests AS r
WHERE r.deadline > clock_timestamp()
  AND r.worker_id = CAST(:worker_id AS integer)
  AND r.call_id <> ALL (CAST(:known AS uuid[]))
ON CONFLICT (call_id) DO NOTHING

-- name: withdraw_requests
-- Take requests off the queue that no server has claimed yet; returns their ids. For one that a server claims at this
-- moment it waits, and then leaves it alone: a call that runs is not withdrawn, but cancelled by a notification.
SELECT w.call_id
FROM pgbus.withdraw_calls(CAST(:call_ids AS uuid[]), CAST(:outcome AS text), CAST(:error AS text)) AS w (call_id)
