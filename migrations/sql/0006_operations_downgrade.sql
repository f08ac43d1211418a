DROP PROCEDURE pgbus.operate(text, jsonb, text, text, bigint, bigint);
DROP FUNCTION pgbus.pause_copy(), pgbus.find_paused_as_copy(), pgbus.find_installation(), pgbus.operate_adopt(),
              pgbus.operate_republish(pgbus.operations);
DROP FUNCTION pgbus.cancel_operation(bigint, text, text), pgbus.continue_operation(bigint, bigint),
              pgbus.resume_operation(bigint, text, text), pgbus.note_step(bigint, text, text, text),
              pgbus.operate_on_schedule(pgbus.operations), pgbus.operate_on_listener(pgbus.operations),
              pgbus.operate_replay(pgbus.operations, bigint), pgbus.operate_on_failures(pgbus.operations, bigint),
              pgbus.unblock_deliveries(integer[]), pgbus.subscribed(text), pgbus.archive_dead_letters(bigint, bigint[]),
              pgbus.begin_operation(text, jsonb, text, text), pgbus.preview_operation(text, jsonb, integer),
              pgbus.count_heard(jsonb, bigint, bigint), pgbus.find_heard(jsonb, bigint, bigint, bigint),
              pgbus.patterns_of(text), pgbus.operation_range(text, jsonb),
              pgbus.check_filter(text, jsonb), pgbus.place_in_log(text), pgbus.find_failures(text, jsonb, bigint, bigint),
              pgbus.filter_accepts(jsonb, text, text, text[], text, jsonb, text, text, timestamptz),
              pgbus.is_heard(text[], text, text, text[]), pgbus.topic_lines(text, text[]), pgbus.pattern_regex(text);
DROP VIEW pgbus.audit_trail;
DROP TABLE pgbus.installation, pgbus.operation_items, pgbus.operation_steps, pgbus.operations;
