"""Instruments surround what a bus does, and see how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import asyncpg
import psycopg
import pytest

import pgbus
from pgbus.telemetry import Abandoned, Call, Operation, Process, Publish, Run, Serve
from tests.support.workers import QUICK_RETRY, Inbox, open_bus, running

Op = TypeVar("Op", Publish, Process, Call, Serve, Run)

TRACE: ContextVar[str] = ContextVar("trace", default="none")


class Recorder:
    """Notes each operation with the error that ended it, and adds a header to what is published."""

    def __init__(self) -> None:
        self.ended: Inbox[tuple[Operation, BaseException | None]] = Inbox()

    @contextmanager
    def around(self, operation: Operation) -> Iterator[None]:
        if isinstance(operation, Publish):
            for message in operation.messages:
                message.headers["trace"] = TRACE.get()
        token = TRACE.set(type(operation).__name__)
        try:
            yield
        except BaseException as error:
            self.ended.put((operation, error))
            raise
        else:
            self.ended.put((operation, None))
        finally:
            TRACE.reset(token)

    async def of(self, kind: type[Op], count: int = 1) -> list[tuple[Op, BaseException | None]]:
        def found() -> list[tuple[Op, BaseException | None]]:
            return [(one, error) for one, error in self.ended.items if isinstance(one, kind)]

        await self.ended.until(lambda _: len(found()) >= count)
        return found()


async def test_an_instrument_surrounds_publishing_and_its_headers_are_published(database: str) -> None:
    heard: Inbox[dict[str, str]] = Inbox()
    async with open_bus(database) as bus:
        recorder = Recorder()
        bus.telemetry.instrument(recorder)

        @bus.listener("a.*", name="reader")
        async def reader(event: pgbus.EventMessage) -> None:
            heard.put(event.headers)

        async with running(bus):
            message = await bus.publish({}, topic="a.one", headers={"own": "1"})
            await asyncio.to_thread(bus.publish_sync, {}, topic="a.two")
            ids = await bus.publish_many([{}, {}], topic="a.many")
            headers = await heard.take(4)
    assert all(one["trace"] == "none" for one in headers)
    assert sorted("own" in one for one in headers) == [False, False, False, True]
    first, second, many = [one for one, error in await recorder.of(Publish, 3) if error is None]
    assert [one.event_id for one in first.messages] == [message.event_id]
    assert [one.topic for one in second.messages] == ["a.two"]
    assert (many.in_bulk, [one.event_id for one in many.messages]) == (True, ids)


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_instrument_surrounds_each_attempt_of_a_handler_and_sees_its_error(
    database: str, is_async: bool
) -> None:
    async with open_bus(database) as bus:
        recorder = Recorder()
        bus.telemetry.instrument(recorder)
        seen: list[str] = []

        async def awaits(event: int, context: pgbus.Context) -> None:
            seen.append(TRACE.get())
            if context.attempt == 1:
                raise ValueError("once")

        def plain(event: int, context: pgbus.Context) -> None:
            seen.append(TRACE.get())
            if context.attempt == 1:
                raise ValueError("once")

        bus.listener("a.b", name="twice", retry=QUICK_RETRY)(awaits if is_async else plain)
        async with running(bus):
            event = await bus.publish(1, topic="a.b")
            [first, second] = await recorder.of(Process, 2)
    assert seen == ["Process", "Process"]
    assert isinstance(first[1], ValueError)
    assert second[1] is None
    operation = second[0]
    assert (operation.listener_name, operation.attempt) == ("twice", 2)
    assert [one.event_id for one in operation.messages] == [event.event_id]


@pytest.mark.parametrize("transactional", [False, True])
async def test_an_instrument_sees_the_timeout_of_a_handler(database: str, transactional: bool) -> None:
    async with open_bus(database) as bus:
        recorder = Recorder()
        bus.telemetry.instrument(recorder)
        go = asyncio.Event()

        async def hangs(event: int) -> None:
            await go.wait()

        def sleeps(event: int, connection: psycopg.Connection) -> None:
            connection.execute("SELECT pg_sleep(0.5)")

        handler = sleeps if transactional else hangs
        bus.listener("a.b", name="late", retry=1, timeout=0.2, transactional=transactional)(handler)
        async with running(bus):
            await bus.publish(1, topic="a.b")
            [(_, error)] = await recorder.of(Process)
    assert isinstance(error, pgbus.HandlerTimeoutError)


async def test_an_instrument_surrounds_a_transaction_and_what_is_published_in_it(database: str) -> None:
    async with open_bus(database) as bus:
        recorder = Recorder()
        bus.telemetry.instrument(recorder)

        @bus.listener("a.b", name="writer", transactional=True)
        async def writer(event: int, connection: asyncpg.Connection, context: pgbus.Context) -> None:
            await context.publish(2, topic="c.d")

        async with running(bus):
            await bus.publish(1, topic="a.b")
            [_, (inner, _)] = await recorder.of(Publish, 2)
            [(_, error)] = await recorder.of(Process)
    assert error is None
    assert inner.messages[0].headers["trace"] == "Process"


async def test_an_instrument_surrounds_a_call_on_both_sides(database: str) -> None:
    async with open_bus(database) as bus:
        recorder = Recorder()
        bus.telemetry.instrument(recorder)

        @bus.procedure("math.divide")
        async def divide(one: int, other: int) -> float:
            return one / other

        async with running(bus):
            assert await bus.call("math.divide", {"one": 1, "other": 2}) == 0.5
            with pytest.raises(pgbus.RemoteError):
                await asyncio.to_thread(bus.call_sync, "math.divide", {"one": 1, "other": 0})
            calls = await recorder.of(Call, 2)
            served = await recorder.of(Serve, 2)
    assert [type(error).__name__ for _, error in calls] == ["NoneType", "RemoteError"]
    assert [type(error).__name__ for _, error in served] == ["NoneType", "ZeroDivisionError"]
    for (call, _), (serve, _) in zip(calls, served, strict=True):
        assert call.call_id == serve.call_id


async def test_an_instrument_surrounds_the_run_of_a_schedule(database: str) -> None:
    async with open_bus(database) as bus:
        recorder = Recorder()
        bus.telemetry.instrument(recorder)

        @bus.client.every(seconds=3600, also_run_immediately=True)
        async def fails() -> None:
            raise ValueError("each time")

        async with running(bus):
            [(run, error)] = await recorder.of(Run)
    assert run.schedule_name.endswith("fails")
    assert isinstance(error, ValueError)


async def test_an_instrument_is_told_that_a_lost_transaction_is_no_failure(database: str) -> None:
    async with open_bus(database) as bus:
        recorder = Recorder()
        bus.telemetry.instrument(recorder)
        attempts = 0

        @bus.listener("a.b", name="writer", transactional=True)
        async def writer(event: int, connection: asyncpg.Connection) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                pid = await connection.fetchval("SELECT pg_backend_pid()")
                killer = await asyncpg.connect(database)
                await killer.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
                await killer.close()
            await connection.execute("SELECT 1")

        async with running(bus):
            await bus.publish(1, topic="a.b")
            [(_, first), (_, second)] = await recorder.of(Process, 2)
    assert isinstance(first, Abandoned)
    assert second is None
