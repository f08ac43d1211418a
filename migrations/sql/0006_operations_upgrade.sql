-- Operations: every change that a person makes. The flow:
--
--   preview_operation --> begin_operation (a row: who, when, why) --> continue_operation, batch after batch --> done
--
-- The functions run as the owner, and are the only way in for operators, who have no right to the tables: no change
-- without its row, and nobody alters a row. Each batch is one short transaction of its caller, which records what it has
-- touched. After a crash the operation is still `running`: to continue it is safe, as its row knows how far it is.

CREATE TABLE pgbus.operations (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    verb         text        NOT NULL,
    -- What it applies to; the keys are those of `pgbus.check_filter`.
    filter       jsonb       NOT NULL,
    reason       text,
    -- The person, where given; the database's user in any case.
    person       text,
    requested_by text        NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    state        text        NOT NULL DEFAULT 'running',
    matched      bigint      NOT NULL,
    touched      bigint      NOT NULL DEFAULT 0,
    -- It has come so far, and ends here: ids, or positions of the log. What comes later is not its own.
    progress     bigint      NOT NULL,
    last         bigint      NOT NULL,
    -- What was there before that no item names.
    result       jsonb       NOT NULL DEFAULT '{}',
    finished_at  timestamptz,
    CONSTRAINT operations_state_is_known CHECK (state IN ('running', 'done', 'cancelled')),
    CONSTRAINT operations_end_is_whole CHECK ((state = 'running') = (finished_at IS NULL)),
    CONSTRAINT operations_texts_are_short CHECK (length(reason) <= 1000 AND length(person) <= 255)
);
CREATE INDEX operations_running ON pgbus.operations (id) WHERE state = 'running';

-- What people did to an operation after it was begun: continued it after a crash, or cancelled it.
CREATE TABLE pgbus.operation_steps (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation_id bigint      NOT NULL REFERENCES pgbus.operations (id),
    step         text        NOT NULL,
    reason       text,
    person       text,
    requested_by text        NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT operation_steps_step_is_known CHECK (step IN ('continue', 'cancel')),
    CONSTRAINT operation_steps_texts_are_short CHECK (length(reason) <= 1000 AND length(person) <= 255)
);
CREATE INDEX operation_steps_operation ON pgbus.operation_steps (operation_id);

-- What operations have touched: an event at one listener; for a dead letter all that it told.
CREATE TABLE pgbus.operation_items (
    operation_id  bigint      NOT NULL REFERENCES pgbus.operations (id),
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The dead letter that it was.
    letter_id     bigint,
    listener_name text        NOT NULL,
    position      bigint      NOT NULL,
    event_id      uuid,
    topic         text,
    attempts      integer     NOT NULL,
    error         text,
    fingerprint   text,
    traceback     text,
    worker        text,
    dead_at       timestamptz
);
CREATE INDEX operation_items_operation ON pgbus.operation_items (operation_id);
CREATE INDEX operation_items_position ON pgbus.operation_items (position);

-- Who did what, when and why, and what came of it: a row when an operation is begun, and one for each later step.
CREATE VIEW pgbus.audit_trail AS
SELECT d.at, d.operation_id, d.action, d.requested_by, d.person, d.reason, o.verb, o.filter, o.matched, o.touched, o.state,
       o.result, o.finished_at
FROM (SELECT b.requested_at AS at, b.id AS operation_id, 'begin' AS action, b.requested_by, b.person, b.reason
      FROM pgbus.operations AS b
      UNION ALL
      SELECT s.requested_at, s.operation_id, s.step, s.requested_by, s.person, s.reason
      FROM pgbus.operation_steps AS s) AS d
JOIN pgbus.operations AS o ON o.id = d.operation_id;

-- Where the bus is: the server and the database in which its first worker ran. A copy of the database contains the row,
-- and is somewhere else.
CREATE TABLE pgbus.installation (
    is_one            boolean     PRIMARY KEY DEFAULT true,
    system_identifier bigint      NOT NULL,
    database          bigint      NOT NULL,
    since             timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT installation_is_one CHECK (is_one)
);

