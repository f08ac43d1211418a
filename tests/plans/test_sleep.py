"""What the leader asks before the bus sleeps reads a few rows, whatever waits for its time or for a listener."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.plans.conftest import DEAD, LISTENERS, churned, filled, plans_in
from tests.plans.plan import Plans
from tests.plans.test_waiting import WAITING
from tests.support import DatabaseServer

# Listener 3 has a backlog and no worker; that of 1 and 4 was handled, but for what `WAITING` adds.
LIVE = """
INSERT INTO pgbus.workers (name, service, home, host, pid, version, listeners)
VALUES ('w', 's', '/', 'h', 1, '1', ARRAY['one', 'ordered'])
RETURNING pg_advisory_lock(hashtext('pgbus.worker'), id)
"""
HANDED_ON = "UPDATE pgbus.deliveries SET listener_id = 3, lane = NULL"


@pytest.fixture(scope="module")
def churned_database(server: DatabaseServer, upgraded_template: str) -> Iterator[str]:
    """Of its own: this reads the dead rows of deliveries, of which each test that rolls back leaves more."""
    with filled(server, upgraded_template, LISTENERS) as dsn, churned(dsn):
        yield dsn


@pytest.fixture
async def plans(churned_database: str) -> AsyncIterator[Plans]:
    async with plans_in(churned_database) as made:
        yield made


async def test_what_is_owed_is_found_by_a_few_rows(plans: Plans) -> None:
    await plans.connection.execute(LIVE)
    ready = await plans.explain("find_owed")
    await plans.connection.execute(HANDED_ON)
    await plans.connection.execute(WAITING)
    waiting = await plans.explain("find_owed")
    for plan in (ready, waiting):
        assert "rpc_requests" not in plan.scanned_whole
        assert plan.steps < 1_000
        # No floor is known by then, so it steps over the pages of dead rows, as each worker's poll does.
        assert plan.pages < DEAD // 50
    assert {"deliveries_due", "deliveries_lanes", "deliveries_claimed", "outbox_scheduled"} <= waiting.indexes
