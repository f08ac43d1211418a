-- Operators' queries and changes of schedules.

-- name: list_schedules
-- Every schedule, when it is due, and its newest run.
SELECT t.schedule_name, t.rule, t.missed, t.state, t.service, t.next_run_at, t.running, t.running_on,
       t.last_started_at, t.last_outcome, t.last_duration, t.last_error, t.registered_at, t.last_seen_at
FROM pgbus.timetable AS t
ORDER BY t.schedule_name

-- name: list_schedule_runs
-- The newest runs of a schedule that match every filter that is not NULL.
SELECT h.run_id, h.schedule_name, h.due_at, h.attempt, h.worker, h.started_at, h.finished_at, h.duration, h.outcome,
       h.error
FROM pgbus.schedule_history AS h
WHERE h.schedule_name = CAST(:schedule_name AS text)
  AND (CAST(:error AS text) IS NULL OR pgbus.has_error(h.error, :error))
  AND (CAST(:since AS timestamptz) IS NULL OR h.started_at >= :since)
  AND (CAST(:until AS timestamptz) IS NULL OR h.started_at < :until)
ORDER BY h.started_at DESC
LIMIT CAST(:limit AS bigint)

-- name: lock_schedule
-- Lock a schedule's row until the transaction ends; returns whether it runs, and whether a live worker may declare it.
SELECT s.state, s.claim_token IS NOT NULL AS running,
       s.last_seen_at > now() - INTERVAL '1 minute' AND EXISTS (SELECT 1 FROM pgbus.live_workers AS w) AS declared
FROM pgbus.schedules AS s
WHERE s.schedule_name = CAST(:schedule_name AS text)
FOR UPDATE OF s

-- name: set_schedule_state
-- Pause a schedule, or resume it: then its next run is calculated again, unless a run is in progress.
UPDATE pgbus.schedules AS s
SET state = CAST(:state AS text),
    next_run_at = CASE WHEN CAST(:state AS text) = 'paused' OR s.claim_token IS NOT NULL THEN s.next_run_at END
WHERE s.schedule_name = CAST(:schedule_name AS text)

-- name: make_schedule_due
-- Make a schedule due now, if it is not overdue already.
UPDATE pgbus.schedules AS s
SET next_run_at = LEAST(s.next_run_at, now())
WHERE s.schedule_name = CAST(:schedule_name AS text)

-- name: delete_schedule
-- Delete a schedule; a run in progress can no longer write its outcome.
WITH gone AS (
    DELETE FROM pgbus.schedules AS s
    WHERE s.schedule_name = CAST(:schedule_name AS text)
    RETURNING s.claim_token
)
UPDATE pgbus.schedule_runs AS r
SET outcome = 'lost', finished_at = now()
FROM gone AS g
WHERE r.run_id = g.claim_token
