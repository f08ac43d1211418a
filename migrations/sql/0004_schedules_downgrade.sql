DROP VIEW pgbus.timetable, pgbus.schedule_history;
DROP TABLE pgbus.schedule_runs, pgbus.schedules;
CREATE OR REPLACE FUNCTION pgbus.oldest_code() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT '0003' $$;
