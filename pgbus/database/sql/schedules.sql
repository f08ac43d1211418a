-- Schedules: workers that declare a task register it, claim its run when it is due, and write its outcome.

-- name: register_schedule
-- Insert a schedule, or update its row; returns whether it is new, and its previous rule. Under another rule its next
-- run is calculated again, unless a run is already due or running. Two workers that register a new one at once both
-- find no row to lock; the second then waits in its INSERT for the first, and updates the row of that one.
WITH known AS MATERIALIZED (
    -- Locked, so that a row that is being deleted at the same time is not found.
    SELECT s.id, s.rule FROM pgbus.schedules AS s WHERE s.schedule_name = CAST(:schedule_name AS text) FOR NO KEY UPDATE
), changed AS (
    UPDATE pgbus.schedules AS s
    SET rule = CAST(:rule AS text),
        missed = CAST(:missed AS text),
        service = CAST(:service AS text),
        last_seen_at = now(),
        next_run_at = CASE WHEN s.rule = CAST(:rule AS text) OR s.next_run_at <= now() OR s.claim_token IS NOT NULL
                           THEN s.next_run_at END
    FROM known AS k
    WHERE s.id = k.id
    RETURNING s.id
), begun AS (
    -- Only for a new schedule: INSERT ... ON CONFLICT consumes an id even if it inserts nothing.
    INSERT INTO pgbus.schedules AS s (schedule_name, rule, missed, service, next_run_at)
    SELECT CAST(:schedule_name AS text), CAST(:rule AS text), CAST(:missed AS text), CAST(:service AS text),
           CASE WHEN CAST(:run_immediately AS boolean) THEN now() END
    WHERE NOT EXISTS (SELECT 1 FROM known)
    ON CONFLICT (schedule_name) DO UPDATE SET
        rule = excluded.rule,
        missed = excluded.missed,
        service = excluded.service,
        last_seen_at = now(),
        next_run_at = CASE WHEN s.rule = excluded.rule OR s.next_run_at <= now() OR s.claim_token IS NOT NULL
                           THEN s.next_run_at END
    RETURNING s.id
)
SELECT k.id IS NULL AS is_new, k.rule AS old_rule
FROM (SELECT c.id FROM changed AS c UNION ALL SELECT b.id FROM begun AS b) AS r
LEFT JOIN known AS k ON k.id = r.id

-- name: find_namesake
-- A live worker of a service whose name comes from another folder than ours: both have schedules of the same names.
SELECT w.name AS worker, w.home
FROM pgbus.live_workers AS v
JOIN pgbus.workers AS w ON w.id = v.id
WHERE w.service = CAST(:service AS text) AND w.home <> CAST(:home AS text)
ORDER BY w.id
LIMIT 1

-- name: set_next_run
-- Set the next run of a schedule that has none. No effect if its rule has changed, or if another worker was quicker:
-- each of them calculates it by its own reading of the row, and a second one, of a random rule, would move the run.
UPDATE pgbus.schedules AS s
SET next_run_at = CAST(:next_run_at AS timestamptz)
WHERE s.schedule_name = CAST(:schedule_name AS text)
  AND s.rule = CAST(:rule AS text)
  AND s.next_run_at IS NULL
  AND s.claim_token IS NULL

-- name: claim_schedules
-- Claim those of these schedules that are due, each with its token, and return when each was due. A run that is claimed
-- is the leader's to free; but if it is our own and we do not know it, because the result of the claim was lost, it is
-- started again: we claim one after the other, so it cannot be running. `running` are the tokens of the runs that we
-- know.
--
-- A schedule that another worker claims at this moment, or an operator changes, is locked and skipped. One whose claim
-- has committed since this snapshot is compared again when it is locked, and is then no longer free.
WITH due AS MATERIALIZED (
    SELECT s.id, s.claim_token
    FROM pgbus.schedules AS s
    WHERE s.schedule_name = ANY (CAST(:schedule_names AS text[]))
      AND s.next_run_at <= now()
      AND s.state = 'active'
      AND (s.claim_token IS NULL
           OR (s.worker_id = CAST(:worker_id AS integer) AND s.claim_token <> ALL (CAST(:running AS uuid[]))))
    FOR UPDATE SKIP LOCKED
), lost AS (
    UPDATE pgbus.schedule_runs AS r
    SET outcome = 'lost', finished_at = now()
    WHERE r.run_id = ANY (ARRAY(SELECT d.claim_token FROM due AS d WHERE d.claim_token IS NOT NULL))
      AND r.outcome IS NULL
), claimed AS (
    UPDATE pgbus.schedules AS s
    SET claim_token = (CAST(:tokens AS uuid[]))[array_position(CAST(:schedule_names AS text[]), s.schedule_name)],
        worker_id = CAST(:worker_id AS integer),
        lease_expires_at = now() + CAST(:lease AS double precision) * INTERVAL '1 second',
        attempt = s.attempt + 1
    WHERE s.id = ANY (ARRAY(SELECT d.id FROM due AS d))
    RETURNING s.id, s.schedule_name, s.next_run_at, s.attempt, s.claim_token
), begun AS (
    INSERT INTO pgbus.schedule_runs (run_id, schedule_name, due_at, attempt, worker, started_at)
    SELECT c.claim_token, c.schedule_name, c.next_run_at, c.attempt, CAST(:worker AS text), now()
    FROM claimed AS c
)
SELECT s.schedule_name, s.rule, s.missed, s.state, s.next_run_at, now() AS now, c.claim_token, c.attempt,
       s.claim_token IS NOT NULL AS was_claimed
