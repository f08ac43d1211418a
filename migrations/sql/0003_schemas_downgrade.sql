DROP VIEW pgbus.schema_versions, pgbus.running, pgbus.live_workers;
DROP FUNCTION pgbus.republish_schemas(integer[], text[]);
DROP TABLE pgbus.worker_schemas, pgbus.schemas;
CREATE OR REPLACE FUNCTION pgbus.oldest_code() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT '0002' $$;
