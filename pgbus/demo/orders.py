"""Placing orders: the order and its event in one transaction, or neither."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from pgbus.demo.events import OrderPlaced
from pgbus.demo.listeners import bus
from pgbus.demo.tables import SKUS, Connection

TILLS = 6
PAUSE = 0.065  # average seconds between two orders of one client
NO_ADDRESS = 20  # this order always fails in `send_confirmation`


@dataclass(frozen=True, slots=True)
class Draft:
    """An order of a customer; `declined` is the bank's answer."""

    customer: str
    email: str | None
    sku: str
    quantity: int
    cents: int
    declined: bool


@dataclass(slots=True)
class Ledger:
    """The clients' records, by event id, which are compared with the database at the end."""

    committed: dict[UUID, OrderPlaced] = field(default_factory=dict)
    rolled_back: dict[UUID, OrderPlaced] = field(default_factory=dict)


class CardDeclined(Exception):
    """The bank declines, after order and event were written."""


def drafts(count: int) -> Iterator[Draft]:
    for number in range(count):
        customer = f"customer-{random.randrange(50)}"
        quantity = random.randint(1, 5)
        yield Draft(
            customer=customer,
            email=None if number == NO_ADDRESS else f"{customer}@example.com",
            sku=random.choice(SKUS),
            quantity=quantity,
            cents=quantity * random.randrange(100, 2000),
            declined=number % 9 == 4,
        )


async def place_order(connection: Connection, draft: Draft, ledger: Ledger) -> None:
    """One transaction: the order, its event, and then the bank's answer."""
    try:
        async with connection.transaction():
            order_id = await connection.fetchval(
                "INSERT INTO shop.orders (customer, sku, quantity, cents) VALUES ($1, $2, $3, $4) RETURNING id",
                draft.customer, draft.sku, draft.quantity, draft.cents,
            )  # fmt: skip
            order = OrderPlaced(order_id, draft.customer, draft.email, draft.sku, draft.quantity, draft.cents)
            published = await bus.publish(order, key=draft.customer, using=connection)
            if draft.declined:
                raise CardDeclined
    except CardDeclined:
        ledger.rolled_back[published.event_id] = order
    else:
        ledger.committed[published.event_id] = order


async def place_orders(pool: asyncpg.Pool, count: int, ledger: Ledger, *, pause: float = PAUSE) -> None:
    """Run all clients concurrently, until `count` orders were placed.

    `pause` is the average number of seconds between two orders of one client.
    """
    queue = drafts(count)

    async def run_till() -> None:
        async with pool.acquire() as connection:
            for draft in queue:
                await place_order(connection, draft, ledger)
                await asyncio.sleep(random.expovariate(1 / pause))

    async with asyncio.TaskGroup() as tills:
        for _ in range(TILLS):
            tills.create_task(run_till())
