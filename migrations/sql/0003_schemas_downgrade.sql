DROP VIEW pgbus.schema_versions, pgbus.live_workers;
DROP TABLE pgbus.worker_schemas, pgbus.schemas;
