"""`bus.bind`: a bus for one session or connection, whose transaction all goes into that is published by way of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import pgbus
from pgbus.testing import BusMocker
from tests.conftest import Connect


class AuthApi(pgbus.Api):
    user_created = pgbus.Event(parameters=("username",))

    class Meta:
        name = "auth"


@pytest.fixture
async def bus(database: str) -> AsyncIterator[pgbus.Bus]:
    async with pgbus.create(database, plugins=[]) as bus:
        bus.client.register_api(AuthApi())
        yield bus


async def _topics(connection: asyncpg.Connection) -> list[str]:
    return [row["topic"] for row in await connection.fetch("SELECT topic FROM pgbus.outbox ORDER BY id")]


async def test_what_a_bound_bus_publishes_and_fires_is_in_the_transaction(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    connection, observer = await connect(database), await connect(database)
    bound = bus.bind(connection)
    async with connection.transaction():
        await bound.publish({}, topic="one")
        await bound.publish_many([{}, {}], topic="many")
        await bound.fire("auth.user_created", {"username": "ada"}, key="ada")
        scheduled = await bound.publish({}, topic="later", delay=60.0)
        assert await bound.cancel(scheduled.event_id)
        assert await _topics(observer) == []
    assert await _topics(observer) == ["one", "many", "many", "auth.user_created"]


async def test_a_blocking_session_takes_the_sync_twins(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://{database.partition('://')[2]}")
    with Session(engine) as session, session.begin():
        bound = bus.bind(session)
        bound.publish_sync({}, topic="one")
        bound.publish_many_sync([{}], topic="many")
        bound.fire_sync("auth.user_created", {"username": "ada"})
        assert bound.cancel_sync(bound.publish_sync({}, topic="later", delay=60.0).event_id)
    engine.dispose()
    assert await _topics(await connect(database)) == ["one", "many", "auth.user_created"]


async def test_a_rollback_takes_back_what_a_bound_bus_published(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    engine = create_async_engine(f"postgresql+asyncpg://{database.partition('://')[2]}")
    async with AsyncSession(engine) as session:
        await bus.bind(session).publish({}, topic="gone")
        await session.rollback()
    await engine.dispose()
    assert await _topics(await connect(database)) == []


async def test_a_call_of_a_bound_bus_is_that_of_the_bus(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    with BusMocker(bus) as mock:
        mock.mock_rpc_call("auth.check", result=True)
        assert await bus.bind(await connect(database)).call("auth.check", returns=bool)


@pytest.mark.parametrize("using", [None, object()])
def test_what_is_no_connection_or_session_is_refused_when_it_is_bound(using: Any) -> None:
    with pytest.raises(pgbus.ConnectionUnusableError, match=r"cannot be used: pass an asyncpg connection.* for code"):
        pgbus.create("postgresql://nobody@nowhere/", plugins=[]).bind(using)


def test_a_string_that_is_no_alias_of_djangos_is_refused_when_it_is_bound() -> None:
    with pytest.raises(
        pgbus.ConnectionUnusableError, match="'dsn' is not the alias of a database in Django's settings"
    ):
        pgbus.create("postgresql://nobody@nowhere/", plugins=[]).bind("dsn")