-- The regular expression of a pattern, for a topic with a dot at its end; NULL for what is not a pattern.
CREATE FUNCTION pgbus.pattern_regex(pattern text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN bool_and(w.word ~ '^([A-Za-z0-9_-]+|[*]{1,2})$')
                THEN '^' || string_agg(CASE w.word WHEN '**' THEN '([A-Za-z0-9_-]+\.)*' WHEN '*' THEN '[A-Za-z0-9_-]+\.'
                                       ELSE w.word || '\.' END, '' ORDER BY w.place) || '$' END
    FROM string_to_table(pattern, '.') WITH ORDINALITY AS w (word, place)
$$;

-- A topic and its ancestors, each with a dot at its end on a line of its own: one newline-sensitive match asks for all.
-- This and the two functions after it have no subquery, so that they become part of the statements that use them: a
-- call for each event would take longer than everything else.
CREATE FUNCTION pgbus.topic_lines(topic text, ancestors text[]) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT concat(topic, '.', E'\n' || array_to_string(ancestors, E'.\n') || '.')
$$;

-- Whether a listener with these patterns hears a topic: those without wildcards, and the regular expression of the others.
CREATE FUNCTION pgbus.is_heard(topics text[], regex text, topic text, ancestors text[]) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT topic = ANY (topics) OR ancestors && topics OR pgbus.topic_lines(topic, ancestors) ~ regex
$$;

-- Whether an event and its failure are what a filter asks for; a key that is missing does not restrict.
--   ids: [..] of dead letters   listener   topic: a pattern   key   error: a fingerprint, an exception's type, a kind or a part of an error
--   since, until: instants      where: JSON that the payload contains     condition: an SQL/JSON path that finds something
CREATE FUNCTION pgbus.filter_accepts(
    filter jsonb, listener_name text, topic text, ancestors text[], key text, payload jsonb, error text, fingerprint text,
    at timestamptz
) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT (filter ->> 'listener' IS NULL OR listener_name = filter ->> 'listener')
       AND (filter ->> 'topic' IS NULL
            OR pgbus.topic_lines(topic, ancestors) ~ ('(?n)' || pgbus.pattern_regex(filter ->> 'topic')))
       AND (filter ->> 'key' IS NULL OR COALESCE(key, '') = filter ->> 'key')
       AND (filter ->> 'error' IS NULL OR fingerprint = filter ->> 'error'
            OR split_part(fingerprint, ' at ', 1) = filter ->> 'error'
            OR pgbus.has_error(error, filter ->> 'error'))
       AND (filter ->> 'since' IS NULL OR at >= CAST(filter ->> 'since' AS timestamptz))
       AND (filter ->> 'until' IS NULL OR at < CAST(filter ->> 'until' AS timestamptz))
       AND (filter -> 'where' IS NULL OR payload @> (filter -> 'where'))
       AND (filter ->> 'condition' IS NULL
            OR jsonb_path_exists(payload, CAST(filter ->> 'condition' AS jsonpath), '{}', true))
$$;

-- What a verb applies to, from `low` (exclusive) to `high`: dead letters, or deliveries that wait for another attempt.
CREATE FUNCTION pgbus.find_failures(verb text, filter jsonb, low bigint, high bigint)
    RETURNS TABLE (id bigint, listener_id integer, listener_name text, "position" bigint, event_id uuid, topic text, key text,
                   attempts integer, error text, fingerprint text, at timestamptz)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF verb IN ('retry', 'discard') THEN
        RETURN QUERY
        SELECT x.id, x.listener_id, l.listener_name, x.position, e.event_id, e.topic, e.key, x.attempts, x.error,
               x.fingerprint, x.dead_at
        FROM pgbus.dead_letters AS x
        JOIN pgbus.listeners AS l ON l.id = x.listener_id
        LEFT JOIN pgbus.events AS e ON e.position = x.position
        WHERE x.id > low AND x.id <= high
          AND (filter -> 'ids' IS NULL
               OR x.id = ANY (ARRAY(SELECT CAST(i.id AS bigint) FROM jsonb_array_elements_text(filter -> 'ids') AS i (id))))
          AND pgbus.filter_accepts(filter, l.listener_name, e.topic, e.ancestors, e.key, e.payload, x.error, x.fingerprint,
                                   x.dead_at)
        ORDER BY x.id;
    ELSE
        RETURN QUERY
        SELECT d.id, d.listener_id, l.listener_name, d.first, e.event_id, e.topic, e.key, d.attempt - 1, d.last_error,
               CAST(NULL AS text), d.available_at
        FROM pgbus.deliveries AS d
        JOIN pgbus.listeners AS l ON l.id = d.listener_id
        LEFT JOIN pgbus.events AS e ON e.position = d.first
        WHERE d.id > low AND d.id <= high
          AND d.claim_token IS NULL AND d.attempt > 1 AND d.events = 1 AND d.blocked_key IS NULL
          AND pgbus.filter_accepts(filter, l.listener_name, e.topic, e.ancestors, e.key, e.payload, d.last_error, NULL,
                                   e.logged_at)
        ORDER BY d.id;
    END IF;
END
$$;

-- The place in the log that a filter names: beginning, now, a position, or an instant.
CREATE FUNCTION pgbus.place_in_log(place text) RETURNS bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    following CONSTANT bigint := COALESCE((SELECT e.position FROM pgbus.events AS e ORDER BY e.position DESC LIMIT 1), 0) + 1;
    found bigint;
BEGIN
    IF place = 'beginning' THEN
        RETURN 0;
    ELSIF place = 'now' THEN
        -- The next position and not "live": an event that the leader is sequencing at this moment, with the old cursor
        -- before its eyes, is then either delivered or backfilled.
        RETURN following;
    ELSIF place ~ '^[0-9]{1,18}$' THEN
        IF CAST(place AS bigint) > following THEN
            RAISE EXCEPTION '% is not a position of the log, which ends at %', place, following - 1
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        RETURN CAST(place AS bigint);
    END IF;
    SELECT e.position INTO found
    FROM pgbus.events AS e
    WHERE e.logged_at >= CAST(place AS timestamptz)
    ORDER BY e.position
    LIMIT 1;
    RETURN COALESCE(found, following);
END
$$;

-- Raises an error for a verb or filter that is not one, or whose listener or schedule is not registered.
CREATE FUNCTION pgbus.check_filter(verb text, filter jsonb) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    allowed text[];
    wrong text;
BEGIN
    allowed := CASE
        WHEN verb IN ('retry', 'discard')
            THEN '{ids,listener,topic,key,error,since,until,where,condition}'
        WHEN verb IN ('retry_now', 'give_up') THEN '{listener,topic,key,error,since,until,where,condition}'
        WHEN verb = 'replay' THEN '{listener,from,to,topic,key,since,until,where,condition}'
        WHEN verb = 'reset' THEN '{listener,to}'
        WHEN verb IN ('pause', 'resume') THEN '{listener}'
        WHEN verb = 'remove' THEN '{listener,force}'
        WHEN verb IN ('pause_schedule', 'resume_schedule', 'run_schedule') THEN '{schedule}'
        WHEN verb = 'remove_schedule' THEN '{schedule,force}'
        WHEN verb = 'republish' THEN '{event,payload}'
        WHEN verb = 'adopt' THEN '{}' END;
    IF allowed IS NULL THEN
        RAISE EXCEPTION '"%" is not a verb of operations', verb
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'retry, retry_now, give_up, discard, replay, reset, pause, resume, remove, and pause_schedule, '
                         'resume_schedule, run_schedule, remove_schedule, republish, and adopt';
    END IF;
    SELECT string_agg(k.name, ', ') INTO wrong FROM jsonb_object_keys(filter) AS k (name) WHERE k.name <> ALL (allowed);
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION '% does not take %', verb, wrong
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It takes ' || array_to_string(allowed, ', ') || '.';
    END IF;
    IF filter ->> 'topic' IS NOT NULL AND pgbus.pattern_regex(filter ->> 'topic') IS NULL THEN
        RAISE EXCEPTION '"%" is not a topic or pattern', filter ->> 'topic' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF verb IN ('replay', 'reset', 'pause', 'resume', 'remove') OR filter ->> 'listener' IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM pgbus.listeners AS l WHERE l.listener_name = filter ->> 'listener') THEN
            RAISE EXCEPTION 'there is no listener "%"', COALESCE(filter ->> 'listener', '')
                USING ERRCODE = 'undefined_object', HINT = 'See pgbus.listener_lag for those that there are.';
        END IF;
    END IF;
    IF verb = 'republish' THEN
        IF filter -> 'payload' IS NULL OR NOT EXISTS (
            SELECT FROM pgbus.events AS e WHERE e.event_id = CAST(filter ->> 'event' AS uuid)) THEN
            RAISE EXCEPTION 'there is no event "%" in the log, or no payload is given', COALESCE(filter ->> 'event', '')
                USING ERRCODE = 'undefined_object';
        END IF;
    END IF;
    IF verb LIKE '%\_schedule' AND NOT EXISTS (
        SELECT FROM pgbus.schedules AS s WHERE s.schedule_name = filter ->> 'schedule') THEN
        RAISE EXCEPTION 'there is no schedule "%"', COALESCE(filter ->> 'schedule', '')
            USING ERRCODE = 'undefined_object', HINT = 'See pgbus.timetable for those that there are.';
    END IF;
END
$$;

