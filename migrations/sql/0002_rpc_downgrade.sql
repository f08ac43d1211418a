DROP VIEW pgbus.rpc_calls;
DROP FUNCTION pgbus.searchable(json), pgbus.read_responses(uuid[]), pgbus.withdraw_calls(uuid[], text, text),
              pgbus.fail_lost_calls(uuid[]);
DROP TABLE pgbus.rpc_responses, pgbus.rpc_requests, pgbus.rpc_servers;
DROP DOMAIN pgbus.procedure, pgbus.caller, pgbus.caller_name, pgbus.deadline;
CREATE OR REPLACE FUNCTION pgbus.oldest_code() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT '0001' $$;
