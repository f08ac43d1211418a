"""Transactional handlers that take a list of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.support.ledger import WRITE, ledger
from tests.support.tables import outcomes
from tests.support.workers import QUICK_RETRY, open_bus, running, until_idle


@pytest.mark.parametrize("kind", ["asyncpg", "AsyncSession", "Session"])
async def test_a_batch_is_one_transaction(database: str, connection: asyncpg.Connection, kind: str) -> None:
    async with open_bus(database) as bus:

        async def with_asyncpg(events: list[dict[str, int]], own: asyncpg.Connection) -> None:
            await own.executemany(WRITE, [(event["n"],) for event in events])

        async def with_session(events: list[dict[str, int]], session: AsyncSession) -> None:
            await session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), events)

        def with_blocking(events: list[dict[str, int]], session: Session) -> None:
            session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), events)

        handlers: dict[str, Callable[..., Any]] = {
            "asyncpg": with_asyncpg,
            "AsyncSession": with_session,
            "Session": with_blocking,
        }
        bus.listener("a.b", name="ledger", transactional=True, batch=True)(handlers[kind])
        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(50)], topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == list(range(50))
    assert await outcomes(connection) == [(1, "done")] * 50
    assert await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM ledger") < 50


async def test_a_failed_batch_commits_every_other_event_exactly_once(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="ledger", transactional=True, batch=True, batch_size=20, retry=QUICK_RETRY)
        async def handle(events: list[dict[str, int]], own: asyncpg.Connection) -> None:
            await own.executemany(WRITE, [(event["n"],) for event in events])
            if any(event["n"] in (3, 11) for event in events):
                raise ValueError("no")

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(20)], topic="a.b")
            await until_idle(connection)
    good = [number for number in range(20) if number not in (3, 11)]
    assert await ledger(connection) == good
    done = await connection.fetch("SELECT (payload->>'n')::int FROM pgbus.event_history WHERE outcome = 'done'")
    assert sorted(row[0] for row in done) == good
    dead = await connection.fetch("SELECT (payload->>'n')::int, attempts FROM pgbus.dead ORDER BY 1")
    assert [tuple(row) for row in dead] == [(3, 3), (11, 3)]


async def test_an_undecodable_event_of_a_batch_is_dead_and_the_others_commit(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="ledger", transactional=True, batch=True, batch_size=20)
        async def handle(events: list[dict[str, int]], own: asyncpg.Connection) -> None:
            await own.executemany(WRITE, [(event["n"],) for event in events])

        async with running(bus):
            await bus.publish_many([{"n": 1}, {"n": "two"}, {"n": 3}], topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1, 3]
    assert await connection.fetchval("SELECT attempts FROM pgbus.dead") == 1
    assert sorted(outcome for _, outcome in await outcomes(connection)) == ["dead", "done", "done"]
