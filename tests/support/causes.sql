-- What holds for each edge of a tree, whatever the leader does. The tests' databases check it at each statement.
ALTER TABLE pgbus.causes
    ADD CONSTRAINT causes_kind_is_known CHECK (kind IN ('event', 'call', 'run')),
    ADD CONSTRAINT causes_correlation_id_is_short CHECK (length(correlation_id) BETWEEN 1 AND 255),
    ADD CONSTRAINT causes_only_events_name_themselves CHECK ((kind = 'event') = (name IS NULL));
