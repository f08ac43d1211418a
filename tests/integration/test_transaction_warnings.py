"""What is published where no transaction holds it, or in one that is closed without a commit: warned of, or refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import orm, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

import pgbus
from pgbus.errors import ConnectionUnusableError, NoTransactionWarning
from tests.conftest import Connect
from tests.contracts import faces

LOST = pytest.warns(NoTransactionWarning, match="then closed without a commit, so it was not published")


@pytest.fixture
async def bus(database: str) -> AsyncIterator[pgbus.Bus]:
    async with pgbus.create(database, plugins=[]) as bus:
        yield bus


@pytest.fixture
def engine(database: str) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(faces.sqlalchemy_url(database, "psycopg"))
    yield engine
    engine.dispose()


@pytest.fixture(params=["asyncpg", "psycopg"])
async def async_engine(database: str, request: Any) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(faces.sqlalchemy_url(database, request.param))
    yield engine
    await engine.dispose()


def test_a_connection_that_is_closed_without_a_commit_is_warned_of(bus: pgbus.Bus, engine: sqlalchemy.Engine) -> None:
    connection = engine.connect()
    bus.publish_sync({}, topic="a", using=connection)
    with LOST as told:
        connection.close()
    assert told[0].filename == __file__


def test_a_block_of_a_connection_without_a_commit_is_warned_of(bus: pgbus.Bus, engine: sqlalchemy.Engine) -> None:
    with LOST, engine.connect() as connection:
        bus.publish_sync({}, topic="a", using=connection)


def test_a_query_after_the_commit_began_the_transaction_that_is_lost(bus: pgbus.Bus, engine: sqlalchemy.Engine) -> None:
    with LOST, orm.Session(engine) as session:
        session.execute(text("SELECT 1"))
        session.commit()
        session.execute(text("SELECT 1"))
        bus.publish_sync({}, topic="a", using=session)


async def test_an_async_session_and_connection_warn(bus: pgbus.Bus, async_engine: AsyncEngine) -> None:
    with LOST:
        async with AsyncSession(async_engine) as session:
            await session.execute(text("SELECT 1"))
            await session.commit()
            await session.execute(text("SELECT 1"))
            await bus.publish({}, topic="a", using=session)
    with LOST:
        async with async_engine.connect() as connection:
            await bus.publish({}, topic="a", using=connection)


def test_what_ends_by_a_commit_a_rollback_or_an_exception_is_not_warned_of(
    bus: pgbus.Bus, engine: sqlalchemy.Engine
) -> None:
    for end in ("commit", "rollback"):
        with engine.connect() as connection:
            bus.publish_sync({}, topic="a", using=connection)
            getattr(connection, end)()
            connection.execute(text("SELECT 1"))
    with suppress(KeyError), engine.connect() as connection:
        bus.publish_sync({}, topic="a", using=connection)
        raise KeyError
    with orm.Session(engine) as session:
        session.execute(text("SELECT 1"))
        with suppress(KeyError), session.begin_nested():
            bus.publish_sync({}, topic="a", using=session)
            raise KeyError


def test_a_scoped_session_removed_at_the_end_of_a_request_does_not_warn(
    bus: pgbus.Bus, engine: sqlalchemy.Engine
) -> None:
    session = orm.scoped_session(orm.sessionmaker(engine))
    bus.publish_sync({}, topic="a", using=session)
    session.remove()


async def test_an_async_block_that_ends_by_an_exception_is_not_warned_of(
    bus: pgbus.Bus, async_engine: AsyncEngine
) -> None:
    with suppress(KeyError):
        async with AsyncSession(async_engine) as session:
            await bus.publish({}, topic="a", using=session)
            raise KeyError
    with suppress(KeyError):
        async with async_engine.connect() as connection:
            await bus.publish({}, topic="a", using=connection)
            raise KeyError
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as scope, AsyncSession(async_engine) as session:
            await bus.publish({}, topic="a", using=session)
            scope.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()


# ------------------------------------------------------------------------------------------------- require_transaction

REQUIRED = "require_transaction asks for one"


async def test_where_no_transaction_is_open_publishing_is_refused_if_one_is_required(
    bus: pgbus.Bus, database: str, connect: Connect, async_engine: AsyncEngine, engine: sqlalchemy.Engine
) -> None:
    connection = await connect(database)
    with pytest.raises(ConnectionUnusableError, match=REQUIRED):
        await bus.publish({}, topic="a", using=connection, require_transaction=True)
    async with AsyncSession(async_engine) as session, async_engine.connect() as awaited:
        for using in (session, awaited):
            with pytest.raises(ConnectionUnusableError, match=REQUIRED):
                await bus.bind(using, require_transaction=True).publish_many([{}], topic="a")
    with orm.Session(engine) as blocking, engine.connect() as other, psycopg.connect(database) as third:
        for one in (blocking, other, third):
            with pytest.raises(ConnectionUnusableError, match=REQUIRED):
                bus.bind(one, require_transaction=True).publish_sync({}, topic="a")
    assert await connection.fetchval("SELECT count(*) FROM pgbus.outbox") == 0


async def test_the_setting_requires_a_transaction_and_a_call_may_do_without(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with pgbus.create(database, plugins=[], require_transaction=True) as bus:
        with pytest.raises(ConnectionUnusableError, match=REQUIRED):
            await bus.publish({}, topic="a", using=connection)
        with pytest.warns(NoTransactionWarning):
            await bus.publish({}, topic="warned", using=connection, require_transaction=False)
        async with connection.transaction():
            await bus.publish({}, topic="b", using=connection)
        await bus.publish({}, topic="alone")
        with pytest.raises(ConnectionUnusableError, match="needs `using`"):
            await bus.publish({}, topic="c", require_transaction=True)
    rows = await connection.fetch("SELECT topic FROM pgbus.outbox ORDER BY id")
    assert [row["topic"] for row in rows] == ["warned", "b", "alone"]


async def test_an_open_transaction_is_enough_on_every_stack(
    bus: pgbus.Bus, database: str, async_engine: AsyncEngine, engine: sqlalchemy.Engine
) -> None:
    async with AsyncSession(async_engine) as session, session.begin():
        await bus.publish({}, topic="a", using=session, require_transaction=True)
    async with async_engine.begin() as awaited:
        await bus.publish({}, topic="a", using=awaited, require_transaction=True)
    with orm.Session(engine) as blocking, blocking.begin():
        bus.publish_sync({}, topic="a", using=blocking, require_transaction=True)
    with psycopg.connect(database) as connection:
        connection.execute("SELECT 1")
        bus.publish_sync({}, topic="a", using=connection, require_transaction=True)


async def test_sessions_of_sqlmodel_publish(
    bus: pgbus.Bus, database: str, async_engine: AsyncEngine, engine: sqlalchemy.Engine, connect: Connect
) -> None:
    sqlmodel = pytest.importorskip("sqlmodel")
    awaited = pytest.importorskip("sqlmodel.ext.asyncio.session")
    with sqlmodel.Session(engine) as session, session.begin():
        bus.publish_sync({}, topic="one", using=session)
    async with awaited.AsyncSession(async_engine) as session, session.begin():
        await bus.publish({}, topic="two", using=session)
    observer = await connect(database)
    assert await observer.fetchval("SELECT count(*) FROM pgbus.outbox WHERE topic IN ('one', 'two')") == 2


def test_a_two_phase_session_is_refused(bus: pgbus.Bus, engine: sqlalchemy.Engine) -> None:
    with orm.Session(engine, twophase=True) as session:
        with pytest.raises(ConnectionUnusableError, match="without twophase=True"):
            bus.publish_sync({}, topic="a", using=session)
        session.rollback()
