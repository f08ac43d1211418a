DROP VIEW pgbus.timetable, pgbus.schedule_history;
DROP TABLE pgbus.schedule_runs, pgbus.schedules;
