DROP VIEW pgbus.rpc_calls;
DROP TABLE pgbus.rpc_responses, pgbus.rpc_requests, pgbus.rpc_servers;
