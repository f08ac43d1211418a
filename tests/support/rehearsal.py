"""Events and listeners for deliveries within a test, and what these leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import pgbus
from pgbus.testing import Attempt


@pgbus.event("orders")
@dataclass
class OrderEvent:
    order_id: int


@pgbus.event("orders.placed")
@dataclass
class OrderPlaced(OrderEvent):
    pass


def summary(attempts: list[Attempt]) -> list[tuple[Any, ...]]:
    return [(one.listener_name, one.event.topic, one.attempt, one.outcome) for one in attempts]


async def rows_left(connection: asyncpg.Connection) -> int:
    found: int = await connection.fetchval(
        "SELECT (SELECT count(*) FROM pgbus.outbox) + (SELECT count(*) FROM pgbus.events) + "
        "(SELECT count(*) FROM pgbus.deliveries) + (SELECT count(*) FROM pgbus.listeners) + "
        "(SELECT count(*) FROM pgbus.attempts) + (SELECT count(*) FROM notes)"
    )
    return found


def declare_asyncpg(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="asyncpg", transactional=True)
    async def handle(number: int, own: asyncpg.Connection, context: pgbus.Context) -> None:
        assert context.connection is own
        await own.execute("INSERT INTO notes VALUES ('asyncpg')")
        await context.publish(number, topic="after")


def declare_session(bus: pgbus.Bus) -> None:
    @bus.listener("n", name="session", transactional=True)
    async def handle(number: int, session: AsyncSession, context: pgbus.Context) -> None:
        await session.execute(text("INSERT INTO notes VALUES ('session')"))
        await context.publish(number, topic="after")


def declare_after(bus: pgbus.Bus) -> None:
    @bus.listener("after", name="after")
    async def after(number: int) -> None:
        pass
