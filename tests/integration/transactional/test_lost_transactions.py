"""A transaction whose connection breaks, or cannot be had, is not its handler's failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import pgbus
from pgbus import migrate
from pgbus.embedded import EmbeddedPostgres
from tests.conftest import Connect
from tests.support import eventually
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, open_bus, running, until_idle

LEDGER = "CREATE TABLE ledger (n integer, backend integer DEFAULT pg_backend_pid())"
MAY_GO_ON = threading.Event()
STARTED: list[int] = []


async def asyncpg_handler(event: int, connection: asyncpg.Connection) -> None:
    STARTED.append(await connection.fetchval("INSERT INTO ledger (n) VALUES ($1) RETURNING backend", event))
    await asyncio.to_thread(MAY_GO_ON.wait, PATIENCE)
    await connection.execute("SELECT 1")


async def async_session_handler(event: int, session: AsyncSession) -> None:
    insert = text("INSERT INTO ledger (n) VALUES (:n) RETURNING backend")
    STARTED.append((await session.execute(insert, {"n": event})).scalar_one())
    await asyncio.to_thread(MAY_GO_ON.wait, PATIENCE)
    await session.execute(text("SELECT 1"))


def session_handler(event: int, session: Session) -> None:
    insert = text("INSERT INTO ledger (n) VALUES (:n) RETURNING backend")
    STARTED.append(session.execute(insert, {"n": event}).scalar_one())
    MAY_GO_ON.wait(PATIENCE)
    session.execute(text("SELECT 1"))


KINDS = pytest.mark.parametrize(
    "handler", [asyncpg_handler, async_session_handler, session_handler], ids=["asyncpg", "AsyncSession", "Session"]
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    STARTED.clear()
    MAY_GO_ON.clear()


async def outcomes(connection: asyncpg.Connection) -> list[tuple[int, str]]:
    rows = await connection.fetch("SELECT attempt, outcome FROM pgbus.attempts ORDER BY position, attempt")
    return [tuple(row) for row in rows]


@KINDS
async def test_a_connection_that_breaks_under_a_handler_costs_no_attempt(
    database: str, connect: Connect, handler: Callable[..., Any]
) -> None:
    connection = await connect(database)
    await connection.execute(LEDGER)
    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True, retry=1)(handler)
        async with running(bus):
            await bus.publish(1, topic="a.b")
            await eventually(lambda: STARTED)
            assert await connection.fetchval("SELECT pg_terminate_backend($1, 50000)", STARTED[0])
            MAY_GO_ON.set()
            await until_idle(connection)
    assert await outcomes(connection) == [(1, "done")]
    assert await connection.fetchval("SELECT array_agg(n) FROM ledger") == [1]
    assert len(STARTED) == 2


@KINDS
async def test_a_restart_of_the_server_costs_no_attempt(
    own_server: EmbeddedPostgres, handler: Callable[..., Any]
) -> None:
    dsn = own_server.dsn()
    migrate.upgrade(dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute(LEDGER)
    async with open_bus(dsn, poll_interval=0.5) as bus:
        bus.listener("a.b", name="ledger", transactional=True, retry=1, concurrency=3)(handler)
        async with running(bus):
            await bus.publish_many(range(20), topic="a.b")
            await eventually(lambda: len(STARTED) >= 3)
            restart = asyncio.create_task(asyncio.to_thread(own_server.restart))
            await eventually(lambda: connection.is_closed())
            MAY_GO_ON.set()
            await restart
            connection = await asyncpg.connect(dsn)
            await until_idle(connection)
    assert await outcomes(connection) == [(1, "done")] * 20
    assert await connection.fetchval("SELECT array_agg(n ORDER BY n) FROM ledger") == list(range(20))
    assert await connection.fetchval("SELECT count(*) FROM pgbus.dead_letters") == 0
    await connection.close()


async def test_a_connection_error_of_the_handlers_own_is_its_failure(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="calls elsewhere", transactional=True, retry=1)
        async def handle(event: int, connection: asyncpg.Connection) -> None:
            raise [ConnectionRefusedError("mail server"), asyncpg.ConnectionDoesNotExistError("another")][event]

        async with running(bus):
            for event in range(2):
                await bus.publish(event, topic="a.b")
            await until_idle(connection)
    assert await outcomes(connection) == [(1, "dead")] * 2


async def test_what_a_handler_decides_holds_though_its_connection_is_broken(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="decides", transactional=True)
        async def handle(event: int, connection: asyncpg.Connection) -> None:
            await connection.close()
            raise pgbus.Dead("not wanted")

        async with running(bus):
            await bus.publish(1, topic="a.b")
            await until_idle(connection)
    assert await outcomes(connection) == [(1, "dead")]


async def test_an_event_that_breaks_its_connection_each_time_is_given_up_in_the_end(
    database: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgbus.listeners.transactions.LINK_PAUSE", 0.01)
    connection = await connect(database)
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()

        @bus.listener("a.b", name="poison", transactional=True, retry=1)
        async def handle(event: int, connection: asyncpg.Connection) -> None:
            inbox.put(event)
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        async with running(bus):
            await bus.publish(1, topic="a.b")
            await until_idle(connection)
    assert inbox.items == [1] * 5
    assert await outcomes(connection) == [(1, "dead")]


async def test_a_batch_whose_connection_breaks_costs_no_attempt(database: str, connect: Connect) -> None:
    connection = await connect(database)
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="batch", transactional=True, retry=1, batch=True)
        async def handle(events: list[int], connection: asyncpg.Connection) -> None:
            STARTED.append(len(events))
            if len(STARTED) == 1:
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        async with running(bus):
            await bus.publish_many(range(5), topic="a.b")
            await until_idle(connection)
    assert await outcomes(connection) == [(1, "done")] * 5
