"""Transactional listeners on every stack: the handler gets the connection or session of its annotation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
import sqlmodel
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession as SqlmodelAsyncSession

import pgbus
from tests.conftest import Connect
from tests.contracts.faces import sqlalchemy_url
from tests.support.waiting import PATIENCE
from tests.support.workers import QUICK_RETRY, Inbox, open_bus, running, until_idle

WRITE = "INSERT INTO ledger (n) VALUES (%s)"
FIND_PID = "SELECT pg_backend_pid()"
Act = Callable[[Any, dict[str, int], pgbus.Context], Awaitable[None]]
ActHere = Callable[[Any, dict[str, int], pgbus.Context], None]


@dataclass(frozen=True)
class Stack:
    """What a handler's connection is annotated with, whether it blocks, and how one statement is run on it."""

    annotation: Any
    is_blocking: bool
    run: Callable[[Any, str], Any]

    def handler(self, act: Act, act_here: ActHere) -> Callable[..., Any]:
        """A handler that writes, and then acts."""
        if self.is_blocking:

            def handle(event: dict[str, int], own: Any, context: pgbus.Context) -> None:
                self.run(own, f"INSERT INTO ledger (n) VALUES ({event['n']})")
                act_here(own, event, context)

            handle.__annotations__["own"] = self.annotation
            return handle

        async def handle_async(event: dict[str, int], own: Any, context: pgbus.Context) -> None:
            await self.run(own, f"INSERT INTO ledger (n) VALUES ({event['n']})")
            await act(own, event, context)

        handle_async.__annotations__["own"] = self.annotation
        return handle_async


def on_driver(connection: Any, query: str) -> Any:
    return connection.execute(query)


def on_sqlalchemy(connection: Any, query: str) -> Any:
    return connection.execute(sqlalchemy.text(query))


def on_sqlmodel(session: Any, query: str) -> Any:
    return session.exec(sqlalchemy.text(query))


class OwnSession(Session):
    """A session of the user's."""


_NAMES = [
    "psycopg async", "psycopg", "AsyncConnection", "Connection", "SQLModel async", "SQLModel", "own class",
    "async sessionmaker", "sessionmaker", "async sessionmaker on psycopg",
]  # fmt: skip


@pytest.fixture(params=_NAMES)
async def stack(request: pytest.FixtureRequest, database: str) -> AsyncIterator[Stack]:
    drivers = {"async sessionmaker": "asyncpg", "async sessionmaker on psycopg": "psycopg"}
    async_engine = create_async_engine(sqlalchemy_url(database, drivers.get(request.param, "asyncpg")))
    engine = sqlalchemy.create_engine(sqlalchemy_url(database, "psycopg"))
    make_async, make = async_sessionmaker(async_engine, info={"is": "mine"}), sessionmaker(engine, info={"is": "mine"})
    stacks = {
        "psycopg async": Stack(psycopg.AsyncConnection, False, on_driver),
        "psycopg": Stack(psycopg.Connection, True, on_driver),
        "AsyncConnection": Stack(AsyncConnection, False, on_sqlalchemy),
        "Connection": Stack(sqlalchemy.Connection, True, on_sqlalchemy),
        "SQLModel async": Stack(SqlmodelAsyncSession, False, on_sqlmodel),
        "SQLModel": Stack(sqlmodel.Session, True, on_sqlmodel),
        "own class": Stack(OwnSession, True, on_sqlalchemy),
        "async sessionmaker": Stack(Annotated[AsyncSession, make_async], False, on_sqlalchemy),
        "async sessionmaker on psycopg": Stack(Annotated[AsyncSession, make_async], False, on_sqlalchemy),
        "sessionmaker": Stack(Annotated[Session, make], True, on_sqlalchemy),
    }
    yield stacks[request.param]
    await async_engine.dispose()
    engine.dispose()


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    """The test's own, to the bus's database, which has a table `ledger` for handlers to write to."""
    opened = await connect(database)
    await opened.execute("CREATE TABLE ledger (n integer)")
    return opened


async def ledger(connection: asyncpg.Connection) -> list[int]:
    return [row["n"] for row in await connection.fetch("SELECT n FROM ledger ORDER BY n")]


