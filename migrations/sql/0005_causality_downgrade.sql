DROP FUNCTION pgbus.event_tree(uuid), pgbus.correlation_tree(text);