-- From where (exclusive) to where an operation would go.
CREATE FUNCTION pgbus.operation_range(verb text, filter jsonb, OUT low bigint, OUT high bigint)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    low := 0;
    IF verb IN ('retry', 'discard') THEN
        high := COALESCE((SELECT max(x.id) FROM pgbus.dead_letters AS x), 0);
    ELSIF verb IN ('retry_now', 'give_up') THEN
        high := COALESCE((SELECT max(d.id) FROM pgbus.deliveries AS d), 0);
    ELSIF verb = 'replay' THEN
        low := pgbus.place_in_log(COALESCE(filter ->> 'from', 'beginning')) - 1;
        high := pgbus.place_in_log(COALESCE(filter ->> 'to', 'now')) - 1;
    ELSIF verb = 'reset' THEN
        low := pgbus.place_in_log(COALESCE(filter ->> 'to', '')) - 1;
        high := low;
    ELSE
        high := 0;
    END IF;
END
$$;

-- The topics that a listener hears without a wildcard, and one regular expression for its other patterns.
CREATE FUNCTION pgbus.patterns_of(listener text, OUT topics text[], OUT regex text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(s.pattern) FILTER (WHERE s.regex IS NULL),
           '(?n)' || string_agg('(?:' || s.regex || ')', '|')
    FROM pgbus.subscriptions AS s
    JOIN pgbus.listeners AS l ON l.id = s.listener_id
    WHERE l.listener_name = listener
$$;

-- Events of a stretch of the log that a listener hears and a filter accepts. The statement is planned for its values, as
-- count_heard's: what the filter does not ask for is then no part of it.
CREATE FUNCTION pgbus.find_heard(filter jsonb, low bigint, high bigint, batch bigint)
    RETURNS TABLE ("position" bigint, event_id uuid, topic text, key text, at timestamptz)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    heard CONSTANT record := pgbus.patterns_of(filter ->> 'listener');
BEGIN
    RETURN QUERY EXECUTE $heard$
        SELECT e.position, e.event_id, CAST(e.topic AS text), CAST(e.key AS text), CAST(e.logged_at AS timestamptz)
        FROM pgbus.events AS e
        WHERE e.position > $1 AND e.position <= $2
          AND pgbus.is_heard($3, $4, e.topic, e.ancestors)
          AND pgbus.filter_accepts($5, NULL, e.topic, e.ancestors, e.key, e.payload, NULL, NULL, e.logged_at)
        ORDER BY e.position
        LIMIT $6
    $heard$ USING low, high, heard.topics, heard.regex, filter - 'listener', batch;
END
$$;

-- How many these are.
CREATE FUNCTION pgbus.count_heard(filter jsonb, low bigint, high bigint) RETURNS bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    heard CONSTANT record := pgbus.patterns_of(filter ->> 'listener');
    found bigint;
BEGIN
    EXECUTE $heard$
        SELECT count(*)
        FROM pgbus.events AS e
        WHERE e.position > $1 AND e.position <= $2
          AND pgbus.is_heard($3, $4, e.topic, e.ancestors)
          AND pgbus.filter_accepts($5, NULL, e.topic, e.ancestors, e.key, e.payload, NULL, NULL, e.logged_at)
    $heard$ INTO found USING low, high, heard.topics, heard.regex, filter - 'listener';
    RETURN found;
END
$$;

-- What an operation would do, without doing it: how many events, or listeners and schedules, and a few of them.
CREATE FUNCTION pgbus.preview_operation(verb text, filter jsonb DEFAULT '{}', samples integer DEFAULT 5,
                                        OUT matched bigint, OUT sample jsonb)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bounds record;
BEGIN
    PERFORM pgbus.check_filter(verb, filter);
    bounds := pgbus.operation_range(verb, filter);
    IF verb IN ('retry', 'discard', 'retry_now', 'give_up') THEN
        SELECT count(*), COALESCE(jsonb_agg(to_jsonb(f) - 'listener_id' ORDER BY f.id DESC) FILTER (WHERE f.place <= samples), '[]')
        INTO matched, sample
        FROM (SELECT x.*, row_number() OVER (ORDER BY x.id DESC) AS place
              FROM pgbus.find_failures(verb, filter, bounds.low, bounds.high) AS x) AS f;
    ELSIF verb = 'replay' THEN
        matched := pgbus.count_heard(filter, bounds.low, bounds.high);
        SELECT COALESCE(jsonb_agg(to_jsonb(f) ORDER BY f.position), '[]')
        INTO sample
        FROM pgbus.find_heard(filter, bounds.low, bounds.high, samples) AS f;
    ELSE
        matched := 1;
        sample := jsonb_build_array(filter);
    END IF;
END
$$;

-- Topics and patterns of a listener, for the record of what is done to it.
CREATE FUNCTION pgbus.subscribed(listener text) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT COALESCE(jsonb_agg(s.pattern ORDER BY s.pattern), '[]')
    FROM pgbus.subscriptions AS s
    JOIN pgbus.listeners AS l ON l.id = s.listener_id
    WHERE l.listener_name = listener
$$;

-- Record an operation, so that it can be continued; returns its id. Nothing is changed yet. Its end is fixed here: what
-- fails while it runs is not its own, or else it might never end.
CREATE FUNCTION pgbus.begin_operation(verb text, filter jsonb DEFAULT '{}', reason text DEFAULT NULL, person text DEFAULT NULL)
    RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bounds record;
    number bigint;
BEGIN
    bounds := pgbus.operation_range(verb, filter);
    INSERT INTO pgbus.operations AS o (verb, filter, reason, person, requested_by, matched, progress, last, result)
    VALUES (verb, filter, reason, person, session_user,
            (SELECT p.matched FROM pgbus.preview_operation(verb, filter, 0) AS p), bounds.low, bounds.high,
            -- A replay has no item for each event: these say which they were, also when the listener is gone.
            CASE WHEN verb = 'replay'
                 THEN jsonb_build_object('from', bounds.low + 1, 'to', bounds.high,
                                         'topics', pgbus.subscribed(filter ->> 'listener')) ELSE '{}' END)
    RETURNING o.id INTO number;
    RETURN number;
END
$$;

-- Keep all that a dead letter tells, and take it away. The caller has locked the letters, in the order of their ids, so
-- that two operations with letters in common do not deadlock, and one of them finds nothing left.
CREATE FUNCTION pgbus.archive_dead_letters(number bigint, ids bigint[]) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    WITH taken AS (
        DELETE FROM pgbus.dead_letters AS x WHERE x.id = ANY (ids) RETURNING x.*
    )
    INSERT INTO pgbus.operation_items
        (operation_id, letter_id, listener_name, position, event_id, topic, attempts, error, fingerprint, traceback, worker,
         dead_at)
    SELECT number, t.id, l.listener_name, t.position, e.event_id, e.topic, t.attempts, t.error, t.fingerprint, t.traceback, t.worker,
           t.dead_at
    FROM taken AS t
    JOIN pgbus.listeners AS l ON l.id = t.listener_id
    LEFT JOIN pgbus.events AS e ON e.position = t.position
$$;

-- Events whose key no dead letter blocks any longer: they come after it in the log. In a statement of its own, after the
-- letters are gone: a worker that blocks an event behind one of them locks that letter (`settle_deliveries`), so it has
-- either committed, and is seen here, or finds the letter gone, and does not block.
CREATE FUNCTION pgbus.unblock_deliveries(listener_ids integer[]) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE pgbus.deliveries AS d
    SET blocked_key = NULL, available_at = now()
    WHERE d.listener_id = ANY (listener_ids)
      AND d.blocked_key IS NOT NULL
      AND NOT EXISTS (SELECT FROM pgbus.dead_letters AS x
                      WHERE x.listener_id = d.listener_id AND x.blocked_key = d.blocked_key)
$$;

-- One batch of the four verbs for failures.
CREATE FUNCTION pgbus.operate_on_failures(o pgbus.operations, batch bigint, OUT touched bigint, OUT progress bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    failures bigint[];
    listeners integer[];
BEGIN
    SELECT array_agg(f.id), array_agg(DISTINCT f.listener_id), max(f.id)
    INTO failures, listeners, progress
    FROM (SELECT * FROM pgbus.find_failures(o.verb, o.filter, o.progress, o.last) LIMIT batch) AS f;
    IF failures IS NULL THEN
        touched := 0;
        progress := o.last;
        RETURN;
    END IF;
    IF o.verb IN ('retry', 'discard') THEN
        -- Locked by a statement of its own: only the next one sees events that a worker, which settles at the same time,
        -- has blocked behind them.
        SELECT array_agg(x.id) INTO failures
        FROM (SELECT x.id FROM pgbus.dead_letters AS x WHERE x.id = ANY (failures) ORDER BY x.id FOR UPDATE) AS x;
        IF o.verb = 'retry' THEN
            INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events, available_at)
            SELECT x.listener_id, x.lane, x.position, x.position, 1, now()
            FROM pgbus.dead_letters AS x
            WHERE x.id = ANY (failures)
            ORDER BY x.position;
        ELSE
            INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker, error)
            SELECT x.position, x.listener_id, x.attempts, 'discarded', now(), 0, 'operator', x.error
            FROM pgbus.dead_letters AS x
            WHERE x.id = ANY (failures);
        END IF;
        PERFORM pgbus.archive_dead_letters(o.id, failures);
        PERFORM pgbus.unblock_deliveries(listeners);
    ELSE
        -- What a worker has claimed meanwhile no longer waits.
        SELECT array_agg(d.id) INTO failures
        FROM (SELECT d.id FROM pgbus.deliveries AS d WHERE d.id = ANY (failures) AND d.claim_token IS NULL
              ORDER BY d.id FOR UPDATE SKIP LOCKED) AS d;
        INSERT INTO pgbus.operation_items (operation_id, listener_name, position, event_id, topic, attempts, error)
        SELECT o.id, l.listener_name, d.first, e.event_id, e.topic, d.attempt - 1, d.last_error
        FROM pgbus.deliveries AS d
        JOIN pgbus.listeners AS l ON l.id = d.listener_id
        LEFT JOIN pgbus.events AS e ON e.position = d.first
        WHERE d.id = ANY (failures);
        IF o.verb = 'retry_now' THEN
            UPDATE pgbus.deliveries AS d SET available_at = now() WHERE d.id = ANY (failures);
        ELSE
            WITH given_up AS (
                DELETE FROM pgbus.deliveries AS d WHERE d.id = ANY (failures) RETURNING d.*
            ), noted AS (
                INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker, error)
                SELECT g.first, g.listener_id, g.attempt - 1, 'dead', now(), 0, 'operator', g.last_error
                FROM given_up AS g
            )
            INSERT INTO pgbus.dead_letters (listener_id, position, lane, attempts, error, fingerprint, worker)
            SELECT g.listener_id, g.first, g.lane, g.attempt - 1, COALESCE(g.last_error, 'given up by an operator'),
                   split_part(g.last_error, ':', 1), 'operator'
            FROM given_up AS g;
        END IF;
    END IF;
    touched := COALESCE(cardinality(failures), 0);
