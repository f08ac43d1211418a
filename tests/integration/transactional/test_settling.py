"""Transactional listeners: what the handler writes and the settlement of its event commit together, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy.orm import Session

import pgbus
from tests.support.ledger import KINDS, WRITE, ledger
from tests.support.tables import outcomes
from tests.support.workers import QUICK_RETRY, Inbox, open_bus, running, until_idle


@KINDS
async def test_writes_and_settlement_are_of_one_transaction(
    database: str, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True)(handler)
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert await outcomes(connection) == [(1, "done")]
    assert await connection.fetchval("SELECT (SELECT xmin FROM ledger) = (SELECT xmin FROM pgbus.history)")


@KINDS
async def test_an_error_after_the_writes_rolls_them_back_and_the_event_is_tried_again(
    database: str, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(handler)
        async with running(bus):
            await bus.publish({"n": 1, "fail": 2}, topic="a.b")
            await bus.publish({"n": 2}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1, 2]
    assert sorted(await outcomes(connection)) == [(1, "done"), (1, "retry"), (2, "retry"), (3, "done")]


@KINDS
async def test_an_event_that_is_given_up_leaves_no_writes_behind(
    database: str, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    async with open_bus(database) as bus:
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(handler)
        async with running(bus):
            await bus.publish({"n": 1, "fail": 9}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == []
    assert await connection.fetchval("SELECT error FROM pgbus.dead") == "ValueError: after the write"


@KINDS
async def test_what_the_context_publishes_joins_the_transaction(
    database: str, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(handler)

        @bus.listener("ledger.written", name="audit")
        async def audit(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish({"n": 1, "then": 7}, topic="a.b")
            await inbox.take(1)
            await until_idle(connection)
    assert inbox.items == [7]


async def publish_and_fail(event: dict[str, int], connection: asyncpg.Connection, context: pgbus.Context) -> None:
    await context.publish({"n": context.attempt}, topic="ledger.written")
    if context.attempt < 3:
        raise ValueError("after publishing")


def publish_and_fail_in_a_thread(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
    assert context.connection is session
    context.publish_sync({"n": context.attempt}, topic="ledger.written")
    if context.attempt < 3:
        raise ValueError("after publishing")


@pytest.mark.parametrize("handler", [publish_and_fail, publish_and_fail_in_a_thread])
async def test_what_a_failed_attempt_published_is_rolled_back_with_it(
    database: str, connection: asyncpg.Connection, handler: Callable[..., Any]
) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[int] = Inbox()
        bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)(handler)

        @bus.listener("ledger.written", name="audit")
        async def audit(event: dict[str, int]) -> None:
            inbox.put(event["n"])

        async with running(bus):
            await bus.publish({}, topic="a.b")
            await inbox.take(1)
            await until_idle(connection)
    assert inbox.items == [3]


async def test_a_statement_that_fails_in_the_handlers_transaction_is_a_failed_attempt(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:

        @bus.listener("a.b", name="ledger", transactional=True, retry=QUICK_RETRY)
        async def handle(event: dict[str, int], own: asyncpg.Connection, context: pgbus.Context) -> None:
            await own.execute(WRITE, 1)
            if context.attempt == 1:
                with contextlib.suppress(asyncpg.DivisionByZeroError):
                    await own.execute("SELECT 1 / 0")  # and so the transaction has failed

        async with running(bus):
            await bus.publish({}, topic="a.b")
            await until_idle(connection)
    assert await ledger(connection) == [1]
    assert await outcomes(connection) == [(1, "retry"), (2, "done")]


async def test_handlers_run_at_once_on_connections_of_their_own(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database, pool_size=1) as bus:
        calls: Inbox[int] = Inbox()
        go_on = asyncio.Event()

        @bus.listener("a.b", name="ledger", transactional=True, concurrency=8)
        async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
            await own.execute(WRITE, event["n"])
            calls.put(event["n"])
            await go_on.wait()

        async with running(bus):
            await bus.publish_many([{"n": number} for number in range(8)], topic="a.b")
            await calls.take(8)
            go_on.set()
            await until_idle(connection)
    assert await connection.fetchval("SELECT count(DISTINCT backend) FROM ledger") == 8


async def test_an_ordered_transactional_listener_keeps_the_order_of_each_key(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        await connection.execute("CREATE TABLE steps (id serial, key text, n integer)")

        @bus.listener("a.b", name="steps", transactional=True, ordered=True, retry=QUICK_RETRY)
        async def handle(event: dict[str, Any], own: asyncpg.Connection, context: pgbus.Context) -> None:
            await own.execute("INSERT INTO steps (key, n) VALUES ($1, $2)", event["key"], event["n"])
            if event["n"] % 5 == 0 and context.attempt == 1:
                raise ValueError("once more")

        async with running(bus):
            for number in range(20):
                for key in "abc":
                    await bus.publish({"key": key, "n": number}, topic="a.b", key=key)
            await until_idle(connection)
    for key in "abc":
        steps = await connection.fetch("SELECT n FROM steps WHERE key = $1 ORDER BY id", key)
        assert [row["n"] for row in steps] == list(range(20))


async def test_the_commit_of_a_handler_waits_for_the_disk_as_the_server_is_set_to(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        inbox: Inbox[str] = Inbox()

        @bus.listener("a.b", name="ledger", transactional=True)
        async def handle(event: dict[str, int], own: asyncpg.Connection) -> None:
            inbox.put(await own.fetchval("SHOW synchronous_commit"))

        async with running(bus):
            await bus.publish({}, topic="a.b")
            assert await inbox.take(1) == ["on"]
