"""Handlers that get what they need from svcs: `pgbus run with_svcs`."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import svcs

import pgbus
from pgbus.contrib.svcs import services, setup_svcs

bus = pgbus.create()


class Ledger:
    """Writes in the transaction of the handler that it is made for."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def note(self, order_id: int) -> None:
        await self.connection.execute("INSERT INTO ledger (order_id) VALUES ($1)", order_id)


async def make_ledger(container: svcs.Container) -> AsyncIterator[Ledger]:
    context = await container.aget(pgbus.Context)
    assert context.connection is not None  # of a transactional listener
    yield Ledger(context.connection)
    print("the ledger is closed")


registry = svcs.Registry()
registry.register_factory(Ledger, make_ledger)
setup_svcs(registry, bus)


@bus.listener("orders.placed", name="note_order", start="beginning", transactional=True)
async def note_order(order: dict[str, Any], _: asyncpg.Connection) -> None:
    ledger = await services().aget(Ledger)
    await ledger.note(order["order_id"])
    print(f"order {order['order_id']} is noted")
