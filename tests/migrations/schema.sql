CREATE SCHEMA pgbus;

CREATE DOMAIN pgbus.ancestors AS text[]
	CONSTRAINT ancestors_are_a_list CHECK (((array_ndims(VALUE) = 1) AND (array_position(VALUE, NULL::text) IS NULL)));

CREATE DOMAIN pgbus.caller AS text
	CONSTRAINT caller_ends_a_channel CHECK ((VALUE ~ '^[A-Za-z0-9_-]{1,16}$'::text));

CREATE DOMAIN pgbus.caller_name AS text
	CONSTRAINT caller_name_is_short CHECK ((length(VALUE) <= 255));

CREATE DOMAIN pgbus.deadline AS timestamp with time zone
	CONSTRAINT deadline_is_in_years_1_to_9999 CHECK ((VALUE >= to_timestamp(('-62135596800'::bigint)::double precision)))
	CONSTRAINT deadline_is_near CHECK ((VALUE <= (clock_timestamp() + '2 days'::interval)));

CREATE DOMAIN pgbus.headers AS jsonb
	CONSTRAINT headers_are_strings CHECK (jsonb_path_match(VALUE, 'strict ($.type() == "object" && !(exists ($.*?(@.type() != "string"))))'::jsonpath));

CREATE DOMAIN pgbus.instant AS timestamp with time zone
	CONSTRAINT instant_is_in_years_1_to_9999 CHECK (((VALUE >= to_timestamp(('-62135596800'::bigint)::double precision)) AND (VALUE < to_timestamp(('253402300800'::bigint)::double precision))));

CREATE DOMAIN pgbus.key AS text
	CONSTRAINT key_is_short CHECK (((VALUE <> ''::text) AND (length(VALUE) <= 255)));

CREATE DOMAIN pgbus.procedure AS text
	CONSTRAINT procedure_is_short CHECK (((length(VALUE) >= 1) AND (length(VALUE) <= 255)));

CREATE DOMAIN pgbus.topic AS text
	CONSTRAINT topic_is_dotted_words CHECK (((VALUE ~ '^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$'::text) AND (length(VALUE) <= 255)));

CREATE FUNCTION pgbus.archive_dead_letters(number bigint, ids bigint[]) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.archive_dead_letters(number bigint, ids bigint[]) IS 'Moves dead letters into the items of an operation';

