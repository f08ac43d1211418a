-- What holds for each call, as workers write it, whatever they do. The tests' databases check it at each statement.
ALTER TABLE pgbus.rpc_requests
    ADD CONSTRAINT rpc_requests_worker_took_it CHECK (worker_id IS NULL OR taken_at IS NOT NULL);
ALTER TABLE pgbus.rpc_responses
    ADD CONSTRAINT rpc_responses_outcome_is_known CHECK (
        outcome IN ('answered', 'failed', 'refused', 'invalid', 'expired', 'cancelled', 'lost', 'unserved')),
    ADD CONSTRAINT rpc_responses_answer_is_whole CHECK (
        (outcome = 'answered') = (result IS NOT NULL) AND (outcome = 'answered') = (error IS NULL)),
    ADD CONSTRAINT rpc_responses_error_is_whole CHECK (
        (outcome = 'failed') = (error_type IS NOT NULL) AND (outcome = 'failed' OR error_arguments IS NULL));
