"""Transactional handlers whose connection, claim or worker is lost."""

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

from pgbus.telemetry import ClaimsFreed, ClaimsLost, Settled
from tests.conftest import Connect
from tests.support import eventually
from tests.support.ledger import WRITE, ledger
from tests.support.tables import outcomes
from tests.support.waiting import PATIENCE
from tests.support.workers import QUICK_RETRY, Inbox, Watch, open_bus, running, until_idle


@pytest.mark.parametrize("kind", ["asyncpg", "AsyncSession", "Session"])
async def test_a_connection_killed_before_commit_leaves_no_writes_and_no_settlement(
    database: str, connection: asyncpg.Connection, kind: str
) -> None:
    async with open_bus(database) as bus:
        pids: Inbox[tuple[int, Callable[[], object]]] = Inbox()
        find_pid = "SELECT pg_backend_pid()"
        listener = bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)

        async def pause(pid: int) -> None:
            go_on = asyncio.Event()
            pids.put((pid, go_on.set))
            if len(pids.items) == 1:
                await go_on.wait()

        async def with_asyncpg(event: dict[str, int], own: asyncpg.Connection) -> None:
            await own.execute(WRITE, event["n"])
            await pause(await own.fetchval(find_pid))

        async def with_session(event: dict[str, int], session: AsyncSession) -> None:
            await session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            await pause(await session.scalar(text(find_pid)) or 0)

        def with_blocking(event: dict[str, int], session: Session) -> None:
            session.execute(text(f"INSERT INTO ledger (n) VALUES ({event['n']})"))
            go_on = threading.Event()
            pids.put((session.scalar(text(find_pid)) or 0, go_on.set))
            if len(pids.items) == 1:
                assert go_on.wait(PATIENCE)

        handlers: dict[str, Callable[..., Any]] = {
            "asyncpg": with_asyncpg,
            "AsyncSession": with_session,
            "Session": with_blocking,
        }
        listener(handlers[kind])
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            [(pid, go_on)] = await pids.take(1)
            assert await connection.fetchval("SELECT pg_terminate_backend($1, 50000)", pid)
            assert await ledger(connection) == []
            go_on()
            await pids.take(2)
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert await outcomes(connection) == [(1, "done")]


async def test_a_handler_does_not_run_when_its_claim_was_lost_before(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)
        calls: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("a.b", name="ledger", transactional=True, concurrency=1, batch_size=5)
        async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
            calls.put(event["n"])
            await own.execute(WRITE, event["n"])
            await go_on.wait()

        async with running(bus):
            await bus.publish_many([{"n": 1}, {"n": 2}], topic="a.b")
            await calls.take(1)
            # The second one waits for the slot, claimed; someone else has taken it, and is done with it.
            deleted = await connection.execute(
                "DELETE FROM pgbus.deliveries AS d WHERE d.id = (SELECT max(x.id) FROM pgbus.deliveries AS x)"
            )
            assert deleted == "DELETE 1"
            go_on.set()
            await watch.first(ClaimsLost)
            await watch.until(lambda _: sum(seen.done for seen in watch.of(Settled)) == 1)
    assert calls.items == [1]
    assert await ledger(connection) == [1]


async def test_a_claim_is_not_freed_while_its_transaction_is_open(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        watch = Watch(bus)
        calls: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("a.b", name="ledger", transactional=True)
        async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
            calls.put(event["n"])
            await own.execute(WRITE, event["n"])
            await go_on.wait()

        @bus.listener("other.event", name="other")
        async def other(event: dict[str, int]) -> None:
            calls.put(event["n"])
            await go_on.wait()

        async with running(bus):
            # As long a lease as a vanished host's, for the other listener's claim shows when claims are looked through.
            await bus.publish({"n": 1}, topic="a.b")
            await calls.take(1)
            await bus.publish({"n": 2}, topic="other.event")
            await calls.take(2)
            await connection.execute(
                "UPDATE pgbus.deliveries SET lease_expires_at = now() "
                "WHERE id IN (SELECT id FROM pgbus.deliveries FOR UPDATE SKIP LOCKED)"
            )
            await watch.first(ClaimsFreed)
            assert sum(seen.claims for seen in watch.of(ClaimsFreed)) == 1
            go_on.set()
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert calls.items.count(1) == 1


async def test_an_expired_lease_of_an_open_transaction_does_not_make_it_commit_twice(
    database: str, connection: asyncpg.Connection, connect: Connect
) -> None:
    async with open_bus(database, lease=1) as bus, open_bus(database, lease=1) as rival:
        calls: Inbox[asyncio.Event] = Inbox()

        for each in (bus, rival):

            @each.listener("a.b", name="ledger", transactional=True)
            async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
                go_on = asyncio.Event()
                await own.execute(WRITE, event["n"])
                calls.put(go_on)
                await go_on.wait()

        async with running(bus), running(rival):
            await bus.publish({"n": 1}, topic="a.b")
            [go_on] = await calls.take(1)

            async def lease_is_over() -> bool:
                return bool(await connection.fetchval("SELECT lease_expires_at < now() FROM pgbus.deliveries"))

            await eventually(lease_is_over)
            go_on.set()
            await until_idle(connection)
    assert len(calls.items) == 1
    assert await ledger(connection) == [1]
    assert await outcomes(connection) == [(1, "done")]


async def test_stopping_without_grace_rolls_back_and_releases(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database, grace=0) as bus:
        calls: Inbox[int] = Inbox()

        @bus.listener("a.b", name="ledger", transactional=True)
        async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
            await own.execute(WRITE, event["n"])
            calls.put(event["n"])
            await asyncio.Event().wait()

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await calls.take(1)
    assert await ledger(connection) == []
    [row] = await connection.fetch("SELECT claim_token, attempt FROM pgbus.deliveries")
    assert tuple(row) == (None, 1)