async def test_writes_settlement_and_what_is_published_are_of_one_transaction(
    stack: Stack, database: str, connection: asyncpg.Connection
) -> None:
    taken: list[object] = []

    async def act(own: Any, event: dict[str, int], context: pgbus.Context) -> None:
        taken.append(own)
        await context.publish({}, topic="ledger.written")

    def act_here(own: Any, event: dict[str, int], context: pgbus.Context) -> None:
        taken.append(own)
        context.publish_sync({}, topic="ledger.written")

    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True)(stack.handler(act, act_here))
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert await connection.fetchval("SELECT (SELECT xmin FROM ledger) = (SELECT xmin FROM pgbus.history)")
    assert await connection.fetchval("SELECT count(*) FROM pgbus.events WHERE topic = 'ledger.written'") == 1
    metadata = getattr(stack.annotation, "__metadata__", None)
    if metadata:
        assert getattr(taken[0], "info", None) == {"is": "mine"}
    else:
        assert isinstance(taken[0], stack.annotation)


async def test_an_error_rolls_the_writes_back_and_the_event_is_tried_again(
    stack: Stack, database: str, connection: asyncpg.Connection
) -> None:
    def fail_once(own: Any, event: dict[str, int], context: pgbus.Context) -> None:
        if context.attempt == 1:
            raise ValueError("after the write")

    async def act(own: Any, event: dict[str, int], context: pgbus.Context) -> None:
        fail_once(own, event, context)

    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(stack.handler(act, fail_once))
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert [row[0] for row in await connection.fetch("SELECT outcome FROM pgbus.attempts ORDER BY attempt")] == [
        "retry", "done",
    ]  # fmt: skip


async def test_a_connection_killed_before_commit_leaves_no_writes_and_no_settlement(
    stack: Stack, database: str, connection: asyncpg.Connection
) -> None:
    pids: Inbox[tuple[int, Callable[[], object]]] = Inbox()

    async def act(own: Any, event: dict[str, int], context: pgbus.Context) -> None:
        answer = await stack.run(own, FIND_PID)
        row = await answer.fetchone() if isinstance(own, psycopg.AsyncConnection) else answer.one()
        go_on = asyncio.Event()
        pids.put((row[0], go_on.set))
        if len(pids.items) == 1:
            await go_on.wait()

    def act_here(own: Any, event: dict[str, int], context: pgbus.Context) -> None:
        go_on = threading.Event()
        pids.put((stack.run(own, FIND_PID).fetchone()[0], go_on.set))
        if len(pids.items) == 1:
            assert go_on.wait(PATIENCE)

    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(stack.handler(act, act_here))
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            [(pid, go_on)] = await pids.take(1)
            assert await connection.fetchval("SELECT pg_terminate_backend($1, 50000)", pid)
            go_on()
            await pids.take(2)
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert [row[0] for row in await connection.fetch("SELECT outcome FROM pgbus.attempts")] == ["done"]


async def test_a_handler_that_commits_has_failed(stack: Stack, database: str, connection: asyncpg.Connection) -> None:
    async def act(own: Any, event: dict[str, int], context: pgbus.Context) -> None:
        await own.commit()

    def act_here(own: Any, event: dict[str, int], context: pgbus.Context) -> None:
        own.commit()

    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True, retry=1)(stack.handler(act, act_here))
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert "leave COMMIT and ROLLBACK to pgbus" in await connection.fetchval("SELECT error FROM pgbus.dead_letters")


async def test_rows_of_another_kind_are_one_handlers_own(database: str, connection: asyncpg.Connection) -> None:
    kinds: list[type] = []

    async with open_bus(database) as bus:

        @bus.listener("a.b", name="ledger", transactional=True, concurrency=1)
        async def handle(event: dict[str, int], own: psycopg.AsyncConnection) -> None:
            kinds.append(type(await (await own.execute("SELECT 1 AS one")).fetchone()))
            own.row_factory = dict_row  # type: ignore[assignment] # what a user does to see names
            kinds.append(type(await (await own.execute("SELECT 1 AS one")).fetchone()))

        async with running(bus):
            await bus.publish_many([{"n": 1}, {"n": 2}], topic="a.b")
            await until_idle(connection)
    assert kinds == [tuple, dict, tuple, dict]
