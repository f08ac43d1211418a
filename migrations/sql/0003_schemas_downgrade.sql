DROP VIEW pgbus.schema_versions, pgbus.live_workers;
DROP FUNCTION pgbus.republish_schemas(integer[]);
DROP TABLE pgbus.worker_schemas, pgbus.schemas;
