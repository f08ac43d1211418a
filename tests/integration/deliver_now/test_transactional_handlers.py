"""Transactional handlers within a test's transaction, and plain handlers of tests that block."""

from __future__ import annotations

import threading
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import pgbus
from pgbus.testing import deliver_now, deliver_now_sync
from tests.support.rehearsal import declare_after, declare_asyncpg, declare_session, rows_left

# ----------------------------------------------------------------------------------------- transactional handlers


async def test_a_transactional_handler_gets_the_tests_own_asyncpg_connection(
    bus: pgbus.Bus, connection: asyncpg.Connection, outside: asyncpg.Connection
) -> None:
    declare_asyncpg(bus)
    declare_after(bus)
    transaction = connection.transaction()
    await transaction.start()
    await bus.publish(1, topic="n", using=connection)
    assert [one.listener_name for one in await deliver_now(bus, using=connection)] == ["asyncpg", "after"]
    assert await connection.fetchval("SELECT note FROM notes") == "asyncpg"
    await transaction.rollback()
    assert await rows_left(outside) == 0


@pytest.mark.parametrize("face", ["session", "connection"])
async def test_through_sqlalchemy_handlers_get_a_session_or_the_drivers_connection(
    bus: pgbus.Bus, database: str, connection: asyncpg.Connection, outside: asyncpg.Connection, face: str
) -> None:
    declare_asyncpg(bus)
    declare_session(bus)
    declare_after(bus)
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(database))
    async with engine.connect() as opened:
        using: Any = AsyncSession(opened) if face == "session" else opened
        await bus.publish(1, topic="n", using=using)
        attempts = await deliver_now(bus, using=using)
        notes = [row[0] for row in (await using.execute(text("SELECT note FROM notes ORDER BY 1"))).all()]
        await using.rollback()
        await using.close()
    await engine.dispose()
    assert [one.listener_name for one in attempts] == ["asyncpg", "session", "after", "after"]
    assert notes == ["asyncpg", "session"]
    assert await rows_left(outside) == 0


async def test_psycopgs_async_connection_delivers_too(
    bus: pgbus.Bus, database: str, connection: asyncpg.Connection, outside: asyncpg.Connection
) -> None:
    declare_after(bus)
    async with await psycopg.AsyncConnection.connect(database) as opened:
        published = await bus.publish({"ü": 1}, topic="after", using=opened)
        (attempt,) = await deliver_now(bus, using=opened, raise_errors=False)
        await opened.rollback()
    assert (attempt.event.event_id, attempt.event.payload) == (published.event_id, {"ü": 1})
    assert await rows_left(outside) == 0


@pytest.mark.parametrize("declare", [declare_session])
async def test_a_connection_that_is_not_what_a_handler_takes_is_refused(
    bus: pgbus.Bus, connection: asyncpg.Connection, declare: Any
) -> None:
    declare(bus)
    async with connection.transaction():
        await bus.publish(1, topic="n", using=connection)
        with pytest.raises(pgbus.ConnectionUnusableError, match=r"session writes in its event's.*AsyncSession"):
            await deliver_now(bus, using=connection)


# ----------------------------------------------------------------------------------------------- code that blocks


def test_blocking_delivery_runs_plain_handlers_on_the_tests_own_thread(sync_bus: pgbus.Bus, database: str) -> None:
    bus = sync_bus
    threads: list[threading.Thread] = []

    @bus.listener("n", name="plain")
    def plain(number: int, context: pgbus.Context) -> None:
        threads.append(threading.current_thread())
        if number:
            bus.publish_sync(number - 1, topic="n")
            context.publish_sync(number, topic="m")

    @bus.listener("m", name="async")
    async def in_a_loop(number: int) -> None:
        await bus.publish("over", topic="end")

    with psycopg.connect(database) as connection:
        bus.publish_sync(1, topic="n", using=connection)
        attempts = deliver_now_sync(bus, using=connection)
        connection.rollback()
    assert [(one.listener_name, one.event.payload) for one in attempts] == [("plain", 1), ("plain", 0), ("async", 1)]
    assert set(threads) == {threading.current_thread()}
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pgbus.outbox").fetchone() == (0,)


@pytest.mark.parametrize("face", ["session", "connection"])
def test_blocking_delivery_gives_transactional_handlers_the_tests_session(
    sync_bus: pgbus.Bus, database: str, notes: None, face: str
) -> None:
    @sync_bus.listener("n", name="writes", transactional=True)
    def writes(number: int, session: Session) -> None:
        session.execute(text("INSERT INTO notes VALUES ('kept')"))
        if number == 2:
            raise ValueError("undone")

    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database))
    with engine.connect() as opened:
        using: Any = Session(opened) if face == "session" else opened
        sync_bus.publish_many_sync([1, 2, 3], topic="n", using=using)
        attempts = deliver_now_sync(sync_bus, using=using, raise_errors=False)
        kept = using.execute(text("SELECT count(*) FROM notes")).scalar()
        using.rollback()
        using.close()
    engine.dispose()
    assert [one.outcome for one in attempts] == ["done", *["retry"] * 9, "dead", "done"]
    assert kept == 2
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_an_error_of_a_plain_handler_reaches_the_blocking_test(sync_bus: pgbus.Bus, database: str) -> None:
    @sync_bus.listener("n", name="fails")
    def fails(number: int) -> None:
        raise LookupError(number)

    with psycopg.connect(database) as connection:
        sync_bus.publish_sync(7, topic="n", using=connection)
        with pytest.raises(LookupError, match="7"):
            deliver_now_sync(sync_bus, using=connection)
        connection.rollback()


async def test_blocking_delivery_is_refused_on_a_running_loop(bus: pgbus.Bus) -> None:
    with pytest.raises(pgbus.CannotBlockHere, match="deliver_now"):
        deliver_now_sync(bus)
