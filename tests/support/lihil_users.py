"""Events, handlers and requests of Lihil, for the tests of its bus; it can be imported where Lihil is installed."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import httpx2 as httpx
from lihil import Lihil, Route
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

import pgbus
from pgbus.contrib.lihil import BusTerminal, Event, MessageRegistry
from tests.support.waiting import PATIENCE

Sessions = async_sessionmaker[AsyncSession]


class UserEvent(Event):
    name: str


class UserCreated(UserEvent):
    email: str = ""


class UserDeleted(UserEvent):
    reason: str = ""


class UserGreeted(Event):
    name: str


def terminal_of(bus: pgbus.Bus, *handlers: Any, **options: Any) -> BusTerminal[Event]:
    registry: MessageRegistry[Event] = MessageRegistry(event_base=Event)
    registry.register(*handlers)
    return BusTerminal(registry, bus=bus, **options)


@asynccontextmanager
async def client(route: Route, own: Any = None) -> AsyncIterator[Any]:
    app = Lihil(route, lifespan=own)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app._lifespan())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        yield await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://test", timeout=PATIENCE)
        )


async def counts(connection: asyncpg.Connection) -> tuple[int, int]:
    """Rows of users, and events."""
    row = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM pgbus.outbox) + (SELECT count(*) FROM pgbus.events)"
    )
    assert row
    return tuple(row)


async def insert_user(session: AsyncSession, name: str) -> None:
    await session.execute(text("INSERT INTO users VALUES (:name)"), {"name": name})


class Repo:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, name: str) -> None:
        await insert_user(self.session, name)
