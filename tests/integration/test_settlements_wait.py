"""Settling: once in a while for all that has ended, and what does not wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

import pgbus
from pgbus.database.statements import deliveries
from pgbus.database.store import Store
from pgbus.listeners import settler
from pgbus.listeners.listener import LANES
from tests.support.orders import collect, publish
from tests.support.workers import Inbox, open_bus, running, until_idle

OWED = "SELECT count(*) FROM pgbus.deliveries"


@pytest.fixture
def settlements(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """The values of each settling statement."""
    seen: list[Mapping[str, Any]] = []
    settle = deliveries.settle_deliveries

    async def noting(store: Store, values: Any) -> Any:
        seen.append(values)
        return await settle(store, values)

    monkeypatch.setattr(deliveries, "settle_deliveries", noting)
    return seen


@asynccontextmanager
async def just_settled(database: str, connection: asyncpg.Connection) -> AsyncIterator[tuple[pgbus.Bus, Inbox[int]]]:
    """A running bus whose listener has settled event 1: what ends now waits for others."""
    async with open_bus(database) as bus:
        inbox = collect(bus, name="mail")
        async with running(bus):
            await publish(bus, 1)
            await until_idle(connection)
            yield bus, inbox


async def handle(bus: pgbus.Bus, inbox: Inbox[int], numbers: Iterable[int]) -> None:
    """Have these events handled, each in a claim of its own."""
    for number in numbers:
        await publish(bus, number)
        await inbox.take(number)


async def test_what_ends_after_a_settlement_is_settled_together(
    database: str, connection: asyncpg.Connection, settlements: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "PAUSE", 3.0)
    async with just_settled(database, connection) as (bus, inbox):
        assert len(settlements) == 1
        await handle(bus, inbox, range(2, 6))
        assert len(settlements) == 1
        assert await connection.fetchval(OWED) == 4
        await until_idle(connection)
        assert len(settlements) == 2
    assert await connection.fetchval("SELECT count(*) FROM pgbus.event_history WHERE outcome = 'done'") == 5


async def test_a_worker_that_stops_settles_what_waits(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "PAUSE", 1.0)
    async with just_settled(database, connection) as (bus, inbox):
        await handle(bus, inbox, [2])
    assert await connection.fetchval(OWED) == 0


async def test_what_ends_in_a_lane_is_settled_when_more_comes_into_it(
    database: str, connection: asyncpg.Connection, settlements: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "PAUSE", 600.0)
    async with open_bus(database) as bus:
        inbox = collect(bus, name="mail", ordered=True)

        async def handle(number: int, *, key: str) -> None:
            await bus.publish({"n": number}, topic="orders.placed", key=key)
            await inbox.take(number)

        async with running(bus):
            await handle(1, key="customer 7")
            await until_idle(connection)
            await handle(2, key="customer 7")
            await handle(3, key=await another_lane(connection, "customer 7"))
            assert len(settlements) == 1
            await handle(4, key="customer 7")
            assert len(settlements) == 2
    assert await connection.fetchval("SELECT count(*) FROM pgbus.event_history WHERE outcome = 'done'") == 4


async def another_lane(connection: asyncpg.Connection, key: str) -> str:
    """A key whose events lie in another lane."""
    lane = f"(hashtext($1) & 2147483647) % {LANES}"
    [first, *others] = [
        (await connection.fetchval(f"SELECT {lane}", name), name) for name in (key, *map(str, range(9)))
    ]
    return next(name for number, name in others if number != first[0])


async def test_a_listener_whose_events_only_wait_to_be_settled_gets_the_next_without_a_claim(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "PAUSE", 3.0)

    async def refuse(*_: object, **__: object) -> None:
        raise AssertionError("claimed")

    async with just_settled(database, connection) as (bus, inbox):
        for name in ("claim_ready", "claim_deliveries"):
            monkeypatch.setattr(deliveries, name, refuse)
        await handle(bus, inbox, range(2, 5))
        await until_idle(connection)
