"""Transactions of others stay open: with a snapshot, with a transaction id, with an event that is not committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tests.chaos.faults import DIED, fault
from tests.chaos.workload import TOPIC
from tests.chaos.world import World

HELD = 10.0
"""Seconds in a run; PostgreSQL's horizons move for none of them, so an hour is no different but for the rows."""


@fault("a snapshot is held", goal=DIED)
async def hold_snapshot(world: World) -> AsyncIterator[None]:
    reader = await world.session()
    await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM placed")
    yield
    await asyncio.sleep(HELD)
    await reader.close()


@fault("a snapshot is held with a transaction id", goal=DIED)
async def hold_snapshot_and_xid(world: World) -> AsyncIterator[None]:
    writer = await world.session()
    await writer.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id(), count(*) FROM placed")
    yield
    await asyncio.sleep(HELD)
    await writer.close()


@fault("a transaction that has published stays open", goal=DIED)
async def hold_event(world: World) -> AsyncIterator[None]:
    """It commits in the end, and its event is among those that must be handled; its key is its own."""
    number = 900_000_000_000 + world.random.randrange(1_000_000_000)
    publisher = await world.session()
    await publisher.execute("BEGIN")
    await publisher.execute("INSERT INTO placed (n, key, serial) VALUES ($1, $2, 1)", number, f"held.{number}")
    await publisher.execute(
        "INSERT INTO pgbus.outbox (topic, key, payload) VALUES ($1, $2, $3)",
        TOPIC, f"held.{number}", f'{{"n": {number}, "serial": 1}}',
    )  # fmt: skip
    yield
    await asyncio.sleep(HELD)
    await publisher.execute("UPDATE placed SET at = clock_timestamp() WHERE n = $1", number)
    await publisher.execute("COMMIT")
    await publisher.close()
