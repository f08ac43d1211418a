-- Schedules: periodic tasks; one worker executes each run. The flow:
--
--   a worker that declares the task --claim_schedules--> its function runs --finish_schedule_run--> the next run is due
--
-- One row is one schedule, and it has one claim, so its runs never overlap. While it is claimed, next_run_at is the
-- instant at which the current run was due; if the worker dies, it stays, and the next worker starts the same run
-- again.

-- `rule` is `every 60 s`, `every 1 to 3 s` or `0 3 * * * in Europe/Berlin`, from the code that registered last. If
-- `next_run_at` is NULL, the next worker that declares the schedule calculates it from the rule. `attempt` counts how
-- often the due run was started.
CREATE TABLE pgbus.schedules (
    id               integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schedule_name    text        NOT NULL UNIQUE,
    rule             text        NOT NULL,
    missed           text        NOT NULL DEFAULT 'once',
    state            text        NOT NULL DEFAULT 'active',
    service          text        NOT NULL DEFAULT '',
    next_run_at      timestamptz,
    attempt          integer     NOT NULL DEFAULT 0,
    claim_token      uuid,
    worker_id        integer,
    lease_expires_at timestamptz,
    registered_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT schedules_name_is_short CHECK (length(schedule_name) BETWEEN 1 AND 255),
    CONSTRAINT schedules_missed_is_known CHECK (missed IN ('once', 'skip', 'all')),
    CONSTRAINT schedules_state_is_known CHECK (state IN ('active', 'paused')),
    CONSTRAINT schedules_attempt_counts CHECK (attempt >= 0),
    CONSTRAINT schedules_claim_is_whole CHECK (
        (claim_token IS NULL) = (worker_id IS NULL) AND (claim_token IS NULL) = (lease_expires_at IS NULL)),
    CONSTRAINT schedules_claim_is_of_a_run CHECK (claim_token IS NULL OR next_run_at IS NOT NULL)
);
-- The leader asks at every look whether a run is claimed; mostly none is.
CREATE INDEX schedules_claimed ON pgbus.schedules (claim_token) WHERE claim_token IS NOT NULL;

-- Every run, by its claim token. If an interrupted run is started again, it gets another row, with the next `attempt`.
CREATE TABLE pgbus.schedule_runs (
    run_id        uuid        PRIMARY KEY,
    schedule_name text        NOT NULL,
    due_at        timestamptz NOT NULL,
    attempt       integer     NOT NULL,
    worker        text        NOT NULL,
    started_at    timestamptz NOT NULL,
    finished_at   timestamptz,
    outcome       text,
    error         text,
    CONSTRAINT schedule_runs_outcome_is_known CHECK (outcome IN ('done', 'failed', 'skipped', 'lost', 'cancelled')),
    CONSTRAINT schedule_runs_end_is_whole CHECK ((outcome IS NULL) = (finished_at IS NULL)),
    CONSTRAINT schedule_runs_failure_says_why CHECK (outcome <> 'failed' OR error IS NOT NULL)
);
CREATE INDEX schedule_runs_newest ON pgbus.schedule_runs (schedule_name, started_at);
CREATE INDEX schedule_runs_age ON pgbus.schedule_runs (started_at);

CREATE VIEW pgbus.schedule_history AS
SELECT r.run_id, r.schedule_name, r.due_at, r.attempt, r.worker, r.started_at, r.finished_at,
       CAST(extract(epoch FROM r.finished_at - r.started_at) AS double precision) AS duration,
       COALESCE(r.outcome, 'running') AS outcome, r.error
FROM pgbus.schedule_runs AS r;

-- While a run is claimed, `next_run_at` of the table is when that was due; here it is only what is to come.
CREATE VIEW pgbus.timetable AS
SELECT s.schedule_name, s.rule, s.missed, s.state, s.service,
       CASE WHEN s.claim_token IS NULL THEN s.next_run_at END AS next_run_at,
       s.claim_token IS NOT NULL AS running,
       CASE WHEN s.claim_token IS NOT NULL THEN newest.worker END AS running_on,
       newest.started_at AS last_started_at, newest.outcome AS last_outcome, newest.duration AS last_duration,
       newest.error AS last_error,
       s.registered_at, s.last_seen_at
FROM pgbus.schedules AS s
LEFT JOIN LATERAL (
    SELECT h.worker, h.started_at, h.outcome, h.duration, h.error
    FROM pgbus.schedule_history AS h
    WHERE h.schedule_name = s.schedule_name
    ORDER BY h.started_at DESC
    LIMIT 1
) AS newest ON true;

CREATE OR REPLACE FUNCTION pgbus.oldest_code() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT '0004' $$;

-- -------------------------------------------------------------------------------------------------------------- comments

