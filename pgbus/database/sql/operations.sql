-- Operations: every change that a person makes, by functions that record it.

-- name: preview_operation
-- What an operation would apply to: how many, and a few of them as JSON.
SELECT p.matched, CAST(p.sample AS text) AS sample
FROM pgbus.preview_operation(CAST(:verb AS text), CAST(CAST(:filter AS text) AS jsonb), CAST(:samples AS integer)) AS p

-- name: begin_operation
-- Record an operation; nothing is changed yet.
SELECT pgbus.begin_operation(
           CAST(:verb AS text), CAST(CAST(:filter AS text) AS jsonb), CAST(:reason AS text), CAST(:person AS text)) AS id

-- name: continue_operation
-- Carry out the next batch of an operation.
SELECT o.id, o.verb, CAST(o.filter AS text) AS filter, o.reason, o.person, o.requested_by, o.requested_at, o.state, o.matched,
       o.touched, CAST(o.result AS text) AS result, o.finished_at,
       CAST(ARRAY(SELECT jsonb_build_object('step', s.step, 'reason', s.reason, 'person', s.person,
                                            'requested_by', s.requested_by, 'requested_at', s.requested_at)
                  FROM pgbus.operation_steps AS s WHERE s.operation_id = o.id ORDER BY s.id) AS text[]) AS steps
FROM pgbus.continue_operation(CAST(:operation_id AS bigint), CAST(:batch AS bigint)) AS o

-- name: resume_operation
-- Record that somebody continues an operation; false if it has ended.
SELECT pgbus.resume_operation(CAST(:operation_id AS bigint), CAST(:reason AS text), CAST(:person AS text)) AS resumed

-- name: cancel_operation
-- Stop a running operation; false if it has ended.
SELECT pgbus.cancel_operation(CAST(:operation_id AS bigint), CAST(:reason AS text), CAST(:person AS text)) AS cancelled

-- name: list_operations
-- The newest operations that a filter accepts; NULL does not restrict. `who` is the person or the database's user.
SELECT o.id, o.verb, CAST(o.filter AS text) AS filter, o.reason, o.person, o.requested_by, o.requested_at, o.state, o.matched,
       o.touched, CAST(o.result AS text) AS result, o.finished_at,
       CAST(ARRAY(SELECT jsonb_build_object('step', s.step, 'reason', s.reason, 'person', s.person,
                                            'requested_by', s.requested_by, 'requested_at', s.requested_at)
                  FROM pgbus.operation_steps AS s WHERE s.operation_id = o.id ORDER BY s.id) AS text[]) AS steps
FROM pgbus.operations AS o
WHERE (CAST(:operation_id AS bigint) IS NULL OR o.id = :operation_id)
  AND (CAST(:before AS bigint) IS NULL OR o.id < :before)
  AND (CAST(:verb AS text) IS NULL OR o.verb = :verb)
  AND (CAST(:who AS text) IS NULL OR :who IN (o.person, o.requested_by))
  AND (CAST(:subject AS text) IS NULL OR :subject IN (o.filter ->> 'listener', o.filter ->> 'schedule'))
  AND (CAST(:state AS text) IS NULL OR o.state = :state)
  AND (CAST(:since AS timestamptz) IS NULL OR o.requested_at >= :since)
  AND (CAST(:until AS timestamptz) IS NULL OR o.requested_at < :until)
ORDER BY o.id DESC
LIMIT CAST(:limit AS bigint)

-- name: list_operation_items
-- What an operation has touched, in the order of the log.
SELECT i.letter_id, i.listener_name, i.position, i.event_id, i.topic, i.attempts, i.error, i.fingerprint, i.traceback, i.worker,
       i.dead_at
FROM pgbus.operation_items AS i
WHERE i.operation_id = CAST(:operation_id AS bigint)
ORDER BY i.position, i.at
LIMIT CAST(:limit AS bigint)
