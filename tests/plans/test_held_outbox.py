"""What looks cost after a stream next to a held snapshot, when vacuum has counted that few rows of the outbox live."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.plans.conftest import next_to_a_snapshot, plans_in
from tests.plans.plan import Plans
from tests.support import DatabaseServer

EVENTS = 50_000
STREAM = f"""
INSERT INTO pgbus.listeners (listener_name) VALUES ('mail');
DELETE FROM pgbus.route_changes;
INSERT INTO pgbus.outbox (topic, payload) SELECT 'shop.sold', '{{}}' FROM generate_series(1, {EVENTS}) AS n;
"""
NEXT = "INSERT INTO pgbus.outbox (topic, payload) VALUES ('shop.sold', '{}') RETURNING id"
OFFER = {"worker_id": 1, "lease": 60.0, "claim_token": "00000000-0000-7000-8000-000000000001"}


@pytest.fixture(params=[0, 1, 10, 500], ids=lambda living: f"{living} live")
async def plans(request: pytest.FixtureRequest, server: DatabaseServer, upgraded_template: str) -> AsyncIterator[Plans]:
    takes = "SELECT pg_current_xact_id()"
    with next_to_a_snapshot(server, upgraded_template, table="outbox", takes=takes) as (dsn, connection):
        connection.execute(STREAM.encode())
        connection.execute("DELETE FROM pgbus.outbox WHERE id <= %s", [EVENTS - request.param])
        connection.execute("VACUUM ANALYZE pgbus.outbox")
        connection.execute("DELETE FROM pgbus.outbox")
        async with plans_in(dsn) as made:
            yield made


async def test_a_lone_event_is_read_and_logged_by_its_id(plans: Plans) -> None:
    event_id = await plans.connection.fetchval(NEXT)
    guess: dict[str, object] = {"topics": ["shop.sold"], "ancestors": [None], "numbers": [1], "listener_ids": [1]}
    guess |= {"lanes": [None], "claimed": [True], "wake_numbers": [], "wakes": [], "work_channel": "pgbus_work"}
    plan = await plans.explain(
        "read_and_log_event", **guess, **OFFER, high=event_id - 1, batch=2_000, hashes=True, base=1_000_000
    )
    assert plan.indexes == {"outbox_pkey"}
    assert plan.pages < 500
    assert await plans.connection.fetchval("SELECT count(*) FROM pgbus.deliveries") == 1


async def test_events_are_read_and_logged_by_their_ids(plans: Plans) -> None:
    ids = [await plans.connection.fetchval(NEXT) for _ in range(20)]
    read = await plans.explain("read_outbox", high=ids[0] - 1, batch=2_000, hashes=True)
    assert read.indexes == {"outbox_pkey"}
    assert read.pages < 20
    delivery = {"listener_ids": [1], "lanes": [None], "firsts": [1_000_000], "lasts": [1_000_019], "sizes": [20]}
    plan = await plans.explain(
        "log_events", ids=ids, base=1_000_000, **delivery, **OFFER, positions=[None], claimed=[True], wakes=[],
        lane_floors=[None], work_channel="pgbus_work",
    )  # fmt: skip
    assert plan.indexes == {"outbox_pkey"}
    assert plan.pages < 1_000
