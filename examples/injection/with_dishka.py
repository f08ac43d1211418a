"""Handlers that get what they need from Dishka: `pgbus run with_dishka`."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from dishka import FromDishka, Provider, Scope, from_context, make_async_container, provide

import pgbus
from pgbus.contrib.dishka import inject, setup_dishka

bus = pgbus.create()


class Ledger:
    """Writes in the transaction of the handler that it is made for."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def note(self, order_id: int) -> None:
        await self.connection.execute("INSERT INTO ledger (order_id) VALUES ($1)", order_id)


class Services(Provider):
    scope = Scope.REQUEST
    context = from_context(pgbus.Context)

    @provide
    async def ledger(self, context: pgbus.Context) -> AsyncIterator[Ledger]:
        assert context.connection is not None  # of a transactional listener
        yield Ledger(context.connection)
        print("the ledger is closed")


setup_dishka(make_async_container(Services()), bus)


@bus.listener("orders.placed", name="note_order", start="beginning", transactional=True)
@inject
async def note_order(order: dict[str, Any], _: asyncpg.Connection, ledger: FromDishka[Ledger]) -> None:
    await ledger.note(order["order_id"])
    print(f"order {order['order_id']} is noted")
