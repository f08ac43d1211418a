"""Thousands of listeners on one topic, of which a worker runs a few."""

from __future__ import annotations

import pgbus
from tests.support.rows import Rows
from tests.support.workers import Inbox, open_bus, running

OTHERS = 5_000


async def test_an_event_reaches_one_listener_and_is_owed_to_five_thousand_others(database: str, rows: Rows) -> None:
    await rows.connection.execute(
        """
        WITH made AS (
            INSERT INTO pgbus.listeners (listener_name, service)
            SELECT 'other ' || n, 'shop' FROM generate_series(1, $1::integer) AS n RETURNING id)
        INSERT INTO pgbus.subscriptions (listener_id, pattern) SELECT id, 'orders.placed' FROM made
        """,
        OTHERS,
    )
    handled: Inbox[int] = Inbox()
    async with open_bus(database) as bus:

        @bus.listener("orders.placed", name="mine")
        async def mine(event: dict[str, int], context: pgbus.Context) -> None:
            handled.put(event["n"])

        async with running(bus):
            for number in range(10):
                await bus.publish({"n": number}, topic="orders.placed")
            assert sorted(await handled.take(10)) == list(range(10))
    owed = await rows.connection.fetchval("SELECT sum(lag_events)::integer FROM pgbus.listener_lag")
    assert owed == 10 * OTHERS