END
$$;

-- One batch of a replay: each event is due at once, and a dead letter of it is no longer open.
CREATE FUNCTION pgbus.operate_replay(o pgbus.operations, batch bigint, OUT touched bigint, OUT progress bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listener record;
    positions bigint[];
BEGIN
    SELECT l.id, l.lanes INTO listener FROM pgbus.listeners AS l WHERE l.listener_name = o.filter ->> 'listener';
    SELECT array_agg(f.position), max(f.position)
    INTO positions, progress
    FROM pgbus.find_heard(o.filter, o.progress, o.last, batch) AS f;
    touched := COALESCE(cardinality(positions), 0);
    progress := CASE WHEN touched < batch THEN o.last ELSE progress END;
    PERFORM pgbus.archive_dead_letters(o.id, ARRAY(
        SELECT x.id FROM pgbus.dead_letters AS x
        WHERE x.listener_id = listener.id AND x.position = ANY (positions) ORDER BY x.id FOR UPDATE));
    INSERT INTO pgbus.deliveries (listener_id, lane, first, last, events, available_at)
    SELECT listener.id,
           CASE WHEN listener.lanes IS NOT NULL
                THEN (hashtext(COALESCE(e.key, CAST(e.event_id AS text))) & 2147483647) % listener.lanes END,
           e.position, e.position, 1, now()
    FROM pgbus.events AS e
    WHERE e.position = ANY (positions)
    ORDER BY e.position;
    PERFORM pgbus.unblock_deliveries(ARRAY[listener.id]);
END
$$;

-- The verbs for a listener as a whole: what waits for it, and its dead letters, leave a trace.
CREATE FUNCTION pgbus.operate_on_listener(o pgbus.operations) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    listener record;
    running text[];
    dropped record;
    topics CONSTANT jsonb := pgbus.subscribed(o.filter ->> 'listener');
BEGIN
    -- Against the leader and other operators.
    SELECT l.id, l.state INTO listener
    FROM pgbus.listeners AS l WHERE l.listener_name = o.filter ->> 'listener' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('missing', true);  -- another operation has removed it meanwhile
    END IF;
    IF o.verb IN ('pause', 'resume') THEN
        UPDATE pgbus.listeners AS l SET state = CASE o.verb WHEN 'pause' THEN 'paused' ELSE 'active' END
        WHERE l.id = listener.id;
        RETURN jsonb_build_object('was', listener.state);
    END IF;
    IF o.verb = 'remove' AND NOT COALESCE(CAST(o.filter ->> 'force' AS boolean), false) THEN
        running := ARRAY(SELECT w.name FROM pgbus.live_workers AS w WHERE o.filter ->> 'listener' = ANY (w.listeners));
        IF cardinality(running) > 0 THEN
            RAISE EXCEPTION 'listener "%" is run by %', o.filter ->> 'listener', array_to_string(running, ', ')
                USING ERRCODE = 'object_in_use',
                      HINT = 'Stop or change these workers first, because they would register it again.';
        END IF;
    END IF;
    -- A reset begins with reading the log, so that it waits for a partition that is being dropped.
    PERFORM FROM pgbus.events LIMIT 1;
    WITH gone AS (
        DELETE FROM pgbus.deliveries AS d
        WHERE d.listener_id = listener.id AND (o.verb = 'remove' OR d.claim_token IS NULL)
        RETURNING d.*
    ), noted AS (
        -- Failed before, and not tried again: else it would look as if it waited, forever.
        INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker, error)
        SELECT g.first, g.listener_id, g.attempt - 1, 'skipped', now(), 0, 'operator', g.last_error
        FROM gone AS g
        WHERE g.attempt > 1 AND g.events = 1 AND (o.verb = 'remove' OR g.first <= o.last)
    )
    SELECT COALESCE(sum(g.events), 0) AS events, min(g.first) AS first, max(g.last) AS last INTO dropped FROM gone AS g;
    -- A reset to the past has these events heard again; otherwise there would be two dead letters of one.
    PERFORM pgbus.archive_dead_letters(o.id, ARRAY(
        SELECT x.id FROM pgbus.dead_letters AS x
        WHERE x.listener_id = listener.id AND (o.verb = 'remove' OR x.position > o.last) ORDER BY x.id FOR UPDATE));
    IF o.verb = 'remove' THEN
        DELETE FROM pgbus.listeners AS l WHERE l.id = listener.id;
    ELSE
        UPDATE pgbus.listeners AS l SET cursor = o.last + 1 WHERE l.id = listener.id;
    END IF;
    RETURN jsonb_build_object('was', listener.state, 'topics', topics, 'deliveries_dropped', dropped.events,
                              'first_dropped', dropped.first, 'last_dropped', dropped.last, 'position', o.last + 1,
                              'dead_letters', (SELECT count(*) FROM pgbus.operation_items AS i WHERE i.operation_id = o.id));
