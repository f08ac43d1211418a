"""What people change is found by its ids, and the events of it by their positions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.plans.conftest import ask, filled, plans_in
from tests.plans.plan import Plans
from tests.support import DatabaseServer

CHANGES = """
INSERT INTO pgbus.listeners (listener_name) VALUES ('one'), ('two'), ('three');
INSERT INTO pgbus.events (position, event_id, topic, key, payload, published_at, logged_at)
SELECT n, gen_random_uuid(), 'shop.sold', 'customer ' || n % 1000, jsonb_build_object('n', n), now(), now()
FROM generate_series(1, 20000) AS n;
ANALYZE pgbus.events;
INSERT INTO pgbus.dead_letters (listener_id, position, attempts, error, fingerprint, worker)
SELECT 1 + n % 3, n, 5, 'ValueError: no', 'cause ' || n % 12, 'w' FROM generate_series(1, 20000) AS n;
INSERT INTO pgbus.operations (verb, filter, requested_by, state, matched, progress, last, finished_at)
SELECT 'retry', '{}', 'ann', 'done', 0, 0, 0, now() FROM generate_series(1, 5000);
INSERT INTO pgbus.operation_items (operation_id, listener_name, position, attempts)
SELECT n, 'one', n, 5 FROM pgbus.operations AS o, generate_series(o.id, o.id + 9) AS n WHERE o.id % 10 = 0
  AND EXISTS (SELECT FROM pgbus.operations AS x WHERE x.id = n);
"""


@pytest.fixture(scope="module")
def changed_database(server: DatabaseServer, upgraded_template: str) -> Iterator[str]:
    """Of its own: dead rows of so many letters would be in the way of other tests."""
    with filled(server, upgraded_template, CHANGES, "dead_letters", "operations", "operation_items") as dsn:
        yield dsn


@pytest.fixture
async def plans(changed_database: str) -> AsyncIterator[Plans]:
    async with plans_in(changed_database) as made:
        yield made


async def test_letters_and_operations_are_found_by_their_ids_and_their_events_by_positions(plans: Plans) -> None:
    ids = [row["id"] for row in await plans.connection.fetch("SELECT id FROM pgbus.dead_letters ORDER BY id DESC")]
    last = await plans.connection.fetchval("SELECT max(id) FROM pgbus.operations")
    anything = dict.fromkeys(("operation_id", "before", "verb", "who", "subject", "state", "since", "until"))
    assert (await ask(plans, "list_operations", **anything, limit=50)).steps < 500
    plan = await ask(plans, "list_operations", **{**anything, "operation_id": last}, limit=1)
    assert plan.steps < 100
    plan = await ask(plans, "list_operation_items", operation_id=last, limit=200)
    assert plan.indexes == {"operation_items_operation"}
    assert plan.pages < 100
    assert (await ask(plans, "read_dead_letters", ids=ids[:50])).pages < 3_000
    plan = await ask(plans, "summarize_dead_letters", ids=ids)
    assert plan.scanned_whole == set()
    assert plan.pages < 150_000, plan.pages
