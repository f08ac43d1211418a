"""The inbox in another database: a repeated event is a no-op, whatever connection the handler writes over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import pgbus
from pgbus import inbox
from pgbus.errors import ConfigurationError, ConnectionUnusableError, PrivilegeError
from pgbus.messages import EventMessage
from pgbus.testing.databases import DatabaseServer
from tests.conftest import Connect
from tests.contracts.faces import FACES, BlockingFace, Face, sqlalchemy_url
from tests.support import eventually
from tests.support.workers import QUICK_RETRY, open_bus, running, until_idle


@dataclass(frozen=True)
class Attempt:
    """An attempt at events of these ids."""

    events: list[EventMessage]
    listener_name: str = "copy_order"


def attempt(*ids: UUID, listener_name: str = "copy_order") -> Attempt:
    events = [EventMessage(topic="a.b", raw="{}", event_id=event_id) for event_id in ids or (uuid4(),)]
    return Attempt(events, listener_name)


async def take(face: Face, context: Attempt) -> bool:
    if isinstance(face, BlockingFace):
        return await asyncio.to_thread(inbox.take_sync, context, using=face.using)
    return await inbox.take(context, using=face.using)


async def take_batch(face: Face, context: Attempt) -> list[bool]:
    if isinstance(face, BlockingFace):
        return await asyncio.to_thread(inbox.take_batch_sync, context, using=face.using)
    return await inbox.take_batch(context, using=face.using)


async def forget(face: Face, age: float) -> int:
    if isinstance(face, BlockingFace):
        return await asyncio.to_thread(inbox.forget_sync, older_than=age, using=face.using)
    return await inbox.forget(older_than=age, using=face.using)


@pytest.fixture
def other_database(server: DatabaseServer) -> Iterator[str]:
    """A database that has an inbox and a table of a handler's, and no bus."""
    with server.temporary_database() as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        for statement in (*inbox.ddl(), *inbox.ddl(), "CREATE TABLE copies (n integer)"):
            connection.execute(statement.encode())
        yield dsn


@pytest.mark.parametrize("name", FACES)
async def test_an_event_is_new_once(name: str, other_database: str) -> None:
    async with FACES[name](other_database) as face:
        context = attempt()
        async with face.transaction():
            assert await take(face, context)
        async with face.transaction():
            assert not await take(face, context)
            assert await take(face, attempt(context.events[0].event_id, listener_name="another"))
            assert await take(face, attempt())


@pytest.mark.parametrize("name", FACES)
async def test_an_event_whose_transaction_was_rolled_back_is_new_again(name: str, other_database: str) -> None:
    async with FACES[name](other_database) as face:
        context = attempt()
        with suppress(ZeroDivisionError):
            async with face.transaction():
                assert await take(face, context)
                raise ZeroDivisionError
        async with face.transaction():
            assert await take(face, context)


@pytest.mark.parametrize("name", FACES)
async def test_of_a_batch_each_event_is_told_apart_and_old_ones_can_be_forgotten(
    name: str, other_database: str
) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    async with FACES[name](other_database) as face:
        async with face.transaction():
            await take(face, attempt(second))
        async with face.transaction():
            assert await take_batch(face, attempt(third, second, first, third)) == [True, False, True, False]
        async with face.transaction():
            assert await forget(face, 3600) == 0
            assert await forget(face, 0) == 3
            assert await take(face, attempt(second))


async def test_an_attempt_waits_for_another_that_is_under_way(other_database: str, connect: Connect) -> None:
    one, two, watch = [await connect(other_database) for _ in range(3)]
    context = attempt()
    transaction = one.transaction()
    await transaction.start()
    assert await inbox.take(context, using=one)

    async def second() -> bool:
        async with two.transaction():
            return await inbox.take(context, using=two)

    waiting = asyncio.create_task(second())
    blocked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock')"
    await eventually(lambda: watch.fetchval(blocked, two.get_server_pid()))
    await transaction.commit()
    assert not await waiting


async def test_taking_outside_of_a_transaction_is_refused(other_database: str, connect: Connect) -> None:
    connection = await connect(other_database)
    with pytest.raises(ConnectionUnusableError, match="has no open transaction"):
        await inbox.take(attempt(), using=connection)
    with (
        psycopg.connect(other_database, autocommit=True) as blocking,
        pytest.raises(ConnectionUnusableError, match="has no open transaction"),
    ):
        inbox.take_sync(attempt(), using=blocking)


async def test_a_batch_is_not_taken_for_one_event(other_database: str, connect: Connect) -> None:
    connection = await connect(other_database)
    async with connection.transaction():
        with pytest.raises(ConfigurationError, match="take_batch"):
            await inbox.take(attempt(uuid4(), uuid4()), using=connection)


async def test_a_database_without_an_inbox_says_how_to_make_one(empty_database: str, connect: Connect) -> None:
    connection = await connect(empty_database)
    transaction = connection.transaction()
    await transaction.start()
    with pytest.raises(ConfigurationError, match="pgbus db inbox"):
        await inbox.take(attempt(), using=connection)


async def test_a_user_without_rights_is_told_which_ones(other_database: str, connect: Connect) -> None:
    connection = await connect(other_database)
    await connection.execute("GRANT USAGE ON SCHEMA pgbus TO pg_monitor")
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE pg_monitor")
        with pytest.raises(PrivilegeError, match=r"GRANT SELECT, INSERT, DELETE ON \"pgbus\"\.inbox"):
            async with connection.transaction():
                await inbox.take(attempt(), using=connection)


async def test_a_handler_that_failed_after_it_had_committed_elsewhere_writes_once(
    database: str, other_database: str, connect: Connect
) -> None:
    engine = create_async_engine(sqlalchemy_url(other_database, "asyncpg"))
    answers: list[bool] = []
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="copy", retry=QUICK_RETRY)
        async def copy(event: dict[str, int], context: pgbus.Context) -> None:
            async with AsyncSession(engine) as session, session.begin():
                answers.append(await inbox.take(context, using=session))
                if answers[-1]:
                    await (await session.connection()).exec_driver_sql(f"INSERT INTO copies VALUES ({event['n']})")
            if context.attempt < 3:
                raise ValueError("after the commit elsewhere")

        async with running(bus):
            await bus.publish({"n": 7}, topic="a.b")
            await until_idle(await connect(database))
    await engine.dispose()
    assert answers == [True, False, False]
    other: asyncpg.Connection = await connect(other_database)
    assert [row["n"] for row in await other.fetch("SELECT n FROM copies")] == [7]