END
$$;

CREATE FUNCTION pgbus.operate_on_schedule(o pgbus.operations) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    schedule record;
BEGIN
    SELECT s.schedule_name, s.rule, s.state, s.claim_token, s.claim_token IS NOT NULL AS running,
           -- Not by now(): while the bus sleeps nobody says that he declares it.
           COALESCE(s.last_seen_at > (SELECT max(w.last_seen_at) FROM pgbus.live_workers AS w) - INTERVAL '1 minute',
                    false) AS declared
    INTO schedule
    FROM pgbus.schedules AS s WHERE s.schedule_name = o.filter ->> 'schedule' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('missing', true);
    END IF;
    CASE o.verb
    WHEN 'pause_schedule' THEN
        UPDATE pgbus.schedules AS s SET state = 'paused' WHERE s.schedule_name = schedule.schedule_name;
    WHEN 'resume_schedule' THEN
        -- Its next run is calculated again, unless a run is in progress.
        UPDATE pgbus.schedules AS s
        SET state = 'active', next_run_at = CASE WHEN s.claim_token IS NOT NULL THEN s.next_run_at END
        WHERE s.schedule_name = schedule.schedule_name AND s.state = 'paused';
    WHEN 'run_schedule' THEN
        IF schedule.state = 'paused' THEN
            RAISE EXCEPTION 'schedule "%" is paused', schedule.schedule_name
                USING ERRCODE = 'object_in_use', HINT = 'Resume it first.';
        ELSIF schedule.running THEN
            RAISE EXCEPTION 'schedule "%" runs at this moment', schedule.schedule_name
                USING ERRCODE = 'object_in_use', HINT = 'Its runs never overlap.';
        END IF;
        UPDATE pgbus.schedules AS s SET next_run_at = LEAST(s.next_run_at, now())
        WHERE s.schedule_name = schedule.schedule_name;
    ELSE
        IF schedule.declared AND NOT COALESCE(CAST(o.filter ->> 'force' AS boolean), false) THEN
            RAISE EXCEPTION 'schedule "%" was declared by a live worker within the last minute, which would register it again',
                schedule.schedule_name
                USING ERRCODE = 'object_in_use',
                      HINT = 'Deploy the workers without it, and remove it a minute later.';
        END IF;
        DELETE FROM pgbus.schedules AS s WHERE s.schedule_name = schedule.schedule_name;
        UPDATE pgbus.schedule_runs AS r SET outcome = 'lost', finished_at = now() WHERE r.run_id = schedule.claim_token;
    END CASE;
    RETURN jsonb_build_object('was', schedule.state, 'rule', schedule.rule);
END
$$;

