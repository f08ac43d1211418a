-- What holds for each row of history, whatever the engine does. The tests' databases check it at each statement.
ALTER TABLE pgbus.history
    ADD CONSTRAINT history_outcome_is_known CHECK (outcome IN ('done', 'retry', 'dead', 'discarded', 'skipped')),
    ADD CONSTRAINT history_run_is_in_one_block CHECK (span >= 0 AND first >> 6 = (first + span) >> 6),
    ADD CONSTRAINT history_only_what_is_done_is_a_run CHECK (span = 0 OR outcome = 'done'),
    ADD CONSTRAINT history_offsets_are_those_of_holes CHECK (
        offsets IS NULL
        OR (offsets[1] = 0 AND offsets[cardinality(offsets)] = span AND cardinality(offsets) <= span)),
    ADD CONSTRAINT history_durations_are_of_each_event CHECK (
        (duration IS NULL) = (durations IS NOT NULL)
        AND (durations IS NULL OR cardinality(durations) = COALESCE(cardinality(offsets), span + 1)));
