"""What holds in a transaction and on committed events: hooks, middleware, and the same outcome."""

from __future__ import annotations

import threading
from typing import Any

import asyncpg
import psycopg
import pytest

import pgbus
from pgbus import EventMessage
from pgbus.testing import Attempt, deliver_now, deliver_now_sync
from tests.support.rehearsal import OrderEvent, OrderPlaced

# ------------------------------------------------------------------------------------------- hooks and middleware


@pytest.fixture
def wrapped(bus: pgbus.Bus) -> list[str]:
    """What hooks, middleware and handlers of the bus did, in order."""
    did: list[str] = []

    @bus.client.before_event_execution()
    async def before(event_message: EventMessage) -> None:
        did.append("before")
        event_message.payload += 1

    @bus.client.after_event_execution()
    def after(event_message: EventMessage) -> None:
        did.append("after")

    @bus.middleware
    async def outer(context: pgbus.Context, call_next: Any) -> Any:
        did.append("in")
        try:
            return await call_next()
        finally:
            did.append("out")

    @bus.listener("n", name="async")
    async def handle(number: int) -> None:
        did.append(f"async {number}")

    return did


async def test_a_transactions_events_pass_through_hooks_and_middleware(
    bus: pgbus.Bus, connection: asyncpg.Connection, wrapped: list[str]
) -> None:
    async with connection.transaction():
        await bus.publish(1, topic="n", using=connection)
        (attempt,) = await deliver_now(bus, using=connection)
    assert wrapped == ["before", "in", "async 2", "out", "after"]
    assert attempt.event.payload == 1  # as it was published


async def test_committed_events_pass_through_hooks_and_middleware(bus: pgbus.Bus, wrapped: list[str]) -> None:
    await bus.publish(1, topic="n")
    assert len(await deliver_now(bus)) == 1
    assert wrapped == ["before", "in", "async 2", "out", "after"]


async def test_what_middleware_raises_fails_the_test_either_way(
    bus: pgbus.Bus, connection: asyncpg.Connection, wrapped: list[str]
) -> None:
    @bus.middleware
    async def refuse(context: pgbus.Context, call_next: Any) -> Any:
        raise LookupError("refused")

    async with connection.transaction():
        await bus.publish(1, topic="n", using=connection)
        with pytest.raises(LookupError, match="refused"):
            await deliver_now(bus, using=connection)
    await bus.publish(1, topic="n")
    with pytest.raises(AssertionError, match="async failed on n: LookupError: refused"):
        await deliver_now(bus)


def test_plain_middleware_runs_with_plain_handlers_on_the_tests_own_thread(sync_bus: pgbus.Bus, database: str) -> None:
    threads: list[threading.Thread] = []

    @sync_bus.middleware
    def around(context: pgbus.Context, call_next: Any) -> Any:
        threads.append(threading.current_thread())
        return call_next()

    @sync_bus.listener("n", name="plain")
    def plain(number: int) -> None:
        threads.append(threading.current_thread())

    with psycopg.connect(database) as connection:
        sync_bus.publish_sync(1, topic="n", using=connection)
        assert len(deliver_now_sync(sync_bus, using=connection)) == 1
        connection.rollback()
    assert threads == [threading.current_thread()] * 2


# ------------------------------------------------------------------------------------------- one and the other


async def test_a_rehearsal_comes_to_what_the_real_engine_comes_to(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    @bus.listener("**", name="everything")
    def everything(event: EventMessage) -> None:
        pass

    @bus.listener("*.placed", "bills.**", OrderEvent, name="some")
    async def some(event: EventMessage, context: pgbus.Context) -> None:
        if event.topic == "bills" and context.attempt < 3:
            raise ValueError("not yet")

    @bus.listener("orders.*", name="in turn", ordered=True, retry=2)
    async def in_turn(event: EventMessage) -> None:
        if event.payload == {"order_id": 2}:
            raise ValueError("never")

    @bus.listener(OrderEvent, name="batches", batch=True, retry=1)
    async def batches(events: list[OrderEvent]) -> None:
        if any(event.order_id == 3 for event in events):
            raise pgbus.Dead("three")

    @bus.listener("orders.placed", name="writes", transactional=True)
    async def writes(event: OrderPlaced, own: asyncpg.Connection, context: pgbus.Context) -> None:
        await own.execute("INSERT INTO notes VALUES ('placed')")
        await context.publish({"order": event.order_id}, topic="bills.due", key=str(event.order_id))

    async def publish(using: asyncpg.Connection | None) -> None:
        for order_id in (1, 2, 3):
            await bus.publish(OrderPlaced(order_id), using=using, key=f"customer {order_id % 2}")
        await bus.publish(OrderEvent(4), using=using)
        await bus.publish("all", topic="bills", using=using)
        await bus.publish(None, topic="other.things.placed", using=using)

    def told(attempts: list[Attempt]) -> list[tuple[Any, ...]]:
        return sorted(
            (
                one.listener_name,
                one.event.topic,
                one.event.raw,
                one.event.key or "",
                one.attempt,
                one.outcome,
                one.error,
            )
            for one in attempts
        )

    transaction = connection.transaction()
    await transaction.start()
    await publish(connection)
    rehearsed = await deliver_now(bus, using=connection, raise_errors=False)
    await transaction.rollback()
    await publish(None)
    assert told(rehearsed) == told(await deliver_now(bus, raise_errors=False))
    assert {"done", "retry", "dead"} == {one.outcome for one in rehearsed}
    assert await connection.fetchval("SELECT count(*) FROM notes") == 3
