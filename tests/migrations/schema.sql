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
	CONSTRAINT headers_are_strings CHECK (((jsonb_typeof(VALUE) = 'object'::text) AND (NOT jsonb_path_exists(VALUE, 'strict $.*?(@.type() != "string")'::jsonpath, '{}'::jsonb, true))));

CREATE DOMAIN pgbus.instant AS timestamp with time zone
	CONSTRAINT instant_is_in_years_1_to_9999 CHECK (((VALUE >= to_timestamp(('-62135596800'::bigint)::double precision)) AND (VALUE < to_timestamp(('253402300800'::bigint)::double precision))));

CREATE DOMAIN pgbus.key AS text
	CONSTRAINT key_is_short CHECK (((length(VALUE) >= 1) AND (length(VALUE) <= 255)));

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

CREATE FUNCTION pgbus.begin_operation(verb text, filter jsonb DEFAULT '{}'::jsonb, reason text DEFAULT NULL::text, person text DEFAULT NULL::text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    bounds record;
    number bigint;
BEGIN
    bounds := pgbus.operation_range(verb, filter);
    INSERT INTO pgbus.operations AS o (verb, filter, reason, person, requested_by, matched, progress, last)
    VALUES (verb, filter, reason, person, session_user,
            (SELECT p.matched FROM pgbus.preview_operation(verb, filter, 0) AS p), bounds.low, bounds.high)
    RETURNING o.id INTO number;
    RETURN number;
END
$$;

CREATE FUNCTION pgbus.cancel_operation(number bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    UPDATE pgbus.operations AS x
    SET state = 'cancelled', finished_at = clock_timestamp(), ended_by = session_user
    WHERE x.id = number AND x.state = 'running';
    IF NOT FOUND AND NOT EXISTS (SELECT FROM pgbus.operations AS x WHERE x.id = number) THEN
        RAISE EXCEPTION 'there is no operation %', number USING ERRCODE = 'undefined_object';
    END IF;
    RETURN FOUND;
END
$$;

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
    ended_by text,
    CONSTRAINT operations_end_is_whole CHECK (((state = 'running'::text) = (finished_at IS NULL))),
    CONSTRAINT operations_state_is_known CHECK ((state = ANY (ARRAY['running'::text, 'done'::text, 'cancelled'::text]))),
    CONSTRAINT operations_texts_are_short CHECK (((length(reason) <= 1000) AND (length(person) <= 255)))
);

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

CREATE FUNCTION pgbus.correlation_of(id uuid, headers jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT COALESCE(NULLIF(left(headers ->> 'correlation_id', 255), ''), CAST(id AS text))
$$;

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

CREATE FUNCTION pgbus.event_blocks("position" bigint) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT ARRAY["position" << 2, (("position" >> 3) << 5) | 1, (("position" >> 6) << 8) | 2]
$$;

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

CREATE FUNCTION pgbus.filter_accepts(filter jsonb, listener_name text, topic text, ancestors text[], key text, payload jsonb, error text, fingerprint text, at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
    SELECT (filter ->> 'listener' IS NULL OR listener_name = filter ->> 'listener')
       AND (filter ->> 'topic' IS NULL
            OR topic || '.' ~ pgbus.pattern_regex(filter ->> 'topic')
            OR EXISTS (SELECT FROM unnest(ancestors) AS a (name) WHERE a.name || '.' ~ pgbus.pattern_regex(filter ->> 'topic')))
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

CREATE FUNCTION pgbus.find_heard(filter jsonb, low bigint, high bigint, batch bigint) RETURNS TABLE("position" bigint, event_id uuid, topic text, key text, at timestamp with time zone)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    SELECT e.position, e.event_id, e.topic, e.key, e.logged_at
    FROM pgbus.events AS e
    WHERE e.position > low AND e.position <= high
      AND EXISTS (
          SELECT FROM pgbus.subscriptions AS s
          JOIN pgbus.listeners AS l ON l.id = s.listener_id
          WHERE l.listener_name = filter ->> 'listener'
            AND (s.pattern = e.topic OR s.pattern = ANY (e.ancestors)
                 OR e.topic || '.' ~ s.regex
                 OR EXISTS (SELECT FROM unnest(e.ancestors) AS a (name) WHERE a.name || '.' ~ s.regex)))
      AND pgbus.filter_accepts(filter - 'listener', NULL, e.topic, e.ancestors, e.key, e.payload, NULL, NULL, e.logged_at)
    ORDER BY e.position
    LIMIT batch
$$;

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

CREATE FUNCTION pgbus.has_error(error text, wanted text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT strpos(lower(error), lower(wanted)) > 0 OR pgbus.error_kind(error) = wanted
$$;

CREATE FUNCTION pgbus.note_listener_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO pgbus.route_changes VALUES (CASE TG_OP WHEN 'DELETE' THEN OLD.id ELSE NEW.id END);
    RETURN NULL;
END
$$;

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

CREATE FUNCTION pgbus.note_subscription_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO pgbus.route_changes VALUES (CASE TG_OP WHEN 'DELETE' THEN OLD.listener_id ELSE NEW.listener_id END);
    RETURN NULL;
END
$$;

CREATE FUNCTION pgbus.oldest_code() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT '0004' $$;

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

CREATE FUNCTION pgbus.operate_on_listener(o pgbus.operations) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    listener record;
    running text[];
    dropped bigint;
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
    SELECT COALESCE(sum(g.events), 0) INTO dropped FROM gone AS g;
    -- A reset to the past has these events heard again; otherwise there would be two dead letters of one.
    PERFORM pgbus.archive_dead_letters(o.id, ARRAY(
        SELECT x.id FROM pgbus.dead_letters AS x
        WHERE x.listener_id = listener.id AND (o.verb = 'remove' OR x.position > o.last) ORDER BY x.id FOR UPDATE));
    IF o.verb = 'remove' THEN
        DELETE FROM pgbus.listeners AS l WHERE l.id = listener.id;
    ELSE
        UPDATE pgbus.listeners AS l SET cursor = o.last + 1 WHERE l.id = listener.id;
    END IF;
    RETURN jsonb_build_object('deliveries_dropped', dropped, 'position', o.last + 1,
                              'dead_letters', (SELECT count(*) FROM pgbus.operation_items AS i WHERE i.operation_id = o.id));
END
$$;

CREATE FUNCTION pgbus.operate_on_schedule(o pgbus.operations) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    schedule record;
BEGIN
    SELECT s.schedule_name, s.state, s.claim_token, s.claim_token IS NOT NULL AS running,
           s.last_seen_at > now() - INTERVAL '1 minute' AND EXISTS (SELECT FROM pgbus.live_workers) AS declared
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
    RETURN jsonb_build_object('was', schedule.state);
END
$$;

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

CREATE FUNCTION pgbus.outbox_before_insert() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
    slot integer;
    xid  xid8;
BEGIN
    xid := pg_current_xact_id();
    slot := pg_sequence_last_value('pgbus.wake_slots'::regclass);
    -- NULL: this user may INSERT but not read the slot. Before PostgreSQL 18 that is an error.
    IF slot IS NULL
       OR clock_timestamp() - transaction_timestamp() > INTERVAL '1 second'
       OR current_setting('max_prepared_transactions') <> '0'
       OR NOT pg_try_advisory_xact_lock_shared(hashtext(TG_TABLE_SCHEMA || '.wake'), slot)
       OR slot <> pg_sequence_last_value('pgbus.wake_slots'::regclass) THEN
        PERFORM pg_notify(TG_TABLE_SCHEMA || '_wake', '');
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION pgbus.pattern_regex(pattern text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
    SELECT CASE WHEN bool_and(w.word ~ '^([A-Za-z0-9_-]+|[*]{1,2})$')
                THEN '^' || string_agg(CASE w.word WHEN '**' THEN '([A-Za-z0-9_-]+\.)*' WHEN '*' THEN '[A-Za-z0-9_-]+\.'
                                       ELSE w.word || '\.' END, '' ORDER BY w.place) || '$' END
    FROM string_to_table(pattern, '.') WITH ORDINALITY AS w (word, place)
$_$;

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
        SELECT count(*), COALESCE(jsonb_agg(to_jsonb(f) ORDER BY f.position) FILTER (WHERE f.place <= samples), '[]')
        INTO matched, sample
        FROM (SELECT x.*, row_number() OVER (ORDER BY x.position) AS place
              FROM pgbus.find_heard(filter, bounds.low, bounds.high, NULL) AS x) AS f;
    ELSE
        matched := 1;
        sample := jsonb_build_array(filter);
    END IF;
END
$$;

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

CREATE FUNCTION pgbus.read_responses(call_ids uuid[]) RETURNS SETOF pgbus.rpc_responses
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN QUERY SELECT a.* FROM pgbus.rpc_responses AS a WHERE a.call_id = ANY (call_ids);
END
$$;

CREATE FUNCTION pgbus.readable(instant timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN instant >= to_timestamp(-62135596800) AND instant < to_timestamp(253402300800) THEN instant END
$$;

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

CREATE FUNCTION pgbus.run_block(first bigint, span smallint) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN span = 0 THEN first << 2
                WHEN first >> 3 = (first + span) >> 3 THEN ((first >> 3) << 5) | 1
                ELSE ((first >> 6) << 8) | 2 END
$$;

CREATE FUNCTION pgbus.run_offsets(span smallint) RETURNS smallint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT (CAST('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,'
                 '39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63}' AS smallint[]))[1:span + 1]
$$;

CREATE FUNCTION pgbus.searchable(document json) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    AS $$
BEGIN
    RETURN CAST(document AS jsonb);
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

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

CREATE FUNCTION pgbus.uuid_or_null(value text) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
    SELECT CASE WHEN value ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' THEN CAST(value AS uuid) END
$_$;

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

COMMENT ON COLUMN pgbus.listeners.lanes IS 'NULL for a listener without order; else its number of lanes';

CREATE TABLE pgbus.removed_listeners (
    id integer NOT NULL,
    listener_name text NOT NULL,
    service text NOT NULL,
    registered_at timestamp with time zone NOT NULL,
    removed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

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

CREATE TABLE pgbus.dedup_keys (
    dedup_key text NOT NULL,
    event_id uuid NOT NULL,
    expires_at pgbus.instant NOT NULL,
    CONSTRAINT dedup_keys_key_is_short CHECK (((length(dedup_key) >= 1) AND (length(dedup_key) <= 255)))
);

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

CREATE TABLE pgbus.installation (
    is_one boolean DEFAULT true NOT NULL,
    system_identifier bigint NOT NULL,
    database bigint NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT installation_is_one CHECK (is_one)
);

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

ALTER TABLE pgbus.listeners ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pgbus.listeners_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

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
    w.leading_since
   FROM (pgbus.workers w
     JOIN pg_locks l ON (((l.locktype = 'advisory'::text) AND (l.database = ( SELECT d.oid
           FROM pg_database d
          WHERE (d.datname = current_database()))) AND ((l.classid)::bigint = ( SELECT ((hashtext(((n.nspname)::text || '.worker'::text)))::bigint & '4294967295'::bigint)
           FROM (pg_class c
             JOIN pg_namespace n ON ((n.oid = c.relnamespace)))
          WHERE (c.oid = ('pgbus.workers'::regclass)::oid))) AND ((l.objid)::bigint = w.id) AND (l.objsubid = 2) AND l.granted)));

COMMENT ON VIEW pgbus.live_workers IS 'The live workers';

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

ALTER TABLE pgbus.operations ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME pgbus.operations_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE pgbus.outbox (
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

CREATE TABLE pgbus.route_changes (
    listener_id integer NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='100');

ALTER TABLE ONLY pgbus.route_changes REPLICA IDENTITY FULL;

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

CREATE TABLE pgbus.rpc_servers (
    worker_id integer NOT NULL,
    procedure text NOT NULL,
    concurrency integer NOT NULL,
    timeout double precision,
    CONSTRAINT rpc_servers_numbers_are_positive CHECK (((concurrency > 0) AND (timeout > (0)::double precision))),
    CONSTRAINT rpc_servers_procedure_is_short CHECK (((length(procedure) >= 1) AND (length(procedure) <= 255)))
);

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

COMMENT ON COLUMN pgbus.schemas.hash IS 'SHA-256 of the schema, as hexadecimal digits';

CREATE TABLE pgbus.worker_schemas (
    worker_id integer NOT NULL,
    schema_id integer NOT NULL
);

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

CREATE SEQUENCE pgbus.wake_slots
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
    CYCLE;

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

CREATE UNIQUE INDEX deliveries_lane_claims ON pgbus.deliveries USING btree (listener_id, lane) WHERE ((lane IS NOT NULL) AND (claim_token IS NOT NULL));

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

CREATE INDEX operations_running ON pgbus.operations USING btree (id) WHERE (state = 'running'::text);

CREATE INDEX outbox_scheduled ON pgbus.outbox USING btree (deliver_at) WHERE (deliver_at IS NOT NULL);

CREATE INDEX outbox_scheduled_event ON pgbus.outbox USING btree (event_id) WHERE (deliver_at IS NOT NULL);

CREATE INDEX received_received_at ON pgbus.received USING btree (received_at) WHERE (refused IS NULL);

CREATE INDEX received_refused ON pgbus.received USING btree (received_at) WHERE (refused IS NOT NULL);

CREATE INDEX rpc_requests_correlation ON pgbus.rpc_requests USING btree (pgbus.correlation_of(call_id, (headers)::jsonb)) WHERE (headers IS NOT NULL);

CREATE INDEX rpc_requests_deadline ON pgbus.rpc_requests USING brin (deadline) WITH (pages_per_range='32');

CREATE INDEX rpc_requests_waiting ON pgbus.rpc_requests USING btree (procedure, requested_at) WHERE (taken_at IS NULL);

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

CREATE TRIGGER outbox_before_insert BEFORE INSERT ON pgbus.outbox FOR EACH STATEMENT EXECUTE FUNCTION pgbus.outbox_before_insert();

CREATE TRIGGER subscription_changed AFTER INSERT OR DELETE OR UPDATE ON pgbus.subscriptions FOR EACH ROW EXECUTE FUNCTION pgbus.note_subscription_change();

ALTER TABLE ONLY pgbus.dead_letters
    ADD CONSTRAINT dead_letters_listener_id_fkey FOREIGN KEY (listener_id) REFERENCES pgbus.listeners(id) ON DELETE CASCADE;

ALTER TABLE ONLY pgbus.declarations
    ADD CONSTRAINT declarations_listener_id_fkey FOREIGN KEY (listener_id) REFERENCES pgbus.listeners(id) ON DELETE CASCADE;

ALTER TABLE ONLY pgbus.operation_items
    ADD CONSTRAINT operation_items_operation_id_fkey FOREIGN KEY (operation_id) REFERENCES pgbus.operations(id);

ALTER TABLE ONLY pgbus.rpc_servers
    ADD CONSTRAINT rpc_servers_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES pgbus.workers(id) ON DELETE CASCADE;

ALTER TABLE ONLY pgbus.subscriptions
    ADD CONSTRAINT subscriptions_listener_id_fkey FOREIGN KEY (listener_id) REFERENCES pgbus.listeners(id) ON DELETE CASCADE;

ALTER TABLE ONLY pgbus.worker_schemas
    ADD CONSTRAINT worker_schemas_schema_id_fkey FOREIGN KEY (schema_id) REFERENCES pgbus.schemas(id) ON DELETE CASCADE;

ALTER TABLE ONLY pgbus.worker_schemas
    ADD CONSTRAINT worker_schemas_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES pgbus.workers(id) ON DELETE CASCADE;
