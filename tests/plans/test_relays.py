"""The statements of relays, of the inbox and of deploys: their work is that of the messages asked for."""

from __future__ import annotations

from uuid import uuid4

import pytest

from pgbus.database.statements import inbox
from tests.plans.plan import Plan, Plans

KEPT = 30_000
TAKEN_BEFORE = 60_000
MESSAGES = 100
DAY = 86_400.0

# One message a second, all of them an hour old and more; those in the middle were refused, and stay.
RECEIVED = f"""
INSERT INTO pgbus.received (source, message_id, relay, received_at, event_id, refused, body)
SELECT '/erp', 'm' || n, 'in', now() - interval '1 hour' - n * interval '1 second',
       CASE WHEN n % 100 = 0 THEN NULL ELSE gen_random_uuid() END,
       CASE WHEN n % 100 = 0 THEN 'not JSON' END, CASE WHEN n % 100 = 0 THEN '\\x00'::bytea END
FROM generate_series(1, {KEPT}) AS n;
ANALYZE pgbus.received;
"""
TAKEN = f"""
INSERT INTO pgbus.inbox (listener_name, event_id, taken_at)
SELECT 'ship', gen_random_uuid(), now() - interval '50 days' + n * interval '1 minute'
FROM generate_series(1, {TAKEN_BEFORE}) AS n;
SELECT brin_summarize_new_values('pgbus.inbox_taken_at');
ANALYZE pgbus.inbox;
"""
# 300 workers of 60 listeners, of which there are 20 versions; besides 3,000 versions of events, which are newer.
DEPLOYED = """
INSERT INTO pgbus.schemas (kind, name, service, version, schema, hash, first_seen_at)
SELECT 'listener', 'listener ' || n, 'shop', v, '{"events": {}}', 'h' || v, now() - interval '1 hour'
FROM generate_series(1, 60) AS n, generate_series(1, 20) AS v;
INSERT INTO pgbus.schemas (kind, name, service, version, schema, hash)
SELECT 'event', 'shop.topic' || n, 'shop', v, '{"parameters": {}}', 'h' || v
FROM generate_series(1, 600) AS n, generate_series(1, 5) AS v;
INSERT INTO pgbus.workers (id, name, service, host, pid, version, listeners)
OVERRIDING SYSTEM VALUE
SELECT 1000 + n, 'w' || n, 'shop', 'h', n, '0', '{}' FROM generate_series(1, 300) AS n;
INSERT INTO pgbus.worker_schemas (worker_id, schema_id)
SELECT w.id, s.id FROM pgbus.workers AS w JOIN pgbus.schemas AS s ON s.kind = 'listener' AND s.version = w.id % 20 + 1
WHERE w.id > 1000;
SELECT count(pg_advisory_xact_lock(hashtext('pgbus.worker'), w.id)) FROM pgbus.workers AS w WHERE w.id > 1000;
ANALYZE pgbus.schemas;
ANALYZE pgbus.worker_schemas;
ANALYZE pgbus.workers;
"""


async def receive(plans: Plans, ids: list[str]) -> Plan:
    count = len(ids)
    return await plans.explain(
        "receive_messages",
        relay="in",
        sources=["/erp"] * count,
        message_ids=ids,
        refusals=[None] * count,
        bodies=[None] * count,
        event_ids=[uuid4() for _ in ids],
        topics=["erp.invoiced"] * count,
        ancestors=[None] * count,
        keys=["k"] * count,
        payloads=["{}"] * count,
        headers=["{}"] * count,
    )


@pytest.fixture
async def received(plans: Plans) -> Plans:
    await plans.connection.execute(RECEIVED)
    return plans


async def test_receiving_reads_no_message_that_was_received_before(received: Plans) -> None:
    new = await receive(received, [f"new {n}" for n in range(MESSAGES)])
    assert "received" not in new.relations
    assert new.steps < 20 * MESSAGES
    doubles = await receive(received, [f"m{n}" for n in range(1, MESSAGES + 1)])
    assert "received" not in doubles.relations
    # A double is one descent into the index of identities.
    assert doubles.pages < 10 * MESSAGES
    assert await received.connection.fetchval("SELECT count(*) FROM pgbus.received") == KEPT + MESSAGES


async def test_forgetting_messages_reads_the_oldest_alone_and_none_that_was_refused(received: Plans) -> None:
    idle = await received.explain("forget_received", age=7 * DAY, most=5_000)
    assert "received_received_at" in idle.indexes
    assert idle.pages < 10
    some = await received.explain("forget_received", age=3_600.0, most=MESSAGES)
    assert "received_received_at" in some.indexes
    assert some.pages < 20 * MESSAGES
    assert some.steps < 20 * MESSAGES
    left = await received.connection.fetch("SELECT refused IS NULL AS is_event FROM pgbus.received")
    assert len(left) == KEPT - MESSAGES
    assert sum(row["is_event"] for row in left) == KEPT - KEPT // 100 - MESSAGES


async def test_the_identity_of_a_bus_is_one_page(plans: Plans) -> None:
    assert (await plans.explain("read_bus_id")).pages <= 2


async def test_taking_events_costs_what_is_taken_and_forgetting_them_reads_the_oldest(plans: Plans) -> None:
    for statement in inbox.create_inbox(namespace="pgbus"):
        await plans.connection.execute(statement)
    await plans.connection.execute(TAKEN)
    ids = [uuid4() for _ in range(MESSAGES)]
    for _ in range(2):  # new, then doubles
        taken = await plans.explain("take_events", listener_name="ship", event_ids=ids)
        assert "inbox" not in taken.relations
        assert taken.pages < 20 * MESSAGES
    assert await plans.connection.fetchval("SELECT count(*) FROM pgbus.inbox") == TAKEN_BEFORE + MESSAGES
    # Far less than all: the index leads to the blocks of the oldest.
    forgotten = await plans.explain("forget_taken_events", age=49.9 * DAY)
    assert "inbox_taken_at" in forgotten.indexes
    assert forgotten.steps < TAKEN_BEFORE // 2


async def test_asking_for_other_versions_reads_those_of_one_listener_and_of_the_events_topics(plans: Plans) -> None:
    await plans.connection.execute(DEPLOYED)
    assert await plans.connection.fetchval("SELECT count(*) FROM pgbus.live_workers") == 300
    plan = await plans.explain(
        "find_other_versions", worker_id=1001, listener_name="listener 7", topics=["shop.topic3", "shop.topic4"]
    )
    # The live workers are as many locks, which are in memory; of the tables, only the rows that the answer is about.
    assert "worker_schemas_schema" in plan.indexes
    assert plan.pages < 2_500