COMMENT ON TABLE pgbus.schedules IS 'Schedules. One row is one schedule with one claim, so its runs never overlap';
COMMENT ON COLUMN pgbus.schedules.id IS 'Id of the schedule';
COMMENT ON COLUMN pgbus.schedules.schedule_name IS 'Name of the schedule, its identity';
COMMENT ON COLUMN pgbus.schedules.rule IS 'Rule, such as: every 60 s, every 1 to 3 s, 0 3 * * * in Europe/Berlin';
COMMENT ON COLUMN pgbus.schedules.missed IS 'What becomes of missed runs: once (one run for all), skip or all';
COMMENT ON COLUMN pgbus.schedules.state IS 'active or paused';
COMMENT ON COLUMN pgbus.schedules.service IS 'Service that declared it last';
COMMENT ON COLUMN pgbus.schedules.next_run_at IS 'When the next run is due, or the current one was; NULL: a worker has yet to calculate it';
COMMENT ON COLUMN pgbus.schedules.attempt IS 'How often the due run was started';
COMMENT ON COLUMN pgbus.schedules.claim_token IS 'Id of the current run; NULL: none';
COMMENT ON COLUMN pgbus.schedules.worker_id IS 'Worker of the current run';
COMMENT ON COLUMN pgbus.schedules.lease_expires_at IS 'When the claim ends, unless it is extended';
COMMENT ON COLUMN pgbus.schedules.registered_at IS 'When it was first registered';
COMMENT ON COLUMN pgbus.schedules.last_seen_at IS 'When a worker that declares it reported last';
COMMENT ON TABLE pgbus.schedule_runs IS 'Runs of schedules that are not pruned yet';
COMMENT ON COLUMN pgbus.schedule_runs.run_id IS 'Id of the run';
COMMENT ON COLUMN pgbus.schedule_runs.schedule_name IS 'Name of the schedule';
COMMENT ON COLUMN pgbus.schedule_runs.due_at IS 'When the run was due';
COMMENT ON COLUMN pgbus.schedule_runs.attempt IS 'How often the due run had been started, from 1';
COMMENT ON COLUMN pgbus.schedule_runs.worker IS 'Name of the worker';
COMMENT ON COLUMN pgbus.schedule_runs.started_at IS 'When it began';
COMMENT ON COLUMN pgbus.schedule_runs.finished_at IS 'When it ended; NULL: it runs';
COMMENT ON COLUMN pgbus.schedule_runs.outcome IS 'done, failed, skipped, lost or cancelled; NULL: it runs';
COMMENT ON COLUMN pgbus.schedule_runs.error IS 'Error of a run that failed';
COMMENT ON VIEW pgbus.schedule_history IS 'Every run of every schedule that is not pruned yet; duration is in seconds';
COMMENT ON COLUMN pgbus.schedule_history.run_id IS 'Id of the run';
COMMENT ON COLUMN pgbus.schedule_history.schedule_name IS 'Name of the schedule';
COMMENT ON COLUMN pgbus.schedule_history.due_at IS 'When the run was due';
COMMENT ON COLUMN pgbus.schedule_history.attempt IS 'How often the due run had been started, from 1';
COMMENT ON COLUMN pgbus.schedule_history.worker IS 'Name of the worker';
COMMENT ON COLUMN pgbus.schedule_history.started_at IS 'When it began';
COMMENT ON COLUMN pgbus.schedule_history.finished_at IS 'When it ended; NULL: it runs';
COMMENT ON COLUMN pgbus.schedule_history.duration IS 'Seconds; NULL: it runs';
COMMENT ON COLUMN pgbus.schedule_history.outcome IS 'running, done, failed, skipped, lost or cancelled';
COMMENT ON COLUMN pgbus.schedule_history.error IS 'Error of a run that failed, else NULL';
COMMENT ON VIEW pgbus.timetable IS 'Every schedule: when it is due next, and the outcome of its newest run';
COMMENT ON COLUMN pgbus.timetable.schedule_name IS 'Name of the schedule';
COMMENT ON COLUMN pgbus.timetable.rule IS 'Rule, such as: every 60 s, every 1 to 3 s, 0 3 * * * in Europe/Berlin';
COMMENT ON COLUMN pgbus.timetable.missed IS 'What becomes of missed runs: once (one run for all), skip or all';
COMMENT ON COLUMN pgbus.timetable.state IS 'active or paused';
COMMENT ON COLUMN pgbus.timetable.service IS 'Service that declared it last';
COMMENT ON COLUMN pgbus.timetable.next_run_at IS 'When the next run is due; NULL: it runs now, or a worker has yet to calculate it';
COMMENT ON COLUMN pgbus.timetable.running IS 'Whether a worker runs it now';
COMMENT ON COLUMN pgbus.timetable.running_on IS 'Name of that worker; NULL: none';
COMMENT ON COLUMN pgbus.timetable.last_started_at IS 'When the newest run began; NULL: it never ran';
COMMENT ON COLUMN pgbus.timetable.last_outcome IS 'running, done, failed, skipped, lost or cancelled';
COMMENT ON COLUMN pgbus.timetable.last_duration IS 'Seconds that the newest run took; NULL: it runs, or it never ran';
COMMENT ON COLUMN pgbus.timetable.last_error IS 'Error of the newest run; NULL: none';
COMMENT ON COLUMN pgbus.timetable.registered_at IS 'When it was first registered';
COMMENT ON COLUMN pgbus.timetable.last_seen_at IS 'When a worker that declares it reported last';
