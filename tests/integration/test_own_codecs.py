"""Whatever codecs and adapters a user gives to a connection, pgbus reads and writes on it what it needs."""

from __future__ import annotations

from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import pgbus
from pgbus.testing import deliver_now
from tests.conftest import Connect
from tests.contracts.faces import adapt_own_ways, asyncpg_with_own_codecs, set_own_codecs
from tests.support.workers import QUICK_RETRY, open_bus, running, until_idle


async def asyncpg_handler(event: Any, connection: asyncpg.Connection) -> None:
    await set_own_codecs(connection)


async def async_session_handler(event: Any, session: AsyncSession) -> None:
    raw = await (await session.connection()).get_raw_connection()
    await set_own_codecs(raw.driver_connection)


def session_handler(event: Any, session: Session) -> None:
    adapt_own_ways(session.connection().connection.driver_connection)


async def test_a_transactional_handler_may_give_its_connection_codecs(database: str, connect: Connect) -> None:
    observer = await connect(database)
    async with open_bus(database) as bus:
        for handler in (asyncpg_handler, async_session_handler, session_handler):
            bus.listener("a.b", name=handler.__name__, transactional=True, retry=QUICK_RETRY, concurrency=1)(handler)
        async with running(bus):
            # The second gets a connection that the first has left its codecs on.
            for number in (1, 2):
                await bus.publish(number, topic="a.b")
            await until_idle(observer)
    rows = await observer.fetch("SELECT outcome, count(*) FROM pgbus.attempts GROUP BY outcome")
    assert [tuple(row) for row in rows] == [("done", 6)]


async def test_what_a_test_published_on_a_connection_with_codecs_is_delivered(database: str) -> None:
    heard: list[pgbus.EventMessage] = []
    async with asyncpg_with_own_codecs(database) as face, open_bus(database) as bus, face.transaction():
        connection = face.using

        @bus.listener("a.b", name="hears")
        async def hear(event: pgbus.EventMessage) -> None:
            heard.append(event)

        sent = await bus.publish({"n": 1}, topic="a.b", using=connection, key="k", headers={"a": "b"}, dedup_key="d")
        again = await bus.publish({"n": 1}, topic="a.b", using=connection, dedup_key="d")
        later = await bus.publish({"n": 1}, topic="a.b", using=connection, delay=60)
        assert again.event_id == sent.event_id
        assert await bus.cancel(later.event_id, using=connection)
        await deliver_now(bus, using=connection)
    (event,) = heard
    assert (event.event_id, event.payload, event.headers, event.key) == (sent.event_id, {"n": 1}, {"a": "b"}, "k")
    assert event.published_at is not None
    assert event.published_at.utcoffset() is not None