CREATE FUNCTION pgbus.begin_operation(verb text, filter jsonb DEFAULT '{}'::jsonb, reason text DEFAULT NULL::text, person text DEFAULT NULL::text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.begin_operation(verb text, filter jsonb, reason text, person text) IS 'Records an operation and returns its id; nothing is changed yet';

CREATE FUNCTION pgbus.cancel_operation(number bigint, reason text DEFAULT NULL::text, person text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    IF NOT pgbus.note_step(number, 'cancel', reason, person) THEN
        RETURN false;
    END IF;
    UPDATE pgbus.operations AS x SET state = 'cancelled', finished_at = clock_timestamp() WHERE x.id = number;
    RETURN true;
END
$$;

COMMENT ON FUNCTION pgbus.cancel_operation(number bigint, reason text, person text) IS 'Stops a running operation after its last batch; false if it has ended';

CREATE FUNCTION pgbus.check_filter(verb text, filter jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.check_filter(verb text, filter jsonb) IS 'Raises an error for a verb or filter that is not valid';

CREATE TABLE pgbus.operations (
    id bigint NOT NULL,
    verb text NOT NULL,
    filter jsonb NOT NULL,
    reason text,
    person text,
    requested_by text NOT NULL,
    requested_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    state text DEFAULT 'running'::text NOT NULL,
    matched bigint NOT NULL,
    touched bigint DEFAULT 0 NOT NULL,
    progress bigint NOT NULL,
    last bigint NOT NULL,
    result jsonb DEFAULT '{}'::jsonb NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT operations_end_is_whole CHECK (((state = 'running'::text) = (finished_at IS NULL))),
    CONSTRAINT operations_state_is_known CHECK ((state = ANY (ARRAY['running'::text, 'done'::text, 'cancelled'::text]))),
    CONSTRAINT operations_texts_are_short CHECK (((length(reason) <= 1000) AND (length(person) <= 255)))
);

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

CREATE FUNCTION pgbus.continue_operation(number bigint, batch bigint DEFAULT 500) RETURNS pgbus.operations
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.continue_operation(number bigint, batch bigint) IS 'Carries out the next batch of an operation and returns its row; call it until its state is not running';

CREATE FUNCTION pgbus.correlation_of(id uuid, headers jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT COALESCE(NULLIF(left(headers ->> 'correlation_id', 255), ''), CAST(id AS text))
$$;

COMMENT ON FUNCTION pgbus.correlation_of(id uuid, headers jsonb) IS 'The tree of an event, call or run, by its id and headers';

CREATE FUNCTION pgbus.correlation_tree(correlation_id text) RETURNS TABLE(depth integer, kind text, id uuid, causation_id uuid, name text, actor text, at timestamp with time zone, state text, "position" bigint)
    LANGUAGE sql STABLE ROWS 20
    AS $$
    WITH RECURSIVE found AS (
        SELECT c.kind, c.id, c.causation_id, COALESCE(e.topic, c.name) AS name, COALESCE(e.published_by, c.actor) AS actor,
               COALESCE(e.published_at, c.at) AS at, c.state, e.position
        FROM pgbus.causes AS c
        LEFT JOIN pgbus.events AS e ON e.position = c.position AND c.kind = 'event'
        WHERE c.correlation_id = correlation_tree.correlation_id
        UNION ALL
        -- The root, which has no row there: its own id is the tree's.
        SELECT 'event', e.event_id, NULL, e.topic, e.published_by, e.published_at, NULL, e.position
        FROM pgbus.events AS e
        WHERE e.event_id = pgbus.uuid_or_null(correlation_tree.correlation_id)
          AND (e.headers ?| '{correlation_id,causation_id}') IS NOT TRUE
        UNION ALL
        SELECT 'call', r.call_id, NULL, r.procedure, r.caller, r.requested_at, r.state, NULL
        FROM pgbus.rpc_calls AS r
        WHERE r.call_id = pgbus.uuid_or_null(correlation_tree.correlation_id) AND r.headers IS NULL
        UNION ALL
        SELECT 'run', s.run_id, NULL, s.schedule_name, s.worker, s.started_at, s.outcome, NULL
        FROM pgbus.schedule_history AS s
        WHERE s.run_id = pgbus.uuid_or_null(correlation_tree.correlation_id)
        UNION ALL
        SELECT 'call', r.call_id, pgbus.uuid_or_null(r.headers ->> 'causation_id'), r.procedure, r.caller, r.requested_at,
               r.state, NULL
        FROM pgbus.rpc_calls AS r
        WHERE pgbus.correlation_of(r.call_id, r.headers) = correlation_tree.correlation_id AND r.headers IS NOT NULL
    ), nodes AS MATERIALIZED (
        SELECT row_number() OVER (ORDER BY f.at, f.position, f.id) AS number, f.* FROM found AS f
    ), tree AS (
        SELECT ARRAY[n.number] AS path, n.number, n.id
        FROM nodes AS n
        WHERE NOT EXISTS (SELECT FROM nodes AS p WHERE p.id = n.causation_id AND p.number <> n.number)
        UNION ALL
        SELECT t.path || n.number, n.number, n.id
        FROM tree AS t
        JOIN nodes AS n ON n.causation_id = t.id
        -- Anyone may write headers: a circle must end.
        WHERE n.number <> ALL (t.path)
    )
    SELECT cardinality(t.path) - 1, n.kind, n.id, n.causation_id, n.name, n.actor, n.at, n.state, n.position
    FROM tree AS t
    JOIN nodes AS n ON n.number = t.number
    ORDER BY t.path
$$;

COMMENT ON FUNCTION pgbus.correlation_tree(correlation_id text) IS 'Events, calls and runs with this correlation_id, each below its cause';

CREATE FUNCTION pgbus.count_heard(filter jsonb, low bigint, high bigint) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

COMMENT ON FUNCTION pgbus.count_heard(filter jsonb, low bigint, high bigint) IS 'How many events of a part of the log a listener hears and a filter accepts';

CREATE FUNCTION pgbus.drop_partition(partition_number integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '100ms'
    AS $_$
DECLARE
    beginning CONSTANT bigint := partition_number * bigint '1000000000';
    ending    CONSTANT bigint := beginning + 1000000000;
    debtor text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'drop_partition must see rows that were committed before it locked the log: use READ COMMITTED'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    DELETE FROM pgbus.partitions WHERE number = partition_number;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Before the checks: resetting a listener begins with reading the log, so a reset has finished by now or waits for
    -- this lock.
    LOCK TABLE ONLY pgbus.events, ONLY pgbus.history, ONLY pgbus.causes IN ACCESS EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM pgbus.events WHERE position >= ending) THEN
        RAISE EXCEPTION 'partition % holds the end of the log', partition_number USING ERRCODE = 'object_in_use';
    END IF;
    -- One statement, so one snapshot: an event that moves from a delivery to a dead letter is seen in one of them.
    SELECT l.listener_name
    INTO debtor
    FROM pgbus.listeners AS l
    WHERE l.cursor < ending
       OR EXISTS (SELECT FROM pgbus.deliveries AS d
                  WHERE d.listener_id = l.id AND d.first < ending AND d.last >= beginning)
       OR EXISTS (SELECT FROM pgbus.dead_letters AS x
                  WHERE x.listener_id = l.id AND x.position >= beginning AND x.position < ending)
    ORDER BY l.listener_name
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'partition % holds events that are still owed to the listener "%"', partition_number, debtor
            USING ERRCODE = 'object_in_use',
                  HINT = 'Let it catch up and retry or discard its dead letters, or remove it.';
    END IF;
    EXECUTE format('ALTER TABLE pgbus.events DETACH PARTITION pgbus.events_p%s', partition_number);
    EXECUTE format('ALTER TABLE pgbus.history DETACH PARTITION pgbus.history_p%s', partition_number);
    EXECUTE format('ALTER TABLE pgbus.causes DETACH PARTITION pgbus.causes_p%s', partition_number);
    EXECUTE format('DROP TABLE pgbus.events_p%1$s, pgbus.history_p%1$s, pgbus.causes_p%1$s', partition_number);
    RETURN true;
END
$_$;

COMMENT ON FUNCTION pgbus.drop_partition(partition_number integer) IS 'Drops a partition of events, history and causes; fails while one of its events is owed to a listener';

CREATE FUNCTION pgbus.error_kind(error text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
    SELECT left(
        regexp_replace(
            regexp_replace(
                split_part(error, chr(10), 1), $q$'[^']*'|"[^"]*"$q$, $q$'*'$q$, 'g'),
            '[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|0x[0-9a-fA-F]+|[0-9]+([.][0-9]+)*', '*', 'g'),
        300)
$_$;

COMMENT ON FUNCTION pgbus.error_kind(error text) IS 'First line of an error without ids, numbers and quoted strings';

CREATE FUNCTION pgbus.event_blocks("position" bigint) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT ARRAY["position" << 2, (("position" >> 3) << 5) | 1, (("position" >> 6) << 8) | 2]
$$;

COMMENT ON FUNCTION pgbus.event_blocks("position" bigint) IS 'Numbers of the three blocks in which a run with this position can be';

CREATE FUNCTION pgbus.event_tree(event_id uuid) RETURNS TABLE(depth integer, kind text, id uuid, causation_id uuid, name text, actor text, at timestamp with time zone, state text, "position" bigint)
    LANGUAGE sql STABLE ROWS 20
    AS $$
    SELECT t.*
    FROM (
        SELECT COALESCE(
            (SELECT pgbus.correlation_of(e.event_id, e.headers) FROM pgbus.events AS e
             WHERE e.event_id = event_tree.event_id LIMIT 1),
            (SELECT pgbus.correlation_of(r.call_id, r.headers) FROM pgbus.rpc_calls AS r
             WHERE r.call_id = event_tree.event_id),
            CAST(event_tree.event_id AS text)) AS correlation_id
    ) AS asked
    CROSS JOIN LATERAL pgbus.correlation_tree(asked.correlation_id) AS t
$$;

COMMENT ON FUNCTION pgbus.event_tree(event_id uuid) IS 'The tree of all that has the same origin as this event, call or run';

CREATE FUNCTION pgbus.fail_lost_calls(call_ids uuid[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.fail_lost_calls(call_ids uuid[]) IS 'Fails those of these calls that a dead worker had claimed';

CREATE FUNCTION pgbus.filter_accepts(filter jsonb, listener_name text, topic text, ancestors text[], key text, payload jsonb, error text, fingerprint text, at timestamp with time zone) RETURNS boolean
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

COMMENT ON FUNCTION pgbus.filter_accepts(filter jsonb, listener_name text, topic text, ancestors text[], key text, payload jsonb, error text, fingerprint text, at timestamp with time zone) IS 'Whether a filter accepts an event and its failure';

CREATE FUNCTION pgbus.find_failures(verb text, filter jsonb, low bigint, high bigint) RETURNS TABLE(id bigint, listener_id integer, listener_name text, "position" bigint, event_id uuid, topic text, key text, attempts integer, error text, fingerprint text, at timestamp with time zone)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.find_failures(verb text, filter jsonb, low bigint, high bigint) IS 'Dead letters, or deliveries that wait for another attempt, that a verb applies to';

CREATE FUNCTION pgbus.find_heard(filter jsonb, low bigint, high bigint, batch bigint) RETURNS TABLE("position" bigint, event_id uuid, topic text, key text, at timestamp with time zone)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

COMMENT ON FUNCTION pgbus.find_heard(filter jsonb, low bigint, high bigint, batch bigint) IS 'Events of a part of the log that a listener hears and a filter accepts';

CREATE FUNCTION pgbus.find_installation(OUT system_identifier bigint, OUT database bigint) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.find_installation(OUT system_identifier bigint, OUT database bigint) IS 'The server and database that this is; NULL where the owner may not read the identifier';

CREATE FUNCTION pgbus.find_paused_as_copy(OUT listeners text[], OUT schedules text[]) RETURNS record
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.find_paused_as_copy(OUT listeners text[], OUT schedules text[]) IS 'Listeners and schedules that are paused because this database is a copy';

CREATE FUNCTION pgbus.has_error(error text, wanted text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT strpos(lower(error), lower(wanted)) > 0 OR pgbus.error_kind(error) = wanted
$$;

COMMENT ON FUNCTION pgbus.has_error(error text, wanted text) IS 'Whether an error contains a string, in upper or lower case, or is of a kind';

CREATE FUNCTION pgbus.is_heard(topics text[], regex text, topic text, ancestors text[]) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT topic = ANY (topics) OR ancestors && topics OR pgbus.topic_lines(topic, ancestors) ~ regex
$$;

COMMENT ON FUNCTION pgbus.is_heard(topics text[], regex text, topic text, ancestors text[]) IS 'Whether one of these topics or this regular expression accepts a topic or an ancestor';

CREATE FUNCTION pgbus.note_listener_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO pgbus.route_changes VALUES (CASE TG_OP WHEN 'DELETE' THEN OLD.id ELSE NEW.id END);
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION pgbus.note_listener_change() IS 'Trigger of listeners: has the leader read them again';

CREATE FUNCTION pgbus.note_listener_removal() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO pgbus.removed_listeners (id, listener_name, service, registered_at)
    VALUES (OLD.id, OLD.listener_name, OLD.service, OLD.registered_at);
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION pgbus.note_listener_removal() IS 'Trigger of listeners: keeps the name of a removed listener';

CREATE FUNCTION pgbus.note_step(number bigint, step text, reason text, person text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.note_step(number bigint, step text, reason text, person text) IS 'Records that somebody continues or cancels an operation; false if it has ended';

CREATE FUNCTION pgbus.note_subscription_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO pgbus.route_changes VALUES (CASE TG_OP WHEN 'DELETE' THEN OLD.listener_id ELSE NEW.listener_id END);
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION pgbus.note_subscription_change() IS 'Trigger of subscriptions: has the leader read them again';

CREATE FUNCTION pgbus.oldest_code() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT '0004' $$;

COMMENT ON FUNCTION pgbus.oldest_code() IS 'The oldest schema revision whose code still works with this schema';

CREATE FUNCTION pgbus.open_partition(partition_number integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '100ms'
    AS $$
DECLARE
    beginning CONSTANT bigint := partition_number * bigint '1000000000';
    ending    CONSTANT bigint := beginning + 1000000000;
BEGIN
    -- If two sessions call this at once, the second waits here for the first.
    INSERT INTO pgbus.partitions (number) VALUES (partition_number) ON CONFLICT (number) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Not PARTITION OF, which locks out readers and writers of the whole parent; ATTACH does not.
    EXECUTE format('CREATE TABLE pgbus.events_p%s (LIKE pgbus.events INCLUDING ALL)', partition_number);
    EXECUTE format('CREATE TABLE pgbus.history_p%s (LIKE pgbus.history INCLUDING ALL)', partition_number);
    EXECUTE format('CREATE TABLE pgbus.causes_p%s (LIKE pgbus.causes INCLUDING ALL)', partition_number);
    EXECUTE format('ALTER TABLE pgbus.events ATTACH PARTITION pgbus.events_p%s FOR VALUES FROM (%s) TO (%s)',
                   partition_number, beginning, ending);
    EXECUTE format('ALTER TABLE pgbus.history ATTACH PARTITION pgbus.history_p%s FOR VALUES FROM (%s) TO (%s)',
                   partition_number, beginning, ending);
    EXECUTE format('ALTER TABLE pgbus.causes ATTACH PARTITION pgbus.causes_p%s FOR VALUES FROM (%s) TO (%s)',
                   partition_number, beginning, ending);
    RETURN true;
END
$$;

COMMENT ON FUNCTION pgbus.open_partition(partition_number integer) IS 'Opens a partition of events, history and causes; false if it is open already';

CREATE PROCEDURE pgbus.operate(IN verb text, IN filter jsonb DEFAULT '{}'::jsonb, IN reason text DEFAULT NULL::text, IN person text DEFAULT NULL::text, INOUT operation_id bigint DEFAULT NULL::bigint, INOUT touched bigint DEFAULT NULL::bigint)
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

COMMENT ON PROCEDURE pgbus.operate(IN verb text, IN filter jsonb, IN reason text, IN person text, INOUT operation_id bigint, INOUT touched bigint) IS 'Begins and carries out an operation, and commits each batch; for psql';

CREATE FUNCTION pgbus.operate_adopt() RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.operate_adopt() IS 'Makes this database the home of the bus, and resumes what was paused because it is a copy';

CREATE FUNCTION pgbus.operate_on_failures(o pgbus.operations, batch bigint, OUT touched bigint, OUT progress bigint) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.operate_on_failures(o pgbus.operations, batch bigint, OUT touched bigint, OUT progress bigint) IS 'One batch of retry, discard, retry_now or give_up';

CREATE FUNCTION pgbus.operate_on_listener(o pgbus.operations) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.operate_on_listener(o pgbus.operations) IS 'Pauses, resumes, resets or removes a listener';

CREATE FUNCTION pgbus.operate_on_schedule(o pgbus.operations) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.operate_on_schedule(o pgbus.operations) IS 'Pauses, resumes, runs or removes a schedule';

CREATE FUNCTION pgbus.operate_replay(o pgbus.operations, batch bigint, OUT touched bigint, OUT progress bigint) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.operate_replay(o pgbus.operations, batch bigint, OUT touched bigint, OUT progress bigint) IS 'One batch of a replay';

CREATE FUNCTION pgbus.operate_republish(o pgbus.operations) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.operate_republish(o pgbus.operations) IS 'Publishes an event again with another payload, with the old one as its cause';

CREATE FUNCTION pgbus.operation_range(verb text, filter jsonb, OUT low bigint, OUT high bigint) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.operation_range(verb text, filter jsonb, OUT low bigint, OUT high bigint) IS 'From where (exclusive) to where an operation goes';

CREATE FUNCTION pgbus.pattern_regex(pattern text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
    SELECT CASE WHEN bool_and(w.word ~ '^([A-Za-z0-9_-]+|[*]{1,2})$')
                THEN '^' || string_agg(CASE w.word WHEN '**' THEN '([A-Za-z0-9_-]+\.)*' WHEN '*' THEN '[A-Za-z0-9_-]+\.'
                                       ELSE w.word || '\.' END, '' ORDER BY w.place) || '$' END
    FROM string_to_table(pattern, '.') WITH ORDINALITY AS w (word, place)
$_$;

COMMENT ON FUNCTION pgbus.pattern_regex(pattern text) IS 'The regular expression of a pattern, for a topic with a dot at its end; NULL if it is not a pattern';

CREATE FUNCTION pgbus.patterns_of(listener text, OUT topics text[], OUT regex text) RETURNS record
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT array_agg(s.pattern) FILTER (WHERE s.regex IS NULL),
           '(?n)' || string_agg('(?:' || s.regex || ')', '|')
    FROM pgbus.subscriptions AS s
    JOIN pgbus.listeners AS l ON l.id = s.listener_id
    WHERE l.listener_name = listener
$$;

COMMENT ON FUNCTION pgbus.patterns_of(listener text, OUT topics text[], OUT regex text) IS 'What a listener hears: topics without wildcards, and a regular expression for its other patterns';

CREATE FUNCTION pgbus.pause_copy() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.pause_copy() IS 'In a copy of the database, pauses all listeners and schedules once; returns the operation or NULL';

CREATE FUNCTION pgbus.place_in_log(place text) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
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
$_$;

COMMENT ON FUNCTION pgbus.place_in_log(place text) IS 'Position that a filter names: beginning, now, a position or an instant';

CREATE FUNCTION pgbus.preview_operation(verb text, filter jsonb DEFAULT '{}'::jsonb, samples integer DEFAULT 5, OUT matched bigint, OUT sample jsonb) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.preview_operation(verb text, filter jsonb, samples integer, OUT matched bigint, OUT sample jsonb) IS 'What an operation would change, without changing it';

CREATE TABLE pgbus.rpc_responses (
    call_id uuid NOT NULL,
    outcome text NOT NULL,
    result json,
    error_type text,
    error text,
    error_arguments json,
    traceback text,
    worker text,
    responded_at pgbus.instant DEFAULT clock_timestamp() NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000', autovacuum_vacuum_insert_scale_factor='0', autovacuum_vacuum_insert_threshold='100000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='100000', autovacuum_vacuum_cost_delay='0');

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

CREATE FUNCTION pgbus.read_responses(call_ids uuid[]) RETURNS SETOF pgbus.rpc_responses
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN QUERY SELECT a.* FROM pgbus.rpc_responses AS a WHERE a.call_id = ANY (call_ids);
END
$$;

COMMENT ON FUNCTION pgbus.read_responses(call_ids uuid[]) IS 'The responses that these calls have';

CREATE FUNCTION pgbus.readable(instant timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN instant >= to_timestamp(-62135596800) AND instant < to_timestamp(253402300800) THEN instant END
$$;

COMMENT ON FUNCTION pgbus.readable(instant timestamp with time zone) IS 'The instant, or NULL outside of the years 1 to 9999, which Python cannot represent';

CREATE FUNCTION pgbus.republish_schemas(ids integer[], abouts text[]) RETURNS SETOF integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    PERFORM s.id FROM pgbus.schemas AS s WHERE s.id = ANY (ids) ORDER BY s.id FOR UPDATE;
    RETURN QUERY
    UPDATE pgbus.schemas AS s
    SET published_at = now(), last_seen_at = now(), about = CAST(w.about AS jsonb)
    FROM unnest(ids, abouts) AS w (id, about)
    WHERE s.id = w.id
    RETURNING s.id;
END
$$;

COMMENT ON FUNCTION pgbus.republish_schemas(ids integer[], abouts text[]) IS 'Records that a process starts with these versions now, and what it says about each';

CREATE FUNCTION pgbus.resume_operation(number bigint, reason text DEFAULT NULL::text, person text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT pgbus.note_step(number, 'continue', reason, person)
$$;

COMMENT ON FUNCTION pgbus.resume_operation(number bigint, reason text, person text) IS 'Records that somebody continues an operation, before continue_operation does; false if it has ended';

CREATE FUNCTION pgbus.run_block(first bigint, span smallint) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN span = 0 THEN first << 2
                WHEN first >> 3 = (first + span) >> 3 THEN ((first >> 3) << 5) | 1
                ELSE ((first >> 6) << 8) | 2 END
$$;

COMMENT ON FUNCTION pgbus.run_block(first bigint, span smallint) IS 'Number of the smallest aligned block of 1, 8 or 64 positions that holds a run of history';

CREATE FUNCTION pgbus.run_offsets(span smallint) RETURNS smallint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT (CAST('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,'
                 '39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63}' AS smallint[]))[1:span + 1]
$$;

COMMENT ON FUNCTION pgbus.run_offsets(span smallint) IS 'Offsets of a run without gaps: 0 to span';

CREATE FUNCTION pgbus.searchable(document json) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    AS $$
BEGIN
    RETURN CAST(document AS jsonb);
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION pgbus.searchable(document json) IS 'JSON as jsonb; NULL for JSON that jsonb cannot hold';

CREATE FUNCTION pgbus.subscribed(listener text) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT COALESCE(jsonb_agg(s.pattern ORDER BY s.pattern), '[]')
    FROM pgbus.subscriptions AS s
    JOIN pgbus.listeners AS l ON l.id = s.listener_id
    WHERE l.listener_name = listener
$$;

COMMENT ON FUNCTION pgbus.subscribed(listener text) IS 'Topics and patterns of a listener, a JSON array';

CREATE FUNCTION pgbus.take_dedup_keys(dedup_keys text[], event_ids uuid[], ttl double precision, OUT dedup_key text, OUT event_id uuid, OUT was_taken boolean) RETURNS SETOF record
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    WITH wanted AS MATERIALIZED (
        SELECT w.dedup_key, w.event_id, statement_timestamp() + ttl * INTERVAL '1 second' AS expires_at
        FROM unnest(dedup_keys, event_ids) AS w (dedup_key, event_id)
    ), holders AS (
        -- For a key that another open transaction has inserted, this waits for the end of that transaction, and then
        -- sees which event holds it. Sorted, so that two calls with several keys in common do not deadlock.
        INSERT INTO pgbus.dedup_keys AS held (dedup_key, event_id, expires_at)
        SELECT w.dedup_key, w.event_id, w.expires_at
        FROM wanted AS w
        ORDER BY w.dedup_key
        ON CONFLICT ON CONSTRAINT dedup_keys_pkey DO UPDATE SET
            -- An expired key is taken over. Otherwise `expires_at` stays, and differs from ours, which is how
            -- `was_taken` is computed: the ids do not suffice, because a caller may retry with the same event_id.
            event_id = CASE WHEN held.expires_at <= statement_timestamp() THEN excluded.event_id ELSE held.event_id END,
            expires_at = CASE WHEN held.expires_at <= statement_timestamp() THEN excluded.expires_at
                              WHEN held.expires_at = excluded.expires_at THEN held.expires_at + INTERVAL '1 microsecond'
                              ELSE held.expires_at END
        RETURNING held.dedup_key, held.event_id, held.expires_at
    )
    SELECT h.dedup_key, h.event_id, h.expires_at = w.expires_at
    FROM holders AS h
    JOIN wanted AS w ON w.dedup_key = h.dedup_key
$$;

COMMENT ON FUNCTION pgbus.take_dedup_keys(dedup_keys text[], event_ids uuid[], ttl double precision, OUT dedup_key text, OUT event_id uuid, OUT was_taken boolean) IS 'Takes each key that is free for the event at the same place of the array, for ttl seconds; returns the holders';

CREATE FUNCTION pgbus.take_empty_lane(listener_id integer, lane smallint, floor bigint) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('pgbus.lanes'), hashtext(listener_id || '.' || lane)) THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM pgbus.deliveries AS d
        WHERE d.listener_id = take_empty_lane.listener_id AND d.lane = take_empty_lane.lane
          AND d.blocked_key IS NULL AND d.first >= take_empty_lane.floor
    ) AND NOT EXISTS (
        SELECT FROM pgbus.deliveries AS d
        WHERE d.listener_id = take_empty_lane.listener_id AND d.lane = take_empty_lane.lane
          AND d.blocked_key IS NULL AND d.available_at IS NOT NULL
    );
END
$$;

COMMENT ON FUNCTION pgbus.take_empty_lane(listener_id integer, lane smallint, floor bigint) IS 'Whether a lane of a listener is empty, where no other claims until the end of the transaction of the caller';

CREATE FUNCTION pgbus.take_lane(listener_id integer, lane smallint, floor bigint) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('pgbus.lanes'), hashtext(listener_id || '.' || lane)) THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM pgbus.deliveries AS d
        WHERE d.listener_id = take_lane.listener_id AND d.lane = take_lane.lane
          AND d.worker_id IS NOT NULL AND d.available_at IS NULL AND d.first >= take_lane.floor
    ) AND NOT EXISTS (
        SELECT FROM pgbus.deliveries AS d
        WHERE d.listener_id = take_lane.listener_id AND d.lane = take_lane.lane
          AND d.worker_id IS NOT NULL AND d.available_at IS NOT NULL
    );
END
$$;

COMMENT ON FUNCTION pgbus.take_lane(listener_id integer, lane smallint, floor bigint) IS 'Whether the caller may claim in a lane of a listener, where no other claims until the end of its transaction';

CREATE FUNCTION pgbus.topic_lines(topic text, ancestors text[]) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT concat(topic, '.', E'\n' || array_to_string(ancestors, E'.\n') || '.')
$$;

COMMENT ON FUNCTION pgbus.topic_lines(topic text, ancestors text[]) IS 'A topic and its ancestors, each with a dot at its end, by lines';

CREATE FUNCTION pgbus.unblock_deliveries(listener_ids integer[]) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    UPDATE pgbus.deliveries AS d
    SET blocked_key = NULL, available_at = now()
    WHERE d.listener_id = ANY (listener_ids)
      AND d.blocked_key IS NOT NULL
      AND NOT EXISTS (SELECT FROM pgbus.dead_letters AS x
                      WHERE x.listener_id = d.listener_id AND x.blocked_key = d.blocked_key)
$$;

COMMENT ON FUNCTION pgbus.unblock_deliveries(listener_ids integer[]) IS 'Frees deliveries whose key no dead letter blocks any longer';

CREATE FUNCTION pgbus.uuid7() RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    AS $$
    SELECT encode(
        set_bit(
            set_bit(
                overlay(uuid_send(gen_random_uuid())
                        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                        FROM 1 FOR 6),
                52, 1),
            53, 1),
        'hex')::uuid
$$;

COMMENT ON FUNCTION pgbus.uuid7() IS 'A new UUIDv7, from the clock of the server';

CREATE FUNCTION pgbus.uuid_or_null(value text) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN value LIKE '________-____-____-____-____________' AND value !~ '[^0-9A-Fa-f-]'
                     AND length(replace(value, '-', '')) = 32 THEN CAST(value AS uuid) END
$$;

COMMENT ON FUNCTION pgbus.uuid_or_null(value text) IS 'The value as a UUID; NULL if it is not one';

CREATE FUNCTION pgbus.wake_leader() RETURNS boolean
    LANGUAGE sql
    AS $$
    SELECT CASE WHEN CASE
                         WHEN pg_current_xact_id() IS NULL THEN false
                         WHEN clock_timestamp() - transaction_timestamp() > INTERVAL '1 second' THEN false
                         WHEN current_setting('max_prepared_transactions') <> '0' THEN false
                         -- NULL: the bus sleeps, or this user may INSERT but not read the slot. Before PostgreSQL 18
                         -- that is an error.
                         WHEN pg_try_advisory_xact_lock_shared(
                                  hashtext('pgbus.wake'), CAST(pg_sequence_last_value('pgbus.wake_slots') AS integer))
                             THEN pg_try_advisory_xact_lock_shared(
                                  hashtext('pgbus.wake'), CAST(pg_sequence_last_value('pgbus.wake_slots') AS integer))
                     END THEN CAST(NULL AS boolean)
                WHEN pg_notify((parse_ident('pgbus.wake'))[1] || '_wake', '') IS NULL THEN NULL
           END
$$;

COMMENT ON FUNCTION pgbus.wake_leader() IS 'Takes the transaction id, and wakes the leader if it sleeps; NULL';

CREATE FUNCTION pgbus.withdraw_calls(call_ids uuid[], ending text, reason text) RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

COMMENT ON FUNCTION pgbus.withdraw_calls(call_ids uuid[], ending text, reason text) IS 'Takes these calls off the queue, except those that a worker has claimed; returns them';

CREATE TABLE pgbus.alembic_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE pgbus.history (
    first bigint NOT NULL,
    started_at timestamp with time zone NOT NULL,
    listener_id integer NOT NULL,
    attempt integer NOT NULL,
    duration real,
    span smallint DEFAULT 0 NOT NULL,
    outcome text NOT NULL,
    worker text NOT NULL,
    error text,
    offsets smallint[],
    durations real[]
)
PARTITION BY RANGE (first);
ALTER TABLE ONLY pgbus.history ALTER COLUMN offsets SET STORAGE PLAIN;
ALTER TABLE ONLY pgbus.history ALTER COLUMN durations SET STORAGE PLAIN;

COMMENT ON TABLE pgbus.history IS 'Attempts, a row for each run of neighbouring events with the same outcome; the view attempts shows one row for each';

COMMENT ON COLUMN pgbus.history.first IS 'Position of the first event of the run';

COMMENT ON COLUMN pgbus.history.started_at IS 'When the handler was called for the first of them';

COMMENT ON COLUMN pgbus.history.listener_id IS 'Listener, in listeners or removed_listeners';

COMMENT ON COLUMN pgbus.history.attempt IS 'Number of the attempt, from 1';

COMMENT ON COLUMN pgbus.history.duration IS 'Seconds that the handler took; NULL: it was not called';

COMMENT ON COLUMN pgbus.history.span IS 'Last position minus first position, 0 to 63';

COMMENT ON COLUMN pgbus.history.outcome IS 'done, retry, dead, discarded or skipped';

COMMENT ON COLUMN pgbus.history.worker IS 'Name of the worker';

COMMENT ON COLUMN pgbus.history.error IS 'Error of an attempt that failed';

COMMENT ON COLUMN pgbus.history.offsets IS 'Distances of the events from first, if the run has gaps';

COMMENT ON COLUMN pgbus.history.durations IS 'Seconds for each event, if they differ';

CREATE TABLE pgbus.listeners (
    id integer NOT NULL,
    listener_name text NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    lanes smallint,
    options jsonb DEFAULT '{}'::jsonb NOT NULL,
    service text DEFAULT ''::text NOT NULL,
    cursor bigint,
    registered_at timestamp with time zone DEFAULT now() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT listeners_cursor_is_position CHECK ((cursor >= 0)),
    CONSTRAINT listeners_lanes_is_positive CHECK ((lanes > 0)),
    CONSTRAINT listeners_name_is_short CHECK (((length(listener_name) >= 1) AND (length(listener_name) <= 255))),
    CONSTRAINT listeners_state_is_known CHECK ((state = ANY (ARRAY['active'::text, 'paused'::text])))
);

COMMENT ON TABLE pgbus.listeners IS 'Every registered listener';

COMMENT ON COLUMN pgbus.listeners.id IS 'Id in other tables';

COMMENT ON COLUMN pgbus.listeners.listener_name IS 'Name of the listener, its identity';

COMMENT ON COLUMN pgbus.listeners.state IS 'active or paused';

COMMENT ON COLUMN pgbus.listeners.lanes IS 'NULL for a listener without order; else its number of lanes';

COMMENT ON COLUMN pgbus.listeners.options IS 'Options that its code declares: a JSON object, durations in seconds';

COMMENT ON COLUMN pgbus.listeners.service IS 'Service that declared it last';

COMMENT ON COLUMN pgbus.listeners.cursor IS 'Position from which the leader still has to write deliveries, after a registration from the beginning or a reset; NULL: live';

COMMENT ON COLUMN pgbus.listeners.registered_at IS 'When it was first registered';

COMMENT ON COLUMN pgbus.listeners.last_seen_at IS 'When a worker that runs it reported last';

CREATE TABLE pgbus.removed_listeners (
    id integer NOT NULL,
    listener_name text NOT NULL,
    service text NOT NULL,
    registered_at timestamp with time zone NOT NULL,
    removed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

COMMENT ON TABLE pgbus.removed_listeners IS 'Listeners that were removed: the history keeps their names';

COMMENT ON COLUMN pgbus.removed_listeners.id IS 'Id in history';

COMMENT ON COLUMN pgbus.removed_listeners.listener_name IS 'Name of the listener';

COMMENT ON COLUMN pgbus.removed_listeners.service IS 'Service that had declared it last';

COMMENT ON COLUMN pgbus.removed_listeners.registered_at IS 'When it was first registered';

COMMENT ON COLUMN pgbus.removed_listeners.removed_at IS 'When it was removed';

CREATE VIEW pgbus.attempts AS
 SELECT (h.first + u.step) AS "position",
    COALESCE(l.listener_name, r.listener_name) AS listener_name,
    h.attempt,
    h.outcome,
    h.started_at,
    COALESCE(u.duration, h.duration) AS duration,
    h.worker,
    h.error
   FROM (((pgbus.history h
     CROSS JOIN LATERAL ( SELECT unnest(COALESCE(h.offsets, pgbus.run_offsets(h.span))) AS step,
            unnest(h.durations) AS duration) u)
     LEFT JOIN pgbus.listeners l ON ((l.id = h.listener_id)))
     LEFT JOIN pgbus.removed_listeners r ON ((r.id = h.listener_id)));

COMMENT ON VIEW pgbus.attempts IS 'One row per attempt, without its event';

COMMENT ON COLUMN pgbus.attempts."position" IS 'Position of the event in the log';

COMMENT ON COLUMN pgbus.attempts.listener_name IS 'Name of the listener';

COMMENT ON COLUMN pgbus.attempts.attempt IS 'Number of the attempt, from 1';

COMMENT ON COLUMN pgbus.attempts.outcome IS 'done, retry, dead, discarded (by an operator) or skipped (the event or its next attempt was gone)';

COMMENT ON COLUMN pgbus.attempts.started_at IS 'When the handler was called';

COMMENT ON COLUMN pgbus.attempts.duration IS 'Seconds that the handler took; NULL: it was not called';

COMMENT ON COLUMN pgbus.attempts.worker IS 'Name of the worker';

COMMENT ON COLUMN pgbus.attempts.error IS 'Error of an attempt that failed, else NULL';

CREATE TABLE pgbus.operation_steps (
    id bigint NOT NULL,
    operation_id bigint NOT NULL,
    step text NOT NULL,
    reason text,
    person text,
    requested_by text NOT NULL,
    requested_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT operation_steps_step_is_known CHECK ((step = ANY (ARRAY['continue'::text, 'cancel'::text]))),
    CONSTRAINT operation_steps_texts_are_short CHECK (((length(reason) <= 1000) AND (length(person) <= 255)))
);

COMMENT ON TABLE pgbus.operation_steps IS 'What people did to an operation after it was begun: continued or cancelled it';

COMMENT ON COLUMN pgbus.operation_steps.id IS 'Id of the step';

COMMENT ON COLUMN pgbus.operation_steps.operation_id IS 'The operation, in operations';

COMMENT ON COLUMN pgbus.operation_steps.step IS 'continue or cancel';

COMMENT ON COLUMN pgbus.operation_steps.reason IS 'Why, as the person wrote it; NULL: not given';

COMMENT ON COLUMN pgbus.operation_steps.person IS 'Who, as the client says; NULL: not given';

COMMENT ON COLUMN pgbus.operation_steps.requested_by IS 'Database user';

COMMENT ON COLUMN pgbus.operation_steps.requested_at IS 'When it was continued or cancelled';

CREATE VIEW pgbus.audit_trail AS
 SELECT d.at,
    d.operation_id,
    d.action,
    d.requested_by,
    d.person,
    d.reason,
    o.verb,
    o.filter,
    o.matched,
    o.touched,
    o.state,
    o.result,
    o.finished_at
   FROM (( SELECT b.requested_at AS at,
            b.id AS operation_id,
            'begin'::text AS action,
            b.requested_by,
            b.person,
            b.reason
           FROM pgbus.operations b
        UNION ALL
         SELECT s.requested_at,
            s.operation_id,
            s.step,
            s.requested_by,
            s.person,
            s.reason
           FROM pgbus.operation_steps s) d
     JOIN pgbus.operations o ON ((o.id = d.operation_id)));

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

CREATE TABLE pgbus.causes (
    "position" bigint NOT NULL,
    kind text DEFAULT 'event'::text NOT NULL,
    id uuid NOT NULL,
    correlation_id text NOT NULL,
    causation_id uuid,
    name text,
    actor text,
    at timestamp with time zone,
    state text
)
PARTITION BY RANGE ("position");

COMMENT ON TABLE pgbus.causes IS 'Why an event, call or run exists: a row for each one that another one has caused';

COMMENT ON COLUMN pgbus.causes."position" IS 'Position of the event; for a call or run the end of the log when it was pruned';

COMMENT ON COLUMN pgbus.causes.kind IS 'event, call or run';

COMMENT ON COLUMN pgbus.causes.id IS 'Event id, call id or run id';

COMMENT ON COLUMN pgbus.causes.correlation_id IS 'The tree that it belongs to';

COMMENT ON COLUMN pgbus.causes.causation_id IS 'Id of its direct cause; NULL: unknown';

COMMENT ON COLUMN pgbus.causes.name IS 'Procedure or schedule of a call or run; NULL for an event';

COMMENT ON COLUMN pgbus.causes.actor IS 'Process that called, or worker that ran; NULL for an event';

COMMENT ON COLUMN pgbus.causes.at IS 'When it was called or began; NULL for an event';

COMMENT ON COLUMN pgbus.causes.state IS 'Outcome of a call or run; NULL for an event';

CREATE TABLE pgbus.causes_p0 (
    "position" bigint CONSTRAINT causes_position_not_null NOT NULL,
    kind text DEFAULT 'event'::text CONSTRAINT causes_kind_not_null NOT NULL,
    id uuid CONSTRAINT causes_id_not_null NOT NULL,
    correlation_id text CONSTRAINT causes_correlation_id_not_null NOT NULL,
    causation_id uuid,
    name text,
    actor text,
    at timestamp with time zone,
    state text
);

CREATE TABLE pgbus.dead_letters (
    id bigint NOT NULL,
    listener_id integer NOT NULL,
    "position" bigint NOT NULL,
    lane smallint,
    attempts integer NOT NULL,
    error text NOT NULL,
    fingerprint text,
    traceback text,
    worker text NOT NULL,
    blocked_key text,
    dead_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE pgbus.dead_letters IS 'Events that one listener gave up on. The view dead has the events as well';

COMMENT ON COLUMN pgbus.dead_letters.id IS 'Id, for pgbus dead show';

COMMENT ON COLUMN pgbus.dead_letters.listener_id IS 'Listener, in listeners';

COMMENT ON COLUMN pgbus.dead_letters."position" IS 'Position of the event';

COMMENT ON COLUMN pgbus.dead_letters.lane IS 'Lane of an ordered listener';

COMMENT ON COLUMN pgbus.dead_letters.attempts IS 'Number of attempts';

COMMENT ON COLUMN pgbus.dead_letters.error IS 'Error of the last attempt';

COMMENT ON COLUMN pgbus.dead_letters.fingerprint IS 'Type of the exception and the function that raised it; NULL: unknown';

COMMENT ON COLUMN pgbus.dead_letters.traceback IS 'Traceback of the last attempt; NULL: none';

COMMENT ON COLUMN pgbus.dead_letters.worker IS 'Worker of the last attempt';

COMMENT ON COLUMN pgbus.dead_letters.blocked_key IS 'Key whose later events wait for this one; NULL: none';

COMMENT ON COLUMN pgbus.dead_letters.dead_at IS 'When the listener gave up';

CREATE TABLE pgbus.events (
    "position" bigint NOT NULL,
    event_id uuid NOT NULL,
    topic text NOT NULL,
    ancestors text[],
    key text,
    payload jsonb NOT NULL,
    headers jsonb,
    published_at timestamp with time zone NOT NULL,
    deliver_at timestamp with time zone,
    logged_at timestamp with time zone NOT NULL,
    published_by text DEFAULT CURRENT_USER NOT NULL
)
PARTITION BY RANGE ("position");

COMMENT ON TABLE pgbus.events IS 'The log: every event, in the order in which the leader found them; a partition for each 1,000,000,000 positions';

COMMENT ON COLUMN pgbus.events."position" IS 'Place of the event in the log, from 1; gaps are possible';

COMMENT ON COLUMN pgbus.events.event_id IS 'Id of the event, a UUIDv7; unique in practice, and the same at every attempt';

COMMENT ON COLUMN pgbus.events.topic IS 'Dotted name under which it was published';

COMMENT ON COLUMN pgbus.events.ancestors IS 'Topics of the parent classes of the event class; NULL: none';

COMMENT ON COLUMN pgbus.events.key IS 'Groups events: an ordered listener handles those with one key in order; NULL: no key';

COMMENT ON COLUMN pgbus.events.payload IS 'The data of the event, a JSON object';

COMMENT ON COLUMN pgbus.events.headers IS 'Strings that are stored in addition to the payload, a JSON object; NULL: none';

COMMENT ON COLUMN pgbus.events.published_at IS 'When the publisher called publish, by the database clock';

COMMENT ON COLUMN pgbus.events.deliver_at IS 'When it was to be delivered; NULL: at once';

COMMENT ON COLUMN pgbus.events.logged_at IS 'When the leader wrote it into the log';

COMMENT ON COLUMN pgbus.events.published_by IS 'Service that published it; the database user where no service is set';

CREATE VIEW pgbus.dead AS
 SELECT x.id,
    l.listener_name,
    x."position",
    e.event_id,
    e.topic,
    e.key,
    e.payload,
    e.headers,
    e.published_at,
    e.published_by,
    x.attempts,
    x.error,
    x.fingerprint,
    x.traceback,
    x.worker,
    x.dead_at
   FROM ((pgbus.dead_letters x
     JOIN pgbus.listeners l ON ((l.id = x.listener_id)))
     JOIN pgbus.events e ON ((e."position" = x."position")));

COMMENT ON VIEW pgbus.dead IS 'Dead letters, joined with their events';

COMMENT ON COLUMN pgbus.dead.id IS 'Id, for pgbus dead show';

COMMENT ON COLUMN pgbus.dead.listener_name IS 'Name of the listener';

COMMENT ON COLUMN pgbus.dead."position" IS 'Position of the event in the log';

COMMENT ON COLUMN pgbus.dead.event_id IS 'Id of the event, a UUIDv7; unique in practice, and the same at every attempt';

COMMENT ON COLUMN pgbus.dead.topic IS 'Dotted name under which it was published';

COMMENT ON COLUMN pgbus.dead.key IS 'Groups events: an ordered listener handles those with one key in order; NULL: no key';

COMMENT ON COLUMN pgbus.dead.payload IS 'The data of the event, a JSON object';

COMMENT ON COLUMN pgbus.dead.headers IS 'Strings that are stored in addition to the payload, a JSON object; NULL: none';

COMMENT ON COLUMN pgbus.dead.published_at IS 'When the publisher called publish, by the database clock';

COMMENT ON COLUMN pgbus.dead.published_by IS 'Service that published it; the database user where no service is set';

COMMENT ON COLUMN pgbus.dead.attempts IS 'Number of attempts';

COMMENT ON COLUMN pgbus.dead.error IS 'Error of the last attempt';

COMMENT ON COLUMN pgbus.dead.fingerprint IS 'Type of the exception and the function that raised it: what fails alike has the same; NULL: unknown';

COMMENT ON COLUMN pgbus.dead.traceback IS 'Traceback of the last attempt; NULL: none';

COMMENT ON COLUMN pgbus.dead.worker IS 'Worker of the last attempt';

COMMENT ON COLUMN pgbus.dead.dead_at IS 'When the listener gave up';

ALTER TABLE pgbus.dead_letters ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pgbus.dead_letters_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE pgbus.declarations (
    listener_id integer NOT NULL,
    service text NOT NULL,
    patterns text[] NOT NULL,
    options jsonb NOT NULL,
    worker_ids integer[] NOT NULL,
    first_seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT declarations_patterns_are_some CHECK ((cardinality(patterns) > 0))
);

ALTER TABLE ONLY pgbus.declarations REPLICA IDENTITY FULL;

COMMENT ON TABLE pgbus.declarations IS 'Subscriptions and options of a listener, by the version of the code that declares them';

COMMENT ON COLUMN pgbus.declarations.listener_id IS 'Listener, in listeners';

COMMENT ON COLUMN pgbus.declarations.service IS 'Service whose code declares it';

COMMENT ON COLUMN pgbus.declarations.patterns IS 'Topics and patterns';

COMMENT ON COLUMN pgbus.declarations.options IS 'Options: a JSON object, durations in seconds';

COMMENT ON COLUMN pgbus.declarations.worker_ids IS 'Workers that run this version, or did';

COMMENT ON COLUMN pgbus.declarations.first_seen_at IS 'When a worker first declared it';

COMMENT ON COLUMN pgbus.declarations.last_seen_at IS 'When a worker that declares it reported last';

CREATE TABLE pgbus.dedup_keys (
    dedup_key text NOT NULL,
    event_id uuid NOT NULL,
    expires_at pgbus.instant NOT NULL,
    CONSTRAINT dedup_keys_key_is_short CHECK (((length(dedup_key) >= 1) AND (length(dedup_key) <= 255)))
);

COMMENT ON TABLE pgbus.dedup_keys IS 'Idempotency keys of publishers: while a row is here, a second event under its key is not published';

COMMENT ON COLUMN pgbus.dedup_keys.dedup_key IS 'Key that the publisher gave, of 1 to 255 characters';

COMMENT ON COLUMN pgbus.dedup_keys.event_id IS 'Event that holds the key';

COMMENT ON COLUMN pgbus.dedup_keys.expires_at IS 'From then on the key is free';

CREATE TABLE pgbus.deliveries (
    id bigint NOT NULL,
    listener_id integer NOT NULL,
    lane smallint,
    first bigint NOT NULL,
    last bigint NOT NULL,
    events integer NOT NULL,
    positions bigint[],
    available_at timestamp with time zone,
    attempt integer DEFAULT 1 NOT NULL,
    crashes smallint DEFAULT 0 NOT NULL,
    claim_token uuid,
    worker_id integer,
    lease_expires_at timestamp with time zone,
    blocked_key text,
    last_error text,
    left_topic text
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='100000', autovacuum_vacuum_cost_delay='0');

COMMENT ON TABLE pgbus.deliveries IS 'Runs of events that are owed to a listener; a row is gone when its events are settled. The view pending explains it';

COMMENT ON COLUMN pgbus.deliveries.id IS 'Id of the delivery';

COMMENT ON COLUMN pgbus.deliveries.listener_id IS 'Listener, in listeners';

COMMENT ON COLUMN pgbus.deliveries.lane IS 'Lane of an ordered listener; NULL: no order';

COMMENT ON COLUMN pgbus.deliveries.first IS 'Position of the first event';

COMMENT ON COLUMN pgbus.deliveries.last IS 'Position of the last event';

COMMENT ON COLUMN pgbus.deliveries.events IS 'Number of events';

COMMENT ON COLUMN pgbus.deliveries.positions IS 'Positions of the events, if the run has gaps';

COMMENT ON COLUMN pgbus.deliveries.available_at IS 'It waits until then; NULL: ready since it was logged';

COMMENT ON COLUMN pgbus.deliveries.attempt IS 'Number of the next or current attempt, from 1';

COMMENT ON COLUMN pgbus.deliveries.crashes IS 'Workers that died while they held it alone';

COMMENT ON COLUMN pgbus.deliveries.claim_token IS 'Id of the claim; NULL: waiting';

COMMENT ON COLUMN pgbus.deliveries.worker_id IS 'Worker that holds the claim';

COMMENT ON COLUMN pgbus.deliveries.lease_expires_at IS 'When the claim ends, unless it is extended';

COMMENT ON COLUMN pgbus.deliveries.blocked_key IS 'Key of the dead letter for which it waits; NULL: none';

COMMENT ON COLUMN pgbus.deliveries.last_error IS 'Error of the last attempt';

COMMENT ON COLUMN pgbus.deliveries.left_topic IS 'Topic that a worker could not handle, and left to workers of another version';

ALTER TABLE pgbus.deliveries ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pgbus.deliveries_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW pgbus.event_history AS
 SELECT e."position",
    e.event_id,
    e.topic,
    e.key,
    e.payload,
    e.headers,
    e.published_at,
    e.published_by,
    e.logged_at,
    COALESCE(l.listener_name, r.listener_name) AS listener_name,
    h.attempt,
    h.outcome,
    h.started_at,
    COALESCE(u.duration, h.duration) AS duration,
    h.worker,
    h.error
   FROM (((pgbus.events e
     LEFT JOIN (pgbus.history h
     CROSS JOIN LATERAL ( SELECT unnest(COALESCE(h.offsets, pgbus.run_offsets(h.span))) AS step,
            unnest(h.durations) AS duration) u) ON (((pgbus.run_block(h.first, h.span) = ANY (pgbus.event_blocks(e."position"))) AND (e."position" = (h.first + u.step)) AND ((h.first >= (e."position" - 63)) AND (h.first <= e."position")) AND ((u.step >= 0) AND (u.step <= 63)))))
     LEFT JOIN pgbus.listeners l ON ((l.id = h.listener_id)))
     LEFT JOIN pgbus.removed_listeners r ON ((r.id = h.listener_id)));

COMMENT ON VIEW pgbus.event_history IS 'One row per attempt at an event, or one row with NULLs for an event without attempts';

COMMENT ON COLUMN pgbus.event_history."position" IS 'Place of the event in the log, from 1; gaps are possible';

COMMENT ON COLUMN pgbus.event_history.event_id IS 'Id of the event, a UUIDv7; unique in practice, and the same at every attempt';

COMMENT ON COLUMN pgbus.event_history.topic IS 'Dotted name under which it was published';

COMMENT ON COLUMN pgbus.event_history.key IS 'Groups events: an ordered listener handles those with one key in order; NULL: no key';

COMMENT ON COLUMN pgbus.event_history.payload IS 'The data of the event, a JSON object';

COMMENT ON COLUMN pgbus.event_history.headers IS 'Strings that are stored in addition to the payload, a JSON object; NULL: none';

COMMENT ON COLUMN pgbus.event_history.published_at IS 'When the publisher called publish, by the database clock';

COMMENT ON COLUMN pgbus.event_history.published_by IS 'Service that published it; the database user where no service is set';

COMMENT ON COLUMN pgbus.event_history.logged_at IS 'When the leader wrote it into the log';

COMMENT ON COLUMN pgbus.event_history.listener_name IS 'Name of the listener; NULL: no attempt yet';

COMMENT ON COLUMN pgbus.event_history.attempt IS 'Number of the attempt, from 1';

COMMENT ON COLUMN pgbus.event_history.outcome IS 'done, retry, dead, discarded (by an operator) or skipped (the event or its next attempt was gone)';

COMMENT ON COLUMN pgbus.event_history.started_at IS 'When the handler was called';

COMMENT ON COLUMN pgbus.event_history.duration IS 'Seconds that the handler took; NULL: it was not called';

COMMENT ON COLUMN pgbus.event_history.worker IS 'Name of the worker';

COMMENT ON COLUMN pgbus.event_history.error IS 'Error of an attempt that failed, else NULL';

CREATE TABLE pgbus.events_p0 (
    "position" bigint CONSTRAINT events_position_not_null NOT NULL,
    event_id uuid CONSTRAINT events_event_id_not_null NOT NULL,
    topic text CONSTRAINT events_topic_not_null NOT NULL,
    ancestors text[],
    key text,
    payload jsonb CONSTRAINT events_payload_not_null NOT NULL,
    headers jsonb,
    published_at timestamp with time zone CONSTRAINT events_published_at_not_null NOT NULL,
    deliver_at timestamp with time zone,
    logged_at timestamp with time zone CONSTRAINT events_logged_at_not_null NOT NULL,
    published_by text DEFAULT CURRENT_USER CONSTRAINT events_published_by_not_null NOT NULL
);

CREATE TABLE pgbus.history_p0 (
    first bigint CONSTRAINT history_first_not_null NOT NULL,
    started_at timestamp with time zone CONSTRAINT history_started_at_not_null NOT NULL,
    listener_id integer CONSTRAINT history_listener_id_not_null NOT NULL,
    attempt integer CONSTRAINT history_attempt_not_null NOT NULL,
    duration real,
    span smallint DEFAULT 0 CONSTRAINT history_span_not_null NOT NULL,
    outcome text CONSTRAINT history_outcome_not_null NOT NULL,
    worker text CONSTRAINT history_worker_not_null NOT NULL,
    error text,
    offsets smallint[],
    durations real[]
);
ALTER TABLE ONLY pgbus.history_p0 ALTER COLUMN offsets SET STORAGE PLAIN;
ALTER TABLE ONLY pgbus.history_p0 ALTER COLUMN durations SET STORAGE PLAIN;

CREATE TABLE pgbus.identity (
    bus_id uuid DEFAULT gen_random_uuid() NOT NULL,
    only_row boolean DEFAULT true NOT NULL,
    CONSTRAINT identity_is_one_row CHECK (only_row)
);

COMMENT ON TABLE pgbus.identity IS 'The identity of this bus in the origins of events that relays carry';

COMMENT ON COLUMN pgbus.identity.bus_id IS 'Id of this bus';

COMMENT ON COLUMN pgbus.identity.only_row IS 'Always true';

CREATE TABLE pgbus.installation (
    is_one boolean DEFAULT true NOT NULL,
    system_identifier bigint NOT NULL,
    database bigint NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT installation_is_one CHECK (is_one)
);

COMMENT ON TABLE pgbus.installation IS 'One row: the server and database in which the bus was first used, so that a copy is noticed';

COMMENT ON COLUMN pgbus.installation.is_one IS 'Always true';

COMMENT ON COLUMN pgbus.installation.system_identifier IS 'Identifier of the PostgreSQL cluster';

COMMENT ON COLUMN pgbus.installation.database IS 'OID of the database';

COMMENT ON COLUMN pgbus.installation.since IS 'When the row was written';

CREATE VIEW pgbus.listener_lag AS
 SELECT l.listener_name,
    l.state,
    l.service,
    l.last_seen_at,
    (COALESCE(owed.events, (0)::bigint) +
        CASE
            WHEN (l.cursor IS NULL) THEN (0)::bigint
            ELSE ( SELECT count(*) AS count
               FROM pgbus.events e
              WHERE (e."position" >= l.cursor))
        END) AS lag_events,
    (COALESCE(EXTRACT(epoch FROM (clock_timestamp() - oldest.logged_at)), (0)::numeric))::double precision AS lag_seconds,
    COALESCE(owed.in_flight, (0)::bigint) AS in_flight,
    COALESCE(owed.retrying, (0)::bigint) AS retrying,
    COALESCE(owed.blocked, (0)::bigint) AS blocked,
    ( SELECT count(*) AS count
           FROM pgbus.dead_letters x
          WHERE (x.listener_id = l.id)) AS dead
   FROM ((pgbus.listeners l
     LEFT JOIN LATERAL ( SELECT sum(d.events) AS events,
            sum(d.events) FILTER (WHERE (d.claim_token IS NOT NULL)) AS in_flight,
            sum(d.events) FILTER (WHERE ((d.claim_token IS NULL) AND (d.attempt > 1) AND (d.blocked_key IS NULL))) AS retrying,
            sum(d.events) FILTER (WHERE (d.blocked_key IS NOT NULL)) AS blocked,
            min(d.first) AS first
           FROM pgbus.deliveries d
          WHERE (d.listener_id = l.id)) owed ON (true))
     LEFT JOIN LATERAL ( SELECT e.logged_at
           FROM pgbus.events e
          WHERE (e."position" >= LEAST(owed.first, l.cursor))
          ORDER BY e."position"
         LIMIT 1) oldest ON (true));

COMMENT ON VIEW pgbus.listener_lag IS 'Per listener: events owed to it, and the age in seconds of the oldest of them';

COMMENT ON COLUMN pgbus.listener_lag.listener_name IS 'Name of the listener';

COMMENT ON COLUMN pgbus.listener_lag.state IS 'active or paused';

COMMENT ON COLUMN pgbus.listener_lag.service IS 'Service that declared it last';

COMMENT ON COLUMN pgbus.listener_lag.last_seen_at IS 'When a worker that runs it reported last';

COMMENT ON COLUMN pgbus.listener_lag.lag_events IS 'Events owed to it, in all states; dead letters do not count';

COMMENT ON COLUMN pgbus.listener_lag.lag_seconds IS 'Seconds since the oldest of them was logged; 0: none';

COMMENT ON COLUMN pgbus.listener_lag.in_flight IS 'Events that workers have claimed';

COMMENT ON COLUMN pgbus.listener_lag.retrying IS 'Events that wait for another attempt';

COMMENT ON COLUMN pgbus.listener_lag.blocked IS 'Events that wait for a dead letter with the same key';

COMMENT ON COLUMN pgbus.listener_lag.dead IS 'Its dead letters';

ALTER TABLE pgbus.listeners ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pgbus.listeners_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE SEQUENCE pgbus.wake_slots
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
    CYCLE;

CREATE TABLE pgbus.workers (
    id integer NOT NULL,
    name text NOT NULL,
    service text DEFAULT ''::text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    listeners text[] DEFAULT '{}'::text[] NOT NULL,
    failures jsonb DEFAULT '{}'::jsonb NOT NULL,
    running jsonb DEFAULT '[]'::jsonb NOT NULL,
    home text,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    leading_since timestamp with time zone
);

COMMENT ON TABLE pgbus.workers IS 'Worker processes, those that died recently included; the view live_workers shows those that are alive';

COMMENT ON COLUMN pgbus.workers.id IS 'Id in other tables, and key of the lock that shows that it is alive';

COMMENT ON COLUMN pgbus.workers.name IS 'Name of the worker, as log lines show it';

COMMENT ON COLUMN pgbus.workers.service IS 'Service that it runs';

COMMENT ON COLUMN pgbus.workers.host IS 'Host name';

COMMENT ON COLUMN pgbus.workers.pid IS 'Process id on its host';

COMMENT ON COLUMN pgbus.workers.version IS 'Version of pgbus';

COMMENT ON COLUMN pgbus.workers.listeners IS 'Names of the listeners that it runs';

COMMENT ON COLUMN pgbus.workers.failures IS 'Parts that failed by a fault of code and wait for a restart, with their errors';

COMMENT ON COLUMN pgbus.workers.running IS 'Calls of handlers, procedures and tasks that have run for 1 second or more; age is in seconds';

COMMENT ON COLUMN pgbus.workers.home IS 'Directory from which the name of the service is derived; NULL: the name is configured';

COMMENT ON COLUMN pgbus.workers.started_at IS 'When it registered';

COMMENT ON COLUMN pgbus.workers.last_seen_at IS 'When it reported last, every 10 seconds';

COMMENT ON COLUMN pgbus.workers.leading_since IS 'When it became the leader; NULL: it is not the leader';

CREATE VIEW pgbus.live_workers AS
 SELECT w.id,
    w.name,
    w.service,
    w.host,
    w.pid,
    w.version,
    w.listeners,
    w.started_at,
    w.last_seen_at,
    w.leading_since,
    ( SELECT (NOT s.is_called)
           FROM pgbus.wake_slots s) AS is_asleep
   FROM (pgbus.workers w
     JOIN pg_locks l ON (((l.locktype = 'advisory'::text) AND (l.database = ( SELECT d.oid
           FROM pg_database d
          WHERE (d.datname = current_database()))) AND ((l.classid)::bigint = ( SELECT ((hashtext(((n.nspname)::text || '.worker'::text)))::bigint & '4294967295'::bigint)
           FROM (pg_class c
             JOIN pg_namespace n ON ((n.oid = c.relnamespace)))
          WHERE (c.oid = ('pgbus.workers'::regclass)::oid))) AND ((l.objid)::bigint = w.id) AND (l.objsubid = 2) AND l.granted)));

COMMENT ON VIEW pgbus.live_workers IS 'The live workers: those that hold the lock of their id';

COMMENT ON COLUMN pgbus.live_workers.id IS 'Id in other tables';

COMMENT ON COLUMN pgbus.live_workers.name IS 'Name of the worker, as log lines show it';

COMMENT ON COLUMN pgbus.live_workers.service IS 'Service that it runs';

COMMENT ON COLUMN pgbus.live_workers.host IS 'Host name';

COMMENT ON COLUMN pgbus.live_workers.pid IS 'Process id on its host';

COMMENT ON COLUMN pgbus.live_workers.version IS 'Version of pgbus';

COMMENT ON COLUMN pgbus.live_workers.listeners IS 'Names of the listeners that it runs';

COMMENT ON COLUMN pgbus.live_workers.started_at IS 'When it registered';

COMMENT ON COLUMN pgbus.live_workers.last_seen_at IS 'When it reported last, every 10 seconds';

COMMENT ON COLUMN pgbus.live_workers.leading_since IS 'When it became the leader; NULL: it is not the leader';

COMMENT ON COLUMN pgbus.live_workers.is_asleep IS 'Whether the whole bus sleeps, as nothing is owed: then nobody reports, and nobody leads';

CREATE TABLE pgbus.operation_items (
    operation_id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    letter_id bigint,
    listener_name text NOT NULL,
    "position" bigint NOT NULL,
    event_id uuid,
    topic text,
    attempts integer NOT NULL,
    error text,
    fingerprint text,
    traceback text,
    worker text,
    dead_at timestamp with time zone
);

COMMENT ON TABLE pgbus.operation_items IS 'What operations have changed: an event at one listener';

COMMENT ON COLUMN pgbus.operation_items.operation_id IS 'The operation, in operations';

COMMENT ON COLUMN pgbus.operation_items.at IS 'When it was changed';

COMMENT ON COLUMN pgbus.operation_items.letter_id IS 'Id that the dead letter had; NULL: it was not a dead letter';

COMMENT ON COLUMN pgbus.operation_items.listener_name IS 'Name of the listener';

COMMENT ON COLUMN pgbus.operation_items."position" IS 'Position of the event';

COMMENT ON COLUMN pgbus.operation_items.event_id IS 'Id of the event; NULL: unknown';

COMMENT ON COLUMN pgbus.operation_items.topic IS 'Topic of the event; NULL: unknown';

COMMENT ON COLUMN pgbus.operation_items.attempts IS 'Number of attempts until then';

COMMENT ON COLUMN pgbus.operation_items.error IS 'Error of the last attempt';

COMMENT ON COLUMN pgbus.operation_items.fingerprint IS 'Type of the exception and the function that raised it';

COMMENT ON COLUMN pgbus.operation_items.traceback IS 'Traceback of the last attempt';

COMMENT ON COLUMN pgbus.operation_items.worker IS 'Worker of the last attempt';

COMMENT ON COLUMN pgbus.operation_items.dead_at IS 'When the listener had given up';

ALTER TABLE pgbus.operation_steps ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pgbus.operation_steps_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE pgbus.operations ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pgbus.operations_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE pgbus.outbox (
    wake boolean DEFAULT pgbus.wake_leader(),
    id bigint NOT NULL,
    event_id uuid DEFAULT pgbus.uuid7() NOT NULL,
    topic pgbus.topic NOT NULL,
    ancestors pgbus.ancestors,
    key pgbus.key,
    payload jsonb DEFAULT '{}'::jsonb NOT NULL,
    headers pgbus.headers,
    published_at pgbus.instant DEFAULT clock_timestamp() NOT NULL,
    deliver_at pgbus.instant,
    published_by text DEFAULT CURRENT_USER NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000', autovacuum_vacuum_insert_scale_factor='0', autovacuum_vacuum_insert_threshold='100000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='100000', autovacuum_vacuum_cost_delay='0');

COMMENT ON TABLE pgbus.outbox IS 'Events that are not in the log yet. INSERT here publishes; rows stay for milliseconds, or until deliver_at';

COMMENT ON COLUMN pgbus.outbox.wake IS 'Holds nothing: its default takes the transaction id, and wakes the leader if it sleeps';

COMMENT ON COLUMN pgbus.outbox.id IS 'Order of the inserts';

COMMENT ON COLUMN pgbus.outbox.event_id IS 'Id of the event, a UUIDv7; unique in practice, and the same at every attempt';

COMMENT ON COLUMN pgbus.outbox.topic IS 'Dotted name under which it was published';

COMMENT ON COLUMN pgbus.outbox.ancestors IS 'Topics of the parent classes of the event class; listeners on them hear the event too; NULL: none';

COMMENT ON COLUMN pgbus.outbox.key IS 'Groups events: an ordered listener handles those with one key in order; NULL: no key';

COMMENT ON COLUMN pgbus.outbox.payload IS 'The data of the event, a JSON object';

COMMENT ON COLUMN pgbus.outbox.headers IS 'Strings that are stored in addition to the payload, a JSON object; NULL: none';

COMMENT ON COLUMN pgbus.outbox.published_at IS 'When the publisher called publish, by the database clock';

COMMENT ON COLUMN pgbus.outbox.deliver_at IS 'The event enters the log no sooner than this; NULL: at once';

COMMENT ON COLUMN pgbus.outbox.published_by IS 'Service that published it; the database user where no service is set';

ALTER TABLE pgbus.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pgbus.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE pgbus.partitions (
    number integer NOT NULL,
    opened_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT partitions_number_is_not_negative CHECK ((number >= 0))
);

COMMENT ON TABLE pgbus.partitions IS 'Partitions of events, history and causes';

COMMENT ON COLUMN pgbus.partitions.number IS 'Its positions start at number * 1,000,000,000';

COMMENT ON COLUMN pgbus.partitions.opened_at IS 'When the leader opened it';

CREATE VIEW pgbus.pending AS
 SELECT l.listener_name,
    d.id AS delivery_id,
    d.first AS first_position,
    d.last AS last_position,
    d.events,
    d.attempt,
    d.available_at,
    w.name AS worker,
    d.lease_expires_at,
    d.blocked_key,
    d.last_error,
        CASE
            WHEN (d.blocked_key IS NOT NULL) THEN 'blocked'::text
            WHEN (d.claim_token IS NOT NULL) THEN 'in flight'::text
            WHEN (d.left_topic IS NOT NULL) THEN 'parked'::text
            WHEN (d.attempt > 1) THEN 'retrying'::text
            ELSE 'waiting'::text
        END AS state
   FROM ((pgbus.deliveries d
     JOIN pgbus.listeners l ON ((l.id = d.listener_id)))
     LEFT JOIN pgbus.workers w ON ((w.id = d.worker_id)));

COMMENT ON VIEW pgbus.pending IS 'Every run of events that is owed to a listener, and its state';

COMMENT ON COLUMN pgbus.pending.listener_name IS 'Name of the listener';

COMMENT ON COLUMN pgbus.pending.delivery_id IS 'Id of the delivery';

COMMENT ON COLUMN pgbus.pending.first_position IS 'Position of the first event';

COMMENT ON COLUMN pgbus.pending.last_position IS 'Position of the last event';

COMMENT ON COLUMN pgbus.pending.events IS 'Number of events';

COMMENT ON COLUMN pgbus.pending.attempt IS 'Number of the next or current attempt, from 1';

COMMENT ON COLUMN pgbus.pending.available_at IS 'It waits until then; NULL: ready since it was logged';

COMMENT ON COLUMN pgbus.pending.worker IS 'Worker that handles it; NULL: none';

COMMENT ON COLUMN pgbus.pending.lease_expires_at IS 'When the claim of that worker ends, unless it is extended';

COMMENT ON COLUMN pgbus.pending.blocked_key IS 'Key of the dead letter for which it waits; NULL: none';

COMMENT ON COLUMN pgbus.pending.last_error IS 'Error of the last attempt; NULL: none';

COMMENT ON COLUMN pgbus.pending.state IS 'waiting, in flight, retrying, blocked (by a dead letter) or parked (left to workers of another version)';

CREATE TABLE pgbus.received (
    source text NOT NULL,
    message_id text NOT NULL,
    relay text NOT NULL,
    received_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    event_id uuid,
    refused text,
    body bytea,
    CONSTRAINT received_is_an_event_or_refused CHECK ((((event_id IS NULL) = (refused IS NOT NULL)) AND ((refused IS NULL) = (body IS NULL))))
);

COMMENT ON TABLE pgbus.received IS 'One row per message that a relay has received: the event that it became, or why it was refused';

COMMENT ON COLUMN pgbus.received.source IS 'Source of a CloudEvent, or the relay and the place it reads';

COMMENT ON COLUMN pgbus.received.message_id IS 'Id of the message at its source';

COMMENT ON COLUMN pgbus.received.relay IS 'Name of the relay';

COMMENT ON COLUMN pgbus.received.received_at IS 'When the relay received it';

COMMENT ON COLUMN pgbus.received.event_id IS 'Event that it became; NULL: refused';

COMMENT ON COLUMN pgbus.received.refused IS 'Why it is not an event; NULL: it is one';

COMMENT ON COLUMN pgbus.received.body IS 'The message, if it was refused';

CREATE TABLE pgbus.route_changes (
    listener_id integer NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='100');

ALTER TABLE ONLY pgbus.route_changes REPLICA IDENTITY FULL;

COMMENT ON TABLE pgbus.route_changes IS 'Changes of listeners and subscriptions that the leader has yet to read';

COMMENT ON COLUMN pgbus.route_changes.listener_id IS 'Listener that changed';

CREATE TABLE pgbus.rpc_requests (
    call_id uuid NOT NULL,
    procedure pgbus.procedure NOT NULL,
    arguments json NOT NULL,
    caller pgbus.caller NOT NULL,
    caller_name pgbus.caller_name NOT NULL,
    requested_at pgbus.instant DEFAULT clock_timestamp() NOT NULL,
    deadline pgbus.deadline NOT NULL,
    taken_at pgbus.instant,
    worker_id integer,
    headers pgbus.headers
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000', autovacuum_vacuum_insert_scale_factor='0', autovacuum_vacuum_insert_threshold='100000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='100000', autovacuum_vacuum_cost_delay='0');

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

CREATE VIEW pgbus.rpc_calls AS
 SELECT r.call_id,
    r.procedure,
    r.arguments,
    r.headers,
    r.caller_name AS caller,
    r.requested_at,
    r.deadline,
        CASE
            WHEN (r.worker_id IS NOT NULL) THEN (r.taken_at)::timestamp with time zone
            ELSE NULL::timestamp with time zone
        END AS started_at,
    COALESCE(a.worker, w.name) AS worker,
        CASE
            WHEN (a.call_id IS NOT NULL) THEN a.outcome
            WHEN (((r.deadline)::timestamp with time zone > clock_timestamp()) AND (r.worker_id IS NOT NULL)) THEN 'running'::text
            WHEN ((r.deadline)::timestamp with time zone > clock_timestamp()) THEN 'waiting'::text
            WHEN (r.worker_id IS NOT NULL) THEN 'lost'::text
            ELSE 'expired'::text
        END AS state,
    a.result,
    a.error_type,
    a.error,
    a.traceback,
    a.responded_at,
        CASE
            WHEN (r.worker_id IS NOT NULL) THEN (EXTRACT(epoch FROM ((a.responded_at)::timestamp with time zone - (r.taken_at)::timestamp with time zone)))::double precision
            ELSE NULL::double precision
        END AS duration
   FROM ((pgbus.rpc_requests r
     LEFT JOIN pgbus.rpc_responses a ON ((a.call_id = r.call_id)))
     LEFT JOIN pgbus.workers w ON ((w.id = r.worker_id)));

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

CREATE TABLE pgbus.rpc_servers (
    worker_id integer NOT NULL,
    procedure text NOT NULL,
    concurrency integer NOT NULL,
    timeout double precision,
    CONSTRAINT rpc_servers_numbers_are_positive CHECK (((concurrency > 0) AND (timeout > (0)::double precision))),
    CONSTRAINT rpc_servers_procedure_is_short CHECK (((length(procedure) >= 1) AND (length(procedure) <= 255)))
);

COMMENT ON TABLE pgbus.rpc_servers IS 'Procedures that workers serve; a row counts while its worker is alive';

COMMENT ON COLUMN pgbus.rpc_servers.worker_id IS 'Worker, in workers';

COMMENT ON COLUMN pgbus.rpc_servers.procedure IS 'Full name of the procedure';

COMMENT ON COLUMN pgbus.rpc_servers.concurrency IS 'Calls that the worker runs at once';

COMMENT ON COLUMN pgbus.rpc_servers.timeout IS 'Seconds that a call without a timeout waits; NULL: the caller''s setting';

CREATE VIEW pgbus.running AS
 SELECT r.kind,
    r.name,
    w.name AS worker,
    r.id,
    r."position",
    r.topic,
    r.key,
    COALESCE(r.events, 1) AS events,
    COALESCE(r.attempt, 1) AS attempt,
    (w.last_seen_at - (r.age * '00:00:01'::interval)) AS started_at,
    w.last_seen_at AS reported_at
   FROM ((pgbus.live_workers l
     JOIN pgbus.workers w ON ((w.id = l.id)))
     CROSS JOIN LATERAL jsonb_to_recordset(w.running) r(kind text, name text, id uuid, "position" bigint, topic text, key text, events integer, attempt integer, age double precision));

COMMENT ON VIEW pgbus.running IS 'Calls of handlers, procedures and tasks that have run for a second or more, as the live workers reported last';

COMMENT ON COLUMN pgbus.running.kind IS 'listener, procedure or schedule';

COMMENT ON COLUMN pgbus.running.name IS 'Name of the listener, procedure or schedule';

COMMENT ON COLUMN pgbus.running.worker IS 'Name of the worker';

COMMENT ON COLUMN pgbus.running.id IS 'Event id, call id or run id';

COMMENT ON COLUMN pgbus.running."position" IS 'Position of the event; NULL: not an event';

COMMENT ON COLUMN pgbus.running.topic IS 'Topic of the event; NULL: not an event';

COMMENT ON COLUMN pgbus.running.key IS 'Key of the event; NULL: none';

COMMENT ON COLUMN pgbus.running.events IS 'Number of events in the call of the handler; 1 for all other calls';

COMMENT ON COLUMN pgbus.running.attempt IS 'Number of the attempt, from 1';

COMMENT ON COLUMN pgbus.running.started_at IS 'When it was called';

COMMENT ON COLUMN pgbus.running.reported_at IS 'When the worker reported it; it may have ended since';

CREATE TABLE pgbus.schedule_runs (
    run_id uuid NOT NULL,
    schedule_name text NOT NULL,
    due_at timestamp with time zone NOT NULL,
    attempt integer NOT NULL,
    worker text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    outcome text,
    error text,
    CONSTRAINT schedule_runs_end_is_whole CHECK (((outcome IS NULL) = (finished_at IS NULL))),
    CONSTRAINT schedule_runs_failure_says_why CHECK (((outcome <> 'failed'::text) OR (error IS NOT NULL))),
    CONSTRAINT schedule_runs_outcome_is_known CHECK ((outcome = ANY (ARRAY['done'::text, 'failed'::text, 'skipped'::text, 'lost'::text, 'cancelled'::text])))
);

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

CREATE VIEW pgbus.schedule_history AS
 SELECT run_id,
    schedule_name,
    due_at,
    attempt,
    worker,
    started_at,
    finished_at,
    (EXTRACT(epoch FROM (finished_at - started_at)))::double precision AS duration,
    COALESCE(outcome, 'running'::text) AS outcome,
    error
   FROM pgbus.schedule_runs r;

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

CREATE VIEW pgbus.scheduled AS
 SELECT event_id,
    topic,
    key,
    payload,
    headers,
    published_at,
    published_by,
    deliver_at
   FROM pgbus.outbox
  WHERE (deliver_at IS NOT NULL);

COMMENT ON VIEW pgbus.scheduled IS 'Events that wait for their deliver_at';

COMMENT ON COLUMN pgbus.scheduled.event_id IS 'Id of the event, a UUIDv7; unique in practice, and the same at every attempt';

COMMENT ON COLUMN pgbus.scheduled.topic IS 'Dotted name under which it was published';

COMMENT ON COLUMN pgbus.scheduled.key IS 'Groups events: an ordered listener handles those with one key in order; NULL: no key';

COMMENT ON COLUMN pgbus.scheduled.payload IS 'The data of the event, a JSON object';

COMMENT ON COLUMN pgbus.scheduled.headers IS 'Strings that are stored in addition to the payload, a JSON object; NULL: none';

COMMENT ON COLUMN pgbus.scheduled.published_at IS 'When the publisher called publish, by the database clock';

COMMENT ON COLUMN pgbus.scheduled.published_by IS 'Service that published it; the database user where no service is set';

COMMENT ON COLUMN pgbus.scheduled.deliver_at IS 'The event enters the log no sooner than this';

CREATE TABLE pgbus.schedules (
    id integer NOT NULL,
    schedule_name text NOT NULL,
    rule text NOT NULL,
    missed text DEFAULT 'once'::text NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    service text DEFAULT ''::text NOT NULL,
    next_run_at timestamp with time zone,
    attempt integer DEFAULT 0 NOT NULL,
    claim_token uuid,
    worker_id integer,
    lease_expires_at timestamp with time zone,
    registered_at timestamp with time zone DEFAULT now() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT schedules_attempt_counts CHECK ((attempt >= 0)),
    CONSTRAINT schedules_claim_is_of_a_run CHECK (((claim_token IS NULL) OR (next_run_at IS NOT NULL))),
    CONSTRAINT schedules_claim_is_whole CHECK ((((claim_token IS NULL) = (worker_id IS NULL)) AND ((claim_token IS NULL) = (lease_expires_at IS NULL)))),
    CONSTRAINT schedules_missed_is_known CHECK ((missed = ANY (ARRAY['once'::text, 'skip'::text, 'all'::text]))),
    CONSTRAINT schedules_name_is_short CHECK (((length(schedule_name) >= 1) AND (length(schedule_name) <= 255))),
    CONSTRAINT schedules_state_is_known CHECK ((state = ANY (ARRAY['active'::text, 'paused'::text])))
);

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

ALTER TABLE pgbus.schedules ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pgbus.schedules_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE pgbus.schemas (
    id integer NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    service text DEFAULT ''::text NOT NULL,
    version integer NOT NULL,
    schema jsonb NOT NULL,
    hash text NOT NULL,
    about jsonb DEFAULT '{}'::jsonb NOT NULL,
    first_seen_at pgbus.instant DEFAULT now() NOT NULL,
    published_at pgbus.instant DEFAULT now() NOT NULL,
    last_seen_at pgbus.instant DEFAULT now() NOT NULL,
    CONSTRAINT schemas_about_is_short CHECK (((jsonb_typeof(about) = 'object'::text) AND (pg_column_size(about) <= 65536))),
    CONSTRAINT schemas_kind_is_known CHECK ((kind = ANY (ARRAY['event'::text, 'procedure'::text, 'listener'::text]))),
    CONSTRAINT schemas_name_is_short CHECK (((length(name) >= 1) AND (length(name) <= 255))),
    CONSTRAINT schemas_schema_is_whole CHECK ((
CASE kind
    WHEN 'event'::text THEN (jsonb_typeof((schema -> 'parameters'::text)) = ANY (ARRAY['object'::text, 'boolean'::text]))
    WHEN 'procedure'::text THEN ((jsonb_typeof((schema -> 'parameters'::text)) = ANY (ARRAY['object'::text, 'boolean'::text])) AND (jsonb_typeof((schema -> 'response'::text)) = ANY (ARRAY['object'::text, 'boolean'::text])))
    ELSE (jsonb_typeof((schema -> 'events'::text)) = 'object'::text)
END IS TRUE)),
    CONSTRAINT schemas_seen_in_order CHECK ((((first_seen_at)::timestamp with time zone <= (published_at)::timestamp with time zone) AND ((published_at)::timestamp with time zone <= (last_seen_at)::timestamp with time zone))),
    CONSTRAINT schemas_version_is_positive CHECK ((version > 0))
);

COMMENT ON TABLE pgbus.schemas IS 'Every version of every schema of a service';

COMMENT ON COLUMN pgbus.schemas.id IS 'Id in worker_schemas';

COMMENT ON COLUMN pgbus.schemas.kind IS 'event, procedure or listener';

COMMENT ON COLUMN pgbus.schemas.name IS 'A topic, the full name of a procedure, or the name of a listener';

COMMENT ON COLUMN pgbus.schemas.service IS 'Service that declares it';

COMMENT ON COLUMN pgbus.schemas.version IS 'Counts the changes of the declaration by its service, from 1; a declaration that returns keeps its number';

COMMENT ON COLUMN pgbus.schemas.schema IS 'JSON Schema (2020-12) of the parameters, the response, or the events that a handler takes';

COMMENT ON COLUMN pgbus.schemas.hash IS 'SHA-256 of the schema, as hexadecimal digits';

COMMENT ON COLUMN pgbus.schemas.about IS 'owner, description and links, as the service declared them last; a JSON object';

COMMENT ON COLUMN pgbus.schemas.first_seen_at IS 'When a process first published it';

COMMENT ON COLUMN pgbus.schemas.published_at IS 'When a process last started with it: the newest of a name is current';

COMMENT ON COLUMN pgbus.schemas.last_seen_at IS 'When a live worker used it last';

CREATE TABLE pgbus.worker_schemas (
    worker_id integer NOT NULL,
    schema_id integer NOT NULL
);

COMMENT ON TABLE pgbus.worker_schemas IS 'Versions of schemas that each worker uses';

COMMENT ON COLUMN pgbus.worker_schemas.worker_id IS 'Worker, in workers';

COMMENT ON COLUMN pgbus.worker_schemas.schema_id IS 'Version, in schemas';

CREATE VIEW pgbus.schema_versions AS
 SELECT s.id,
    s.kind,
    s.name,
        CASE
            WHEN (s.kind <> 'listener'::text) THEN COALESCE("substring"(s.name, '^(.*)[.]'::text), ''::text)
            ELSE NULL::text
        END AS api,
    s.service,
    s.version,
    s.schema,
    s.hash,
    COALESCE((s.about ->> 'owner'::text), ''::text) AS owner,
    COALESCE((s.about ->> 'description'::text), ''::text) AS description,
    COALESCE((s.about -> 'links'::text), '{}'::jsonb) AS links,
    s.first_seen_at,
    s.published_at,
    s.last_seen_at,
    (live.workers IS NOT NULL) AS is_live,
    COALESCE(live.workers, '{}'::text[]) AS workers
   FROM (pgbus.schemas s
     LEFT JOIN ( SELECT x.schema_id,
            array_agg(w.name ORDER BY w.name) AS workers
           FROM (pgbus.worker_schemas x
             JOIN pgbus.live_workers w ON ((w.id = x.worker_id)))
          GROUP BY x.schema_id) live ON ((live.schema_id = s.id)));

COMMENT ON VIEW pgbus.schema_versions IS 'Every version of every schema, and the live workers that use it';

COMMENT ON COLUMN pgbus.schema_versions.id IS 'Id of the version';

COMMENT ON COLUMN pgbus.schema_versions.kind IS 'event, procedure or listener';

COMMENT ON COLUMN pgbus.schema_versions.name IS 'A topic, the full name of a procedure, or the name of a listener';

COMMENT ON COLUMN pgbus.schema_versions.api IS 'Name without its last word; NULL for a listener';

COMMENT ON COLUMN pgbus.schema_versions.service IS 'Service that declares it';

COMMENT ON COLUMN pgbus.schema_versions.version IS 'Counts the changes of the declaration by its service, from 1; a declaration that returns keeps its number';

COMMENT ON COLUMN pgbus.schema_versions.schema IS 'JSON Schema (2020-12) of the parameters, the response, or the events that a handler takes';

COMMENT ON COLUMN pgbus.schema_versions.hash IS 'SHA-256 of the schema, as hexadecimal digits';

COMMENT ON COLUMN pgbus.schema_versions.owner IS 'Owner, as the service declares it; empty: none';

COMMENT ON COLUMN pgbus.schema_versions.description IS 'Description, as the service declares it; empty: none';

COMMENT ON COLUMN pgbus.schema_versions.links IS 'Titles and URLs, a JSON object';

COMMENT ON COLUMN pgbus.schema_versions.first_seen_at IS 'When a process first published it';

COMMENT ON COLUMN pgbus.schema_versions.published_at IS 'When a process last started with it: the newest of a name is current';

COMMENT ON COLUMN pgbus.schema_versions.last_seen_at IS 'When a live worker used it last';

COMMENT ON COLUMN pgbus.schema_versions.is_live IS 'Whether a live worker uses it';

COMMENT ON COLUMN pgbus.schema_versions.workers IS 'Names of the live workers that use it';

ALTER TABLE pgbus.schemas ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pgbus.schemas_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE pgbus.subscriptions (
    listener_id integer NOT NULL,
    pattern text NOT NULL,
    regex text
);

COMMENT ON TABLE pgbus.subscriptions IS 'Topics and patterns that each listener hears';

COMMENT ON COLUMN pgbus.subscriptions.listener_id IS 'Listener, in listeners';

COMMENT ON COLUMN pgbus.subscriptions.pattern IS 'Topic, or pattern with * for one word and ** for any number';

COMMENT ON COLUMN pgbus.subscriptions.regex IS 'The pattern as a regular expression; NULL for a topic';

CREATE VIEW pgbus.timetable AS
 SELECT s.schedule_name,
    s.rule,
    s.missed,
    s.state,
    s.service,
        CASE
            WHEN (s.claim_token IS NULL) THEN s.next_run_at
            ELSE NULL::timestamp with time zone
        END AS next_run_at,
    (s.claim_token IS NOT NULL) AS running,
        CASE
            WHEN (s.claim_token IS NOT NULL) THEN newest.worker
            ELSE NULL::text
        END AS running_on,
    newest.started_at AS last_started_at,
    newest.outcome AS last_outcome,
    newest.duration AS last_duration,
    newest.error AS last_error,
    s.registered_at,
    s.last_seen_at
   FROM (pgbus.schedules s
     LEFT JOIN LATERAL ( SELECT h.worker,
            h.started_at,
            h.outcome,
            h.duration,
            h.error
           FROM pgbus.schedule_history h
          WHERE (h.schedule_name = s.schedule_name)
          ORDER BY h.started_at DESC
         LIMIT 1) newest ON (true));

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

ALTER TABLE pgbus.workers ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pgbus.workers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY pgbus.causes ATTACH PARTITION pgbus.causes_p0 FOR VALUES FROM ('0') TO ('1000000000');

ALTER TABLE ONLY pgbus.events ATTACH PARTITION pgbus.events_p0 FOR VALUES FROM ('0') TO ('1000000000');

ALTER TABLE ONLY pgbus.history ATTACH PARTITION pgbus.history_p0 FOR VALUES FROM ('0') TO ('1000000000');

ALTER TABLE ONLY pgbus.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY pgbus.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);

ALTER TABLE ONLY pgbus.dedup_keys
    ADD CONSTRAINT dedup_keys_pkey PRIMARY KEY (dedup_key);

ALTER TABLE ONLY pgbus.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (id);

ALTER TABLE ONLY pgbus.events
    ADD CONSTRAINT events_pkey PRIMARY KEY ("position");

ALTER TABLE ONLY pgbus.events_p0
    ADD CONSTRAINT events_p0_pkey PRIMARY KEY ("position");

ALTER TABLE ONLY pgbus.identity
    ADD CONSTRAINT identity_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY pgbus.installation
    ADD CONSTRAINT installation_pkey PRIMARY KEY (is_one);

ALTER TABLE ONLY pgbus.listeners
    ADD CONSTRAINT listeners_listener_name_key UNIQUE (listener_name);

ALTER TABLE ONLY pgbus.listeners
    ADD CONSTRAINT listeners_pkey PRIMARY KEY (id);

ALTER TABLE ONLY pgbus.operation_steps
    ADD CONSTRAINT operation_steps_pkey PRIMARY KEY (id);

ALTER TABLE ONLY pgbus.operations
    ADD CONSTRAINT operations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY pgbus.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY pgbus.partitions
    ADD CONSTRAINT partitions_pkey PRIMARY KEY (number);

ALTER TABLE ONLY pgbus.received
    ADD CONSTRAINT received_pkey PRIMARY KEY (source, message_id);

ALTER TABLE ONLY pgbus.removed_listeners
    ADD CONSTRAINT removed_listeners_pkey PRIMARY KEY (id);

ALTER TABLE ONLY pgbus.rpc_requests
    ADD CONSTRAINT rpc_requests_pkey PRIMARY KEY (call_id);

ALTER TABLE ONLY pgbus.rpc_responses
    ADD CONSTRAINT rpc_responses_pkey PRIMARY KEY (call_id);

ALTER TABLE ONLY pgbus.rpc_servers
    ADD CONSTRAINT rpc_servers_pkey PRIMARY KEY (procedure, worker_id);

ALTER TABLE ONLY pgbus.schedule_runs
    ADD CONSTRAINT schedule_runs_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY pgbus.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (id);

ALTER TABLE ONLY pgbus.schedules
    ADD CONSTRAINT schedules_schedule_name_key UNIQUE (schedule_name);

ALTER TABLE ONLY pgbus.schemas
    ADD CONSTRAINT schemas_kind_name_service_hash_key UNIQUE (kind, name, service, hash);

ALTER TABLE ONLY pgbus.schemas
    ADD CONSTRAINT schemas_kind_name_service_version_key UNIQUE (kind, name, service, version);

ALTER TABLE ONLY pgbus.schemas
    ADD CONSTRAINT schemas_pkey PRIMARY KEY (id);

ALTER TABLE ONLY pgbus.subscriptions
    ADD CONSTRAINT subscriptions_pkey PRIMARY KEY (listener_id, pattern);

ALTER TABLE ONLY pgbus.worker_schemas
    ADD CONSTRAINT worker_schemas_pkey PRIMARY KEY (worker_id, schema_id);

ALTER TABLE ONLY pgbus.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);

CREATE INDEX causes_correlation_id ON ONLY pgbus.causes USING btree (correlation_id);

CREATE INDEX causes_p0_correlation_id_idx ON pgbus.causes_p0 USING btree (correlation_id);

CREATE INDEX dead_letters_blocked ON pgbus.dead_letters USING btree (listener_id, blocked_key) WHERE (blocked_key IS NOT NULL);

CREATE INDEX dead_letters_fingerprint ON pgbus.dead_letters USING btree (listener_id, fingerprint);

CREATE INDEX dead_letters_listener ON pgbus.dead_letters USING btree (listener_id, dead_at);

CREATE INDEX dead_letters_position ON pgbus.dead_letters USING btree ("position");

CREATE INDEX declarations_listener ON pgbus.declarations USING btree (listener_id);

CREATE INDEX dedup_keys_event_id ON pgbus.dedup_keys USING btree (event_id);

CREATE INDEX dedup_keys_expires_at ON pgbus.dedup_keys USING btree (expires_at);

CREATE INDEX deliveries_blocked ON pgbus.deliveries USING btree (listener_id, blocked_key) WHERE (blocked_key IS NOT NULL);

CREATE INDEX deliveries_claimed ON pgbus.deliveries USING btree (lease_expires_at) WHERE (claim_token IS NOT NULL);

CREATE INDEX deliveries_due ON pgbus.deliveries USING btree (listener_id, available_at) WHERE ((claim_token IS NULL) AND (available_at IS NOT NULL) AND (lane IS NULL));

CREATE INDEX deliveries_lane_claims ON pgbus.deliveries USING btree (listener_id, lane, first) WHERE ((lane IS NOT NULL) AND (worker_id IS NOT NULL) AND (available_at IS NULL));

CREATE INDEX deliveries_lane_claims_due ON pgbus.deliveries USING btree (listener_id, lane) WHERE ((lane IS NOT NULL) AND (worker_id IS NOT NULL) AND (available_at IS NOT NULL));

CREATE INDEX deliveries_lanes ON pgbus.deliveries USING btree (listener_id, lane, first) WHERE ((lane IS NOT NULL) AND (blocked_key IS NULL));

CREATE INDEX deliveries_lanes_due ON pgbus.deliveries USING btree (listener_id, lane, first) WHERE ((lane IS NOT NULL) AND (blocked_key IS NULL) AND (available_at IS NOT NULL));

CREATE INDEX deliveries_ready ON pgbus.deliveries USING btree (listener_id, first) WHERE ((claim_token IS NULL) AND (available_at IS NULL) AND (lane IS NULL));

CREATE INDEX events_event_id ON ONLY pgbus.events USING btree (event_id);

CREATE INDEX events_key ON ONLY pgbus.events USING btree (key, "position") WHERE (key IS NOT NULL);

CREATE INDEX events_logged_at ON ONLY pgbus.events USING brin (logged_at) WITH (pages_per_range='32');

CREATE INDEX events_p0_event_id_idx ON pgbus.events_p0 USING btree (event_id);

CREATE INDEX events_p0_key_position_idx ON pgbus.events_p0 USING btree (key, "position") WHERE (key IS NOT NULL);

CREATE INDEX events_p0_logged_at_idx ON pgbus.events_p0 USING brin (logged_at) WITH (pages_per_range='32');

CREATE INDEX history_run_block ON ONLY pgbus.history USING btree (pgbus.run_block(first, span));

CREATE INDEX history_p0_run_block_idx ON pgbus.history_p0 USING btree (pgbus.run_block(first, span));

CREATE INDEX history_started_at ON ONLY pgbus.history USING brin (started_at) WITH (pages_per_range='32');

CREATE INDEX history_p0_started_at_idx ON pgbus.history_p0 USING brin (started_at) WITH (pages_per_range='32');

CREATE INDEX operation_items_operation ON pgbus.operation_items USING btree (operation_id);

CREATE INDEX operation_items_position ON pgbus.operation_items USING btree ("position");

CREATE INDEX operation_steps_operation ON pgbus.operation_steps USING btree (operation_id);

CREATE INDEX operations_running ON pgbus.operations USING btree (id) WHERE (state = 'running'::text);

CREATE INDEX outbox_scheduled ON pgbus.outbox USING btree (deliver_at) WHERE (deliver_at IS NOT NULL);

CREATE INDEX outbox_scheduled_event ON pgbus.outbox USING btree (event_id) WHERE (deliver_at IS NOT NULL);

CREATE INDEX received_received_at ON pgbus.received USING btree (received_at) WHERE (refused IS NULL);

CREATE INDEX received_refused ON pgbus.received USING btree (received_at) WHERE (refused IS NOT NULL);

CREATE INDEX rpc_requests_correlation ON pgbus.rpc_requests USING btree (pgbus.correlation_of(call_id, (headers)::jsonb)) WHERE (headers IS NOT NULL);

CREATE INDEX rpc_requests_deadline ON pgbus.rpc_requests USING brin (deadline) WITH (pages_per_range='32');

CREATE INDEX rpc_requests_waiting ON pgbus.rpc_requests USING btree (procedure, requested_at) WHERE (taken_at IS NULL);

CREATE INDEX rpc_responses_errors ON pgbus.rpc_responses USING btree (call_id) WHERE (error IS NOT NULL);

CREATE INDEX rpc_servers_worker ON pgbus.rpc_servers USING btree (worker_id);

CREATE INDEX schedule_runs_age ON pgbus.schedule_runs USING btree (started_at);

CREATE INDEX schedule_runs_newest ON pgbus.schedule_runs USING btree (schedule_name, started_at);

CREATE INDEX schedules_claimed ON pgbus.schedules USING btree (claim_token) WHERE (claim_token IS NOT NULL);

CREATE INDEX worker_schemas_schema ON pgbus.worker_schemas USING btree (schema_id);

ALTER INDEX pgbus.causes_correlation_id ATTACH PARTITION pgbus.causes_p0_correlation_id_idx;

ALTER INDEX pgbus.events_event_id ATTACH PARTITION pgbus.events_p0_event_id_idx;

ALTER INDEX pgbus.events_key ATTACH PARTITION pgbus.events_p0_key_position_idx;

ALTER INDEX pgbus.events_logged_at ATTACH PARTITION pgbus.events_p0_logged_at_idx;

ALTER INDEX pgbus.events_pkey ATTACH PARTITION pgbus.events_p0_pkey;

ALTER INDEX pgbus.history_run_block ATTACH PARTITION pgbus.history_p0_run_block_idx;

ALTER INDEX pgbus.history_started_at ATTACH PARTITION pgbus.history_p0_started_at_idx;

CREATE TRIGGER listener_came_or_went AFTER INSERT OR DELETE ON pgbus.listeners FOR EACH ROW EXECUTE FUNCTION pgbus.note_listener_change();

CREATE TRIGGER listener_changed AFTER UPDATE ON pgbus.listeners FOR EACH ROW WHEN (((old.state <> new.state) OR (old.lanes IS DISTINCT FROM new.lanes) OR ((old.cursor IS NULL) <> (new.cursor IS NULL)))) EXECUTE FUNCTION pgbus.note_listener_change();

CREATE TRIGGER listener_removed AFTER DELETE ON pgbus.listeners FOR EACH ROW EXECUTE FUNCTION pgbus.note_listener_removal();

CREATE TRIGGER subscription_changed AFTER INSERT OR DELETE OR UPDATE ON pgbus.subscriptions FOR EACH ROW EXECUTE FUNCTION pgbus.note_subscription_change();

ALTER TABLE ONLY pgbus.dead_letters
    ADD CONSTRAINT dead_letters_listener_id_fkey FOREIGN KEY (listener_id) REFERENCES pgbus.listeners(id) ON DELETE CASCADE;

ALTER TABLE ONLY pgbus.declarations
    ADD CONSTRAINT declarations_listener_id_fkey FOREIGN KEY (listener_id) REFERENCES pgbus.listeners(id) ON DELETE CASCADE;

ALTER TABLE ONLY pgbus.operation_items
    ADD CONSTRAINT operation_items_operation_id_fkey FOREIGN KEY (operation_id) REFERENCES pgbus.operations(id);

ALTER TABLE ONLY pgbus.operation_steps
    ADD CONSTRAINT operation_steps_operation_id_fkey FOREIGN KEY (operation_id) REFERENCES pgbus.operations(id);

ALTER TABLE ONLY pgbus.rpc_servers
    ADD CONSTRAINT rpc_servers_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES pgbus.workers(id) ON DELETE CASCADE;

ALTER TABLE ONLY pgbus.subscriptions
    ADD CONSTRAINT subscriptions_listener_id_fkey FOREIGN KEY (listener_id) REFERENCES pgbus.listeners(id) ON DELETE CASCADE;

ALTER TABLE ONLY pgbus.worker_schemas
    ADD CONSTRAINT worker_schemas_schema_id_fkey FOREIGN KEY (schema_id) REFERENCES pgbus.schemas(id) ON DELETE CASCADE;

ALTER TABLE ONLY pgbus.worker_schemas
    ADD CONSTRAINT worker_schemas_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES pgbus.workers(id) ON DELETE CASCADE;