-- The server and the database that we are in; NULL where the owner of the schema may not read the server's identifier.
CREATE FUNCTION pgbus.find_installation(OUT system_identifier bigint, OUT database bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT s.system_identifier, CAST(d.oid AS bigint)
    INTO find_installation.system_identifier, find_installation.database
    FROM pg_control_system() AS s
    JOIN pg_database AS d ON d.datname = current_database();
EXCEPTION WHEN insufficient_privilege THEN
    NULL;
END
$$;

-- Listeners and schedules that are paused since this was found to be a copy, and that no one has adopted yet.
CREATE FUNCTION pgbus.find_paused_as_copy(OUT listeners text[], OUT schedules text[])
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH found AS (
        SELECT o.result
        FROM pgbus.operations AS o
        WHERE o.verb = 'pause_copy'
          AND o.id > COALESCE((SELECT max(a.id) FROM pgbus.operations AS a WHERE a.verb = 'adopt' AND a.state = 'done'), 0)
    )
    SELECT ARRAY(SELECT l.listener_name FROM pgbus.listeners AS l
                 WHERE l.state = 'paused'
                   AND EXISTS (SELECT FROM found AS f WHERE f.result -> 'listeners' @> to_jsonb(l.listener_name))
                 ORDER BY l.listener_name),
           ARRAY(SELECT s.schedule_name FROM pgbus.schedules AS s
                 WHERE s.state = 'paused'
                   AND EXISTS (SELECT FROM found AS f WHERE f.result -> 'schedules' @> to_jsonb(s.schedule_name))
                 ORDER BY s.schedule_name)
$$;

-- Each worker calls it before it claims anything. In a copy of the database the first one pauses all listeners and
-- schedules, and returns the id of the operation that says so: a copy for tests must not send what the original sends.
CREATE FUNCTION pgbus.pause_copy() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    here record;
    home record;
    listeners text[];
    schedules text[];
    number bigint;
BEGIN
    here := pgbus.find_installation();
    IF here.system_identifier IS NULL OR EXISTS (
        SELECT FROM pgbus.installation AS i
        WHERE i.system_identifier = here.system_identifier AND i.database = here.database) THEN
        RETURN NULL;
    END IF;
    INSERT INTO pgbus.installation (system_identifier, database) VALUES (here.system_identifier, here.database)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN NULL;  -- no worker ever ran
    END IF;
    -- Of workers that start together one pauses, and the others wait for it here.
    SELECT i.system_identifier, i.database INTO home FROM pgbus.installation AS i FOR UPDATE;
    IF home.system_identifier = here.system_identifier AND home.database = here.database THEN
        RETURN NULL;
    END IF;
    UPDATE pgbus.installation AS i
    SET system_identifier = here.system_identifier, database = here.database, since = now();
    WITH paused AS (
        UPDATE pgbus.listeners AS l SET state = 'paused' WHERE l.state = 'active' RETURNING l.listener_name
    )
    SELECT array_agg(p.listener_name ORDER BY p.listener_name) INTO listeners FROM paused AS p;
    WITH paused AS (
        UPDATE pgbus.schedules AS s SET state = 'paused' WHERE s.state = 'active' RETURNING s.schedule_name
    )
    SELECT array_agg(p.schedule_name ORDER BY p.schedule_name) INTO schedules FROM paused AS p;
    IF listeners IS NULL AND schedules IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO pgbus.operations AS o
        (verb, filter, reason, requested_by, state, matched, touched, progress, last, result, finished_at)
    VALUES ('pause_copy', '{}',
            format('this database is a copy: it was database %s of the server %s, and is database %s of the server %s',
                   home.database, home.system_identifier, here.database, here.system_identifier),
            session_user, 'done', COALESCE(cardinality(listeners), 0) + COALESCE(cardinality(schedules), 0),
            COALESCE(cardinality(listeners), 0) + COALESCE(cardinality(schedules), 0), 0, 0,
            jsonb_build_object('listeners', COALESCE(to_jsonb(listeners), '[]'),
                               'schedules', COALESCE(to_jsonb(schedules), '[]')),
            clock_timestamp())
    RETURNING o.id INTO number;
    RETURN number;
END
$$;

-- From now on this is where the bus is, and what was paused because it is a copy continues.
CREATE FUNCTION pgbus.operate_adopt() RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    here record;
    paused record;
BEGIN
    here := pgbus.find_installation();
    paused := pgbus.find_paused_as_copy();
    IF here.system_identifier IS NOT NULL THEN
        INSERT INTO pgbus.installation AS i (system_identifier, database) VALUES (here.system_identifier, here.database)
        ON CONFLICT (is_one) DO UPDATE
        SET system_identifier = here.system_identifier, database = here.database, since = now();
    END IF;
    UPDATE pgbus.listeners AS l SET state = 'active' WHERE l.listener_name = ANY (paused.listeners);
    -- As those that a person resumes: what was due meanwhile is not made up for.
    UPDATE pgbus.schedules AS s
    SET state = 'active', next_run_at = CASE WHEN s.claim_token IS NOT NULL THEN s.next_run_at END
    WHERE s.schedule_name = ANY (paused.schedules);
    RETURN jsonb_build_object('listeners', to_jsonb(paused.listeners), 'schedules', to_jsonb(paused.schedules));
END
$$;

-- Publish an event again with another payload, as a new event that names the old one as its cause.
CREATE FUNCTION pgbus.operate_republish(o pgbus.operations) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    published uuid;
BEGIN
    INSERT INTO pgbus.outbox AS x (topic, ancestors, key, payload, headers, published_by)
    SELECT e.topic, e.ancestors, e.key, o.filter -> 'payload',
           COALESCE(e.headers, '{}') || jsonb_build_object(
               'causation_id', CAST(e.event_id AS text),
               'correlation_id', COALESCE(e.headers ->> 'correlation_id', CAST(e.event_id AS text))),
           session_user
    FROM pgbus.events AS e
    WHERE e.event_id = CAST(o.filter ->> 'event' AS uuid)
    RETURNING x.event_id INTO published;
    RETURN jsonb_build_object('event_id', published);
END
$$;

-- Record that somebody continues or cancels an operation; false if it has ended. Who else does waits here.
CREATE FUNCTION pgbus.note_step(number bigint, step text, reason text, person text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state text;
BEGIN
    SELECT x.state INTO state FROM pgbus.operations AS x WHERE x.id = number FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no operation %', number USING ERRCODE = 'undefined_object';
    ELSIF state <> 'running' THEN
        RETURN false;
    END IF;
    INSERT INTO pgbus.operation_steps (operation_id, step, reason, person, requested_by)
    VALUES (number, step, reason, person, session_user);
    RETURN true;
END
$$;

-- Take up an operation that was broken off, before `continue_operation`; false if it has ended already.
CREATE FUNCTION pgbus.resume_operation(number bigint, reason text DEFAULT NULL, person text DEFAULT NULL) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT pgbus.note_step(number, 'continue', reason, person)
$$;

-- Carry out the next batch of an operation; returns its row as it then is. Call it until its state is not `running`.
CREATE FUNCTION pgbus.continue_operation(number bigint, batch bigint DEFAULT 500) RETURNS pgbus.operations
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o pgbus.operations;
    step record;
    outcome jsonb := '{}';
BEGIN
    -- Who else continues or cancels it waits here.
    SELECT * INTO o FROM pgbus.operations AS x WHERE x.id = number FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no operation %', number USING ERRCODE = 'undefined_object';
    ELSIF o.state <> 'running' THEN
        RETURN o;
    END IF;
    -- Another user than the one who began it has taken it up: also where nobody said so by `resume_operation`.
    IF session_user <> o.requested_by AND NOT EXISTS (
        SELECT FROM pgbus.operation_steps AS s WHERE s.operation_id = number AND s.requested_by = session_user) THEN
        PERFORM pgbus.note_step(number, 'continue', NULL, NULL);
    END IF;
    IF o.verb IN ('retry', 'discard', 'retry_now', 'give_up') THEN
        step := pgbus.operate_on_failures(o, batch);
    ELSIF o.verb = 'replay' THEN
        step := pgbus.operate_replay(o, batch);
    ELSE
        outcome := CASE WHEN o.verb = 'adopt' THEN pgbus.operate_adopt()
                        WHEN o.verb = 'republish' THEN pgbus.operate_republish(o)
                        WHEN o.verb LIKE '%\_schedule' THEN pgbus.operate_on_schedule(o)
                        ELSE pgbus.operate_on_listener(o) END;
        SELECT CASE WHEN outcome ? 'missing' THEN bigint '0' ELSE 1 END AS touched, o.last AS progress INTO step;
    END IF;
    UPDATE pgbus.operations AS x
    SET touched = x.touched + step.touched,
        progress = step.progress,
        result = x.result || outcome,
        filter = x.filter - 'payload',  -- from now on it is in the log, and nowhere else
        state = CASE WHEN step.progress >= x.last THEN 'done' ELSE 'running' END,
        finished_at = CASE WHEN step.progress >= x.last THEN clock_timestamp() END
    WHERE x.id = number
    RETURNING * INTO o;
    -- Workers read listeners and schedules again, and look for what is due.
    PERFORM pg_notify((SELECT n.nspname FROM pg_namespace AS n JOIN pg_class AS c ON c.relnamespace = n.oid
                       WHERE c.oid = CAST('pgbus.operations' AS regclass)) || '_work', 'reload');
    RETURN o;
END
$$;

-- Stop a running operation after its last batch; what it has done stays. False if it has ended already.
CREATE FUNCTION pgbus.cancel_operation(number bigint, reason text DEFAULT NULL, person text DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT pgbus.note_step(number, 'cancel', reason, person) THEN
        RETURN false;
    END IF;
    UPDATE pgbus.operations AS x SET state = 'cancelled', finished_at = clock_timestamp() WHERE x.id = number;
    RETURN true;
END
$$;

-- All at once, for psql: CALL pgbus.operate('retry', '{"listener": "mail"}', 'the server is back'). It commits each batch.
CREATE PROCEDURE pgbus.operate(verb text, filter jsonb DEFAULT '{}', reason text DEFAULT NULL, person text DEFAULT NULL,
                               INOUT operation_id bigint DEFAULT NULL, INOUT touched bigint DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    o pgbus.operations;
BEGIN
    operation_id := pgbus.begin_operation(verb, filter, reason, person);
    LOOP
        COMMIT;
        o := pgbus.continue_operation(operation_id);
        EXIT WHEN o.state <> 'running';
    END LOOP;
    touched := o.touched;
END
$$;

REVOKE EXECUTE
    ON FUNCTION pgbus.preview_operation(text, jsonb, integer), pgbus.begin_operation(text, jsonb, text, text),
                pgbus.resume_operation(bigint, text, text), pgbus.continue_operation(bigint, bigint),
                pgbus.cancel_operation(bigint, text, text), pgbus.note_step(bigint, text, text, text),
                pgbus.subscribed(text), pgbus.archive_dead_letters(bigint, bigint[]), pgbus.unblock_deliveries(integer[]),
                pgbus.operate_on_failures(pgbus.operations, bigint), pgbus.operate_replay(pgbus.operations, bigint),
                pgbus.operate_on_listener(pgbus.operations), pgbus.operate_on_schedule(pgbus.operations),
                pgbus.operate_republish(pgbus.operations), pgbus.operate_adopt(), pgbus.find_installation(), pgbus.find_paused_as_copy(), pgbus.pause_copy()
    FROM PUBLIC;
REVOKE EXECUTE ON PROCEDURE pgbus.operate(text, jsonb, text, text, bigint, bigint) FROM PUBLIC;

-- -------------------------------------------------------------------------------------------------------------- comments

COMMENT ON TABLE pgbus.operations IS 'Changes that people made: who, when, why and how far they are';
COMMENT ON COLUMN pgbus.operations.id IS 'Id, for pgbus operations show';
COMMENT ON COLUMN pgbus.operations.verb IS 'retry, discard, pause, remove and others: see the documentation';
COMMENT ON COLUMN pgbus.operations.filter IS 'What it applies to, a JSON object';
COMMENT ON COLUMN pgbus.operations.reason IS 'Why, as the person wrote it; NULL: not given';
COMMENT ON COLUMN pgbus.operations.person IS 'Who, as the client says; NULL: not given';
COMMENT ON COLUMN pgbus.operations.requested_by IS 'Database user';
COMMENT ON COLUMN pgbus.operations.requested_at IS 'When it was begun';
COMMENT ON COLUMN pgbus.operations.state IS 'running, done or cancelled';
COMMENT ON COLUMN pgbus.operations.matched IS 'Events, listeners or schedules that the preview found';
COMMENT ON COLUMN pgbus.operations.touched IS 'Events, listeners or schedules that it has changed';
COMMENT ON COLUMN pgbus.operations.progress IS 'Id or position up to which it is done';
COMMENT ON COLUMN pgbus.operations.last IS 'Id or position at which it ends';
COMMENT ON COLUMN pgbus.operations.result IS 'State before the change, and what was touched that no item has, a JSON object';
COMMENT ON COLUMN pgbus.operations.finished_at IS 'When it ended; NULL: it runs';
COMMENT ON TABLE pgbus.operation_steps IS 'What people did to an operation after it was begun: continued or cancelled it';
COMMENT ON COLUMN pgbus.operation_steps.id IS 'Id of the step';
COMMENT ON COLUMN pgbus.operation_steps.operation_id IS 'The operation, in operations';
COMMENT ON COLUMN pgbus.operation_steps.step IS 'continue or cancel';
COMMENT ON COLUMN pgbus.operation_steps.reason IS 'Why, as the person wrote it; NULL: not given';
COMMENT ON COLUMN pgbus.operation_steps.person IS 'Who, as the client says; NULL: not given';
COMMENT ON COLUMN pgbus.operation_steps.requested_by IS 'Database user';
COMMENT ON COLUMN pgbus.operation_steps.requested_at IS 'When it was continued or cancelled';
COMMENT ON VIEW pgbus.audit_trail IS 'Who did what, when and why, and what came of it: one row for each time that an operation was begun, continued or cancelled';
COMMENT ON COLUMN pgbus.audit_trail.at IS 'When it was done';
COMMENT ON COLUMN pgbus.audit_trail.operation_id IS 'Id of the operation, for pgbus operations show';
COMMENT ON COLUMN pgbus.audit_trail.action IS 'begin, continue (after it was broken off) or cancel';
COMMENT ON COLUMN pgbus.audit_trail.requested_by IS 'Database user that did it';
COMMENT ON COLUMN pgbus.audit_trail.person IS 'Who that was, as the client says; NULL: not given';
COMMENT ON COLUMN pgbus.audit_trail.reason IS 'Why, as the person wrote it; NULL: not given';
COMMENT ON COLUMN pgbus.audit_trail.verb IS 'What the operation does: retry, discard, pause, remove and others';
COMMENT ON COLUMN pgbus.audit_trail.filter IS 'What the operation applies to, a JSON object';
COMMENT ON COLUMN pgbus.audit_trail.matched IS 'Events, listeners or schedules that its preview found';
COMMENT ON COLUMN pgbus.audit_trail.touched IS 'Events, listeners or schedules that it has changed by now';
COMMENT ON COLUMN pgbus.audit_trail.state IS 'State of the operation now: running, done or cancelled';
COMMENT ON COLUMN pgbus.audit_trail.result IS 'State before the change, and what was touched that operation_items does not have, a JSON object';
COMMENT ON COLUMN pgbus.audit_trail.finished_at IS 'When the operation ended; NULL: it runs';
COMMENT ON TABLE pgbus.operation_items IS 'What operations have changed: an event at one listener';
COMMENT ON COLUMN pgbus.operation_items.operation_id IS 'The operation, in operations';
COMMENT ON COLUMN pgbus.operation_items.at IS 'When it was changed';
COMMENT ON COLUMN pgbus.operation_items.letter_id IS 'Id that the dead letter had; NULL: it was not a dead letter';
COMMENT ON COLUMN pgbus.operation_items.listener_name IS 'Name of the listener';
COMMENT ON COLUMN pgbus.operation_items.position IS 'Position of the event';
COMMENT ON COLUMN pgbus.operation_items.event_id IS 'Id of the event; NULL: unknown';
COMMENT ON COLUMN pgbus.operation_items.topic IS 'Topic of the event; NULL: unknown';
COMMENT ON COLUMN pgbus.operation_items.attempts IS 'Number of attempts until then';
COMMENT ON COLUMN pgbus.operation_items.error IS 'Error of the last attempt';
COMMENT ON COLUMN pgbus.operation_items.fingerprint IS 'Type of the exception and the function that raised it';
COMMENT ON COLUMN pgbus.operation_items.traceback IS 'Traceback of the last attempt';
COMMENT ON COLUMN pgbus.operation_items.worker IS 'Worker of the last attempt';
COMMENT ON COLUMN pgbus.operation_items.dead_at IS 'When the listener had given up';
COMMENT ON TABLE pgbus.installation IS 'One row: the server and database in which the bus was first used, so that a copy is noticed';
COMMENT ON COLUMN pgbus.installation.is_one IS 'Always true';
COMMENT ON COLUMN pgbus.installation.system_identifier IS 'Identifier of the PostgreSQL cluster';
COMMENT ON COLUMN pgbus.installation.database IS 'OID of the database';
COMMENT ON COLUMN pgbus.installation.since IS 'When the row was written';
COMMENT ON FUNCTION pgbus.pattern_regex(text) IS 'The regular expression of a pattern, for a topic with a dot at its end; NULL if it is not a pattern';
COMMENT ON FUNCTION pgbus.topic_lines(text, text[]) IS 'A topic and its ancestors, each with a dot at its end, by lines';
COMMENT ON FUNCTION pgbus.is_heard(text[], text, text, text[]) IS 'Whether one of these topics or this regular expression accepts a topic or an ancestor';
COMMENT ON FUNCTION pgbus.patterns_of(text) IS 'What a listener hears: topics without wildcards, and a regular expression for its other patterns';
COMMENT ON FUNCTION pgbus.count_heard(jsonb, bigint, bigint) IS 'How many events of a part of the log a listener hears and a filter accepts';
COMMENT ON FUNCTION pgbus.filter_accepts(jsonb, text, text, text[], text, jsonb, text, text, timestamptz) IS 'Whether a filter accepts an event and its failure';
COMMENT ON FUNCTION pgbus.find_failures(text, jsonb, bigint, bigint) IS 'Dead letters, or deliveries that wait for another attempt, that a verb applies to';
COMMENT ON FUNCTION pgbus.place_in_log(text) IS 'Position that a filter names: beginning, now, a position or an instant';
COMMENT ON FUNCTION pgbus.check_filter(text, jsonb) IS 'Raises an error for a verb or filter that is not valid';
COMMENT ON FUNCTION pgbus.operation_range(text, jsonb) IS 'From where (exclusive) to where an operation goes';
COMMENT ON FUNCTION pgbus.find_heard(jsonb, bigint, bigint, bigint) IS 'Events of a part of the log that a listener hears and a filter accepts';
COMMENT ON FUNCTION pgbus.preview_operation(text, jsonb, integer) IS 'What an operation would change, without changing it';
COMMENT ON FUNCTION pgbus.begin_operation(text, jsonb, text, text) IS 'Records an operation and returns its id; nothing is changed yet';
COMMENT ON FUNCTION pgbus.subscribed(text) IS 'Topics and patterns of a listener, a JSON array';
COMMENT ON FUNCTION pgbus.archive_dead_letters(bigint, bigint[]) IS 'Moves dead letters into the items of an operation';
COMMENT ON FUNCTION pgbus.unblock_deliveries(integer[]) IS 'Frees deliveries whose key no dead letter blocks any longer';
COMMENT ON FUNCTION pgbus.operate_on_failures(pgbus.operations, bigint) IS 'One batch of retry, discard, retry_now or give_up';
COMMENT ON FUNCTION pgbus.operate_replay(pgbus.operations, bigint) IS 'One batch of a replay';
COMMENT ON FUNCTION pgbus.operate_on_listener(pgbus.operations) IS 'Pauses, resumes, resets or removes a listener';
COMMENT ON FUNCTION pgbus.operate_on_schedule(pgbus.operations) IS 'Pauses, resumes, runs or removes a schedule';
COMMENT ON FUNCTION pgbus.find_installation() IS 'The server and database that this is; NULL where the owner may not read the identifier';
COMMENT ON FUNCTION pgbus.find_paused_as_copy() IS 'Listeners and schedules that are paused because this database is a copy';
COMMENT ON FUNCTION pgbus.pause_copy() IS 'In a copy of the database, pauses all listeners and schedules once; returns the operation or NULL';
COMMENT ON FUNCTION pgbus.operate_adopt() IS 'Makes this database the home of the bus, and resumes what was paused because it is a copy';
COMMENT ON FUNCTION pgbus.operate_republish(pgbus.operations) IS 'Publishes an event again with another payload, with the old one as its cause';
COMMENT ON FUNCTION pgbus.continue_operation(bigint, bigint) IS 'Carries out the next batch of an operation and returns its row; call it until its state is not running';
COMMENT ON FUNCTION pgbus.note_step(bigint, text, text, text) IS 'Records that somebody continues or cancels an operation; false if it has ended';
COMMENT ON FUNCTION pgbus.resume_operation(bigint, text, text) IS 'Records that somebody continues an operation, before continue_operation does; false if it has ended';
COMMENT ON FUNCTION pgbus.cancel_operation(bigint, text, text) IS 'Stops a running operation after its last batch; false if it has ended';
COMMENT ON PROCEDURE pgbus.operate(text, jsonb, text, text, bigint, bigint) IS 'Begins and carries out an operation, and commits each batch; for psql';