FROM pgbus.schedules AS s
LEFT JOIN claimed AS c ON c.id = s.id
WHERE s.schedule_name = ANY (CAST(:schedule_names AS text[]))

-- name: free_schedules
-- Free the claims of runs whose lease has expired, and of those whose workers have been without a session since the
-- last look, which found them `absent`, as `free_claims` does. The runs are due again, for any worker that declares the
-- schedule. Returns who is absent now. A row that its worker extends or finishes at this moment is skipped, and one
-- that it has extended since this snapshot is compared again when it is locked.
WITH live AS MATERIALIZED (
    SELECT w.id AS worker_id FROM pgbus.live_workers AS w
), absent AS MATERIALIZED (
    SELECT DISTINCT s.worker_id
    FROM pgbus.schedules AS s
    WHERE s.claim_token IS NOT NULL AND NOT EXISTS (SELECT 1 FROM live AS l WHERE l.worker_id = s.worker_id)
), lost AS MATERIALIZED (
    SELECT s.id, s.claim_token
    FROM pgbus.schedules AS s
    WHERE s.claim_token IS NOT NULL
      AND (s.lease_expires_at < now()
           OR (s.worker_id = ANY (CAST(:absent AS integer[]))
               AND s.worker_id IN (SELECT a.worker_id FROM absent AS a)))
    FOR UPDATE SKIP LOCKED
), noted AS (
    UPDATE pgbus.schedule_runs AS r
    SET outcome = 'lost', finished_at = now()
    WHERE r.run_id = ANY (ARRAY(SELECT l.claim_token FROM lost AS l)) AND r.outcome IS NULL
), freed AS (
    UPDATE pgbus.schedules AS s
    SET claim_token = NULL, worker_id = NULL, lease_expires_at = NULL
    FROM lost AS l
    WHERE s.id = l.id
    RETURNING s.schedule_name
)
SELECT (SELECT array_agg(f.schedule_name ORDER BY f.schedule_name) FROM freed AS f) AS schedule_names,
       (SELECT array_agg(a.worker_id) FROM absent AS a) AS absent,
       CASE WHEN EXISTS (SELECT FROM freed) THEN pg_notify(CAST(:work_channel AS text), 'reload') END AS told

-- name: finish_schedule_run
-- Write the outcome of a run, and when the next one is due, if the claim is still ours: the token decides, whatever the
-- worker believes, so that a run that was taken over is not ended by the worker that lost it. If the rule has changed,
-- the next run is calculated again. An interrupted run (`cancelled`) stays due. Sent again after its answer was lost,
-- it finds no token, and does nothing.
WITH finished AS (
    UPDATE pgbus.schedules AS s
    SET claim_token = NULL,
        worker_id = NULL,
        lease_expires_at = NULL,
        attempt = CASE WHEN CAST(:outcome AS text) = 'cancelled' THEN s.attempt ELSE 0 END,
        next_run_at = CASE WHEN CAST(:outcome AS text) = 'cancelled' THEN s.next_run_at
                           WHEN s.rule = CAST(:rule AS text) THEN CAST(:next_run_at AS timestamptz) END
    WHERE s.schedule_name = CAST(:schedule_name AS text) AND s.claim_token = CAST(:token AS uuid)
    RETURNING s.id
), noted AS (
    UPDATE pgbus.schedule_runs AS r
    SET outcome = CAST(:outcome AS text), error = CAST(:error AS text), finished_at = now(),
        due_at = CAST(:due_at AS timestamptz)
    WHERE r.run_id = CAST(:token AS uuid) AND EXISTS (SELECT 1 FROM finished)
)
SELECT f.id FROM finished AS f

-- name: extend_schedule_leases
-- Extend the leases of runs; returns the tokens of those that are still ours.
UPDATE pgbus.schedules AS s
SET lease_expires_at = now() + CAST(:lease AS double precision) * INTERVAL '1 second'
WHERE s.claim_token = ANY (CAST(:running AS uuid[]))
  AND s.schedule_name = ANY (CAST(:schedule_names AS text[]))
RETURNING s.claim_token

-- name: touch_schedules
-- Record that a live worker declares these schedules; of several workers that do so at the same time, one writes;
-- locked rows are skipped.
UPDATE pgbus.schedules AS s
SET last_seen_at = now()
WHERE s.id = ANY (ARRAY(
    SELECT x.id
    FROM pgbus.schedules AS x
    WHERE x.schedule_name = ANY (CAST(:schedule_names AS text[])) AND x.last_seen_at < now() - INTERVAL '15 seconds'
    FOR UPDATE SKIP LOCKED
))
