"""Transactional handlers that are cut short, time out, or end their transaction themselves."""

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
from pgbus.telemetry import Settled
from tests.support import eventually
from tests.support.ledger import KINDS, WRITE, async_session_handler, asyncpg_handler, ledger, session_handler
from tests.support.tables import outcomes
from tests.support.waiting import PATIENCE
from tests.support.workers import MANY_RETRIES, QUICK_RETRY, Inbox, Watch, open_bus, running, until_idle


@KINDS
@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt()], ids=repr)
async def test_errors_that_would_end_a_program_roll_back_and_are_retried(
    database: str, connection: asyncpg.Connection, handler: Callable[..., Any], error: BaseException
) -> None:
    async with open_bus(database) as bus:
        tried: Inbox[int] = Inbox()

        def fail(event: dict[str, int], attempt: int) -> None:
            tried.put(attempt)
            if attempt < 3:
                raise error

        async def with_asyncpg(event: dict[str, int], own: asyncpg.Connection, context: pgbus.Context) -> None:
            await own.execute(WRITE, event["n"])
            fail(event, context.attempt)

        async def with_session(event: dict[str, int], session: AsyncSession, context: pgbus.Context) -> None:
            await session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            fail(event, context.attempt)

        def with_blocking(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
            session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            fail(event, context.attempt)

        handlers: dict[Any, Callable[..., Any]] = {
            asyncpg_handler: with_asyncpg,
            async_session_handler: with_session,
            session_handler: with_blocking,
        }
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(handlers[handler])
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert tried.items == [1, 2, 3]
    assert await ledger(connection) == [1]


async def test_a_timeout_rolls_back(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="ledger", transactional=True, retry=MANY_RETRIES, timeout=0.2)
        async def handle(event: dict[str, int], own: asyncpg.Connection, context: pgbus.Context) -> None:
            await own.execute(WRITE, event["n"])
            if context.attempt == 1:
                await own.execute("SELECT pg_sleep(30)")

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1]
    told = await outcomes(connection)
    assert (told[0], told[-1]) == ((1, "retry"), (len(told), "done"))


async def test_a_plain_handler_past_its_timeout_still_commits_once_or_not_at_all(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        started: Inbox[int] = Inbox()
        go_on = threading.Event()
        watch = Watch(bus)

        @bus.listener("a.b", name="ledger", transactional=True, retry=MANY_RETRIES, timeout=1.0)
        def handle(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
            session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            started.put(context.attempt)
            if context.attempt == 1 and event["n"] == 1:
                assert go_on.wait(PATIENCE)

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await started.take(1)
            await bus.publish({"n": 2}, topic="a.b")
            await watch.until(lambda _: sum(seen.done for seen in watch.of(Settled)) >= 1)
            go_on.set()
            await until_idle(connection)
    assert await ledger(connection) == [1, 2]
    done = await connection.fetchval("SELECT count(*) FROM pgbus.attempts WHERE outcome = 'done'")
    assert done == 2


async def test_a_thread_past_its_timeout_holds_up_no_other_settlement(
    database: str, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_bus(database) as bus:
        started: Inbox[int] = Inbox()
        go_on = threading.Event()
        watch = Watch(bus)

        @bus.listener("a.b", name="ledger", transactional=True, retry=MANY_RETRIES, timeout=3.0, concurrency=2)
        def handle(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
            session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            started.put(event["n"])
            if event["n"] == 1 and context.attempt == 1:
                assert go_on.wait(PATIENCE)
            if event["n"] == 2 and context.attempt == 1:
                raise ValueError("once")

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await started.take(1)
            await eventually(lambda: "ran past its timeout" in caplog.text)
            await bus.publish({"n": 2}, topic="a.b")
            await watch.until(lambda _: sum(seen.retried for seen in watch.of(Settled)) >= 1)
            go_on.set()
            await until_idle(connection)
    assert await ledger(connection) == [1, 2]
    told = await outcomes(connection)
    assert told.count((1, "retry")) == 2
    assert sum(outcome == "done" for _, outcome in told) == 2


RAW_ENDS = ("ROLLBACK", "COMMIT", "ROLLBACK; BEGIN", "COMMIT AND CHAIN")


def own_end(kind: str, end: str) -> Callable[..., Any]:
    """A handler that writes, ends the transaction itself at its first attempt, and writes again."""

    async def asyncpg_kind(event: dict[str, int], connection: asyncpg.Connection, context: pgbus.Context) -> None:
        await connection.execute(WRITE, event["n"])
        if context.attempt == 1:
            await connection.execute(end)
            await connection.execute(WRITE, -1)

    async def async_session_kind(event: dict[str, int], session: AsyncSession, context: pgbus.Context) -> None:
        await session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), {"n": event["n"]})
        if context.attempt == 1:
            for part in end.split("; "):
                await session.execute(text(part))

    def session_kind(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
        session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), {"n": event["n"]})
        if context.attempt == 1:
            session.execute(text(end))

    kinds: dict[str, Callable[..., Any]] = {
        "asyncpg": asyncpg_kind,
        "AsyncSession": async_session_kind,
        "Session": session_kind,
    }
    return kinds[kind]


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("end", RAW_ENDS)
@pytest.mark.parametrize("kind", ["asyncpg", "AsyncSession", "Session"])
async def test_a_handler_that_ends_its_transaction_has_failed(
    database: str, connection: asyncpg.Connection, kind: str, end: str
) -> None:
    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(own_end(kind, end))
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert await outcomes(connection) == [(1, "retry"), (2, "done")]
    error = await connection.fetchval("SELECT error FROM pgbus.attempts WHERE outcome = 'retry'")
    assert error.startswith("HandlerTransactionError: the handler has ended the transaction that it was given: leave")
    committed = [1] if end.startswith("COMMIT") else []
    assert [n for n in await ledger(connection) if n > 0] == [*committed, 1]


@pytest.mark.parametrize("verb", ["commit", "rollback"])
@pytest.mark.parametrize("kind", ["AsyncSession", "Session"])
async def test_a_handler_that_ends_its_session_has_failed(
    database: str, connection: asyncpg.Connection, kind: str, verb: str
) -> None:
    async def async_session_kind(event: dict[str, int], session: AsyncSession, context: pgbus.Context) -> None:
        await session.execute(text("INSERT INTO ledger (n) VALUES (1)"))
        if context.attempt == 1:
            await getattr(session, verb)()

    def session_kind(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
        session.execute(text("INSERT INTO ledger (n) VALUES (1)"))
        if context.attempt == 1:
            getattr(session, verb)()

    async with open_bus(database) as bus:
        handler: Callable[..., Any] = async_session_kind if kind == "AsyncSession" else session_kind
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(handler)
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert await outcomes(connection) == [(1, "retry"), (2, "done")]
    error = await connection.fetchval("SELECT error FROM pgbus.attempts WHERE outcome = 'retry'")
    assert error.startswith("HandlerTransactionError: the handler has ended the transaction that it was given: leave")
