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
