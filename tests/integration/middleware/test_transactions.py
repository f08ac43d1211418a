"""Middleware around transactional handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import pgbus
from tests.support.tables import outcomes
from tests.support.workers import QUICK_RETRY, Watch, running, until_idle
from tests.support.wrapping import AnyContext, Next, PlainNext, settled


async def ledger(connection: asyncpg.Connection) -> list[str]:
    return [row["n"] for row in await connection.fetch("SELECT n FROM ledger ORDER BY n")]


READ_TENANT = "INSERT INTO ledger SELECT current_setting('app.tenant')"
SET_TENANT = "SET LOCAL app.tenant = 'acme'"


async def asyncpg_handler(event: object, connection: asyncpg.Connection) -> None:
    await connection.execute(READ_TENANT)


async def async_session_handler(event: object, session: AsyncSession) -> None:
    await session.execute(text(READ_TENANT))


def session_handler(event: object, session: Session) -> None:
    session.execute(text(READ_TENANT))


async def batch_handler(events: list[object], connection: asyncpg.Connection) -> None:
    for _ in events:
        await connection.execute(READ_TENANT)


@pytest.mark.parametrize("handler", [asyncpg_handler, async_session_handler, session_handler, batch_handler])
async def test_middleware_runs_within_the_transaction_of_a_transactional_handler(
    bus: pgbus.Bus, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    watch = Watch(bus)

    @bus.middleware
    async def set_tenant(context: AnyContext, call_next: Next) -> Any:
        assert isinstance(context, pgbus.Context)
        if isinstance(context.connection, AsyncSession):
            await context.connection.execute(text(SET_TENANT))
        elif context.connection is not None:
            await context.connection.execute(SET_TENANT)
        return await call_next()

    @bus.middleware
    def set_tenant_plain(context: AnyContext, call_next: PlainNext) -> Any:
        assert isinstance(context, pgbus.Context)
        context.connection.execute(text(SET_TENANT))
        return call_next()

    bus.listener("a.b", name="tested", transactional=True, batch=handler is batch_handler)(handler)
    async with running(bus):
        await bus.publish({}, topic="a.b")
        await settled(watch)
    assert await ledger(connection) == ["acme"]
    assert await outcomes(connection) == [(1, "done")]


async def write(event: object, connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO ledger VALUES ('handler')")


def write_plain(event: object, session: Session) -> None:
    session.execute(text("INSERT INTO ledger VALUES ('handler')"))


EACH_HANDLER = pytest.mark.parametrize("handler", [write, write_plain])


@EACH_HANDLER
async def test_a_transactional_handler_that_is_skipped_settles_its_event(
    bus: pgbus.Bus, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    watch = Watch(bus)

    @bus.middleware
    async def skip(context: AnyContext, call_next: Next) -> None: ...

    bus.listener("a.b", name="tested", transactional=True)(handler)
    async with running(bus):
        await bus.publish({}, topic="a.b")
        await settled(watch)
        await until_idle(connection)
    assert await ledger(connection) == []
    assert await outcomes(connection) == [(1, "done")]


@EACH_HANDLER
async def test_an_error_before_a_transactional_handler_rolls_back_and_is_tried_again(
    bus: pgbus.Bus, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    watch = Watch(bus)

    @bus.middleware
    async def fail_at_first(context: AnyContext, call_next: Next) -> Any:
        assert isinstance(context, pgbus.Context)
        if context.attempt == 1:
            raise ValueError
        return await call_next()

    bus.listener("a.b", name="tested", transactional=True, retry=QUICK_RETRY)(handler)
    async with running(bus):
        await bus.publish({}, topic="a.b")
        await settled(watch)
    assert await ledger(connection) == ["handler"]
    assert await outcomes(connection) == [(1, "retry"), (2, "done")]


async def test_an_error_after_an_async_transactional_handler_rolls_back_what_it_wrote(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    watch = Watch(bus)

    @bus.middleware
    async def fail(context: AnyContext, call_next: Next) -> Any:
        await call_next()
        raise ValueError

    bus.listener("a.b", name="tested", transactional=True, retry=1)(write)
    async with running(bus):
        await bus.publish({}, topic="a.b")
        await settled(watch, dead=True)
    assert await ledger(connection) == []


async def test_async_middleware_cannot_undo_the_commit_of_a_plain_handler(
    bus: pgbus.Bus, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(bus)
    connections: list[object] = []

    @bus.middleware
    async def fail(context: AnyContext, call_next: Next) -> Any:
        assert isinstance(context, pgbus.Context)
        connections.append(context.connection)
        await call_next()
        connections.append(context.connection)
        raise ValueError("too late")

    bus.listener("a.b", name="tested", transactional=True)(write_plain)
    async with running(bus):
        await bus.publish({}, topic="a.b")
        await settled(watch)
        await until_idle(connection)
    assert await ledger(connection) == ["handler"]
    assert await outcomes(connection) == [(1, "done")]
    assert connections == [None, None]
    assert "middleware failed after the handler's transaction" in caplog.text


async def test_an_error_that_plain_middleware_swallows_rolls_back_and_settles(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    watch = Watch(bus)

    @bus.middleware
    async def swallow(context: AnyContext, call_next: Next) -> Any:
        try:
            return await call_next()
        except LookupError:
            return None

    @bus.listener("a.b", name="tested", transactional=True)
    def handle(event: object, session: Session) -> None:
        write_plain(event, session)
        raise LookupError

    async with running(bus):
        await bus.publish({}, topic="a.b")
        await settled(watch)
        await until_idle(connection)
    assert await ledger(connection) == []
    assert await outcomes(connection) == [(1, "done")]
