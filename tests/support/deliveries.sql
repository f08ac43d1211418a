-- What holds for each row of deliveries, whatever the engine does. The tests' databases check it at each statement.
ALTER TABLE pgbus.deliveries
    ADD CONSTRAINT deliveries_run_is_whole CHECK (
        first <= last AND events > 0
        AND CASE WHEN positions IS NULL THEN events = last - first + 1 ELSE events = cardinality(positions) END),
    ADD CONSTRAINT deliveries_claim_is_whole CHECK (
        (claim_token IS NULL) = (worker_id IS NULL) AND (claim_token IS NULL) = (lease_expires_at IS NULL)),
    ADD CONSTRAINT deliveries_blocked_is_waiting CHECK (
        blocked_key IS NULL OR (claim_token IS NULL AND lane IS NOT NULL)),
    ADD CONSTRAINT deliveries_attempt_is_positive CHECK (attempt > 0 AND crashes >= 0);
