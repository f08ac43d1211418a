DROP VIEW pgbus.scheduled, pgbus.dead, pgbus.listener_lag, pgbus.pending, pgbus.event_history, pgbus.attempts;
DROP TABLE pgbus.partitions, pgbus.workers, pgbus.dead_letters, pgbus.deliveries, pgbus.declarations, pgbus.subscriptions, pgbus.listeners, pgbus.removed_listeners,
           pgbus.route_changes, pgbus.history, pgbus.causes, pgbus.events, pgbus.dedup_keys, pgbus.outbox;
DROP FUNCTION pgbus.open_partition(integer), pgbus.drop_partition(integer);
DROP FUNCTION pgbus.note_listener_change(), pgbus.note_listener_removal(), pgbus.note_subscription_change();
DROP FUNCTION pgbus.take_dedup_keys(text[], uuid[], double precision), pgbus.take_lane(integer, smallint, bigint),
    pgbus.take_empty_lane(integer, smallint, bigint);
DROP FUNCTION pgbus.run_block(bigint, smallint), pgbus.event_blocks(bigint), pgbus.run_offsets(smallint);
DROP FUNCTION pgbus.has_error(text, text), pgbus.error_kind(text);
DROP FUNCTION pgbus.uuid_or_null(text), pgbus.correlation_of(uuid, jsonb), pgbus.readable(timestamptz);
DROP FUNCTION pgbus.uuid7();
DROP DOMAIN pgbus.instant, pgbus.topic, pgbus.ancestors, pgbus.key, pgbus.headers;
DROP FUNCTION pgbus.wake_leader();
DROP SEQUENCE pgbus.wake_slots;
DROP FUNCTION pgbus.oldest_code();
