"""What middleware can make of events, calls, results and errors."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

import asyncpg
import pytest

import pgbus
from tests.support.tables import outcomes
from tests.support.workers import QUICK_RETRY, Inbox, Watch, running, until_idle
from tests.support.wrapping import AnyContext, Next, PlainNext, settled


@pytest.mark.parametrize("plain", [False, True])
async def test_middleware_times_handlers_skips_them_and_replaces_their_errors(
    bus: pgbus.Bus, connection: asyncpg.Connection, plain: bool
) -> None:
    durations: list[float] = []
    handled: Inbox[int] = Inbox()
    watch = Watch(bus)

    @bus.middleware
    async def measure(context: AnyContext, call_next: Next) -> Any:
        started = time.perf_counter()
        try:
            return await call_next()
        finally:
            durations.append(time.perf_counter() - started)

    @bus.middleware
    async def skip(context: AnyContext, call_next: Next) -> Any:
        assert isinstance(context, pgbus.Context)
        if context.event.payload["n"] == 2:
            return None
        return await call_next()

    @bus.middleware
    async def judge(context: AnyContext, call_next: Next) -> Any:
        try:
            return await call_next()
        except LookupError as error:
            raise pgbus.Dead(f"nobody can help: {error}") from error

    def handle(event: dict[str, int]) -> None:
        handled.put(event["n"])
        if event["n"] == 3:
            raise LookupError("lost")

    async def handle_async(event: dict[str, int]) -> None:
        handle(event)

    bus.listener("a.b", name="tested", concurrency=1, retry=QUICK_RETRY)(handle if plain else handle_async)
    async with running(bus):
        await bus.publish_many([{"n": n} for n in (1, 2, 3)], topic="a.b")
        await settled(watch, dead=True)
        await until_idle(connection)
    assert handled.items == [1, 3]
    assert await outcomes(connection) == [(1, "done"), (1, "done"), (1, "dead")]
    assert len(durations) == 3
    assert await connection.fetchval("SELECT error FROM pgbus.dead_letters") == "nobody can help: lost"


async def test_middleware_changes_arguments_and_results_of_a_procedure_or_answers(
    bus: pgbus.Bus,
) -> None:
    cache: dict[int, object] = {}
    ran: list[int] = []

    @bus.middleware
    async def cached(context: AnyContext, call_next: Next) -> Any:
        assert isinstance(context, pgbus.CallContext)
        number: Any = context.arguments["number"]
        if number not in cache:
            context.arguments["number"] = number + 1
            cache[number] = await call_next()
        return cache[number]

    @bus.middleware
    def double(context: AnyContext, call_next: PlainNext) -> Any:
        return call_next() * 2

    @bus.procedure("math.same")
    def same(number: int) -> int:
        ran.append(number)
        return number

    async with running(bus):
        assert await bus.call("math.same", {"number": 1}) == 4
        assert await bus.call("math.same", {"number": 1}) == 4
    assert ran == [2]


async def test_what_middleware_makes_of_a_result_must_fit_the_procedure(bus: pgbus.Bus) -> None:
    @bus.middleware
    async def spoil(context: AnyContext, call_next: Next) -> Any:
        await call_next()
        return "no number"

    @bus.procedure("math.one")
    async def one() -> int:
        return 1

    async with running(bus):
        with pytest.raises(pgbus.InvalidResult):
            await bus.call("math.one")


async def test_an_error_that_middleware_raises_around_a_procedure_is_the_answer(bus: pgbus.Bus) -> None:
    @bus.middleware
    async def refuse(context: AnyContext, call_next: Next) -> Any:
        raise PermissionError("not you")

    @bus.procedure("math.one")
    async def one() -> int:
        return 1

    async with running(bus):
        with pytest.raises(pgbus.RemoteError, match="PermissionError: not you"):
            await bus.call("math.one")


async def test_middleware_may_call_a_handler_again(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    calls: list[str] = []
    watch = Watch(bus)

    @bus.middleware
    async def insist(context: AnyContext, call_next: Next) -> Any:
        try:
            return await call_next()
        except ValueError:
            return await call_next()

    def fail_once(name: str) -> str:
        calls.append(name)
        if calls.count(name) == 1:
            raise ValueError
        return name

    bus.listener("a.b", name="tested")(lambda event: fail_once("event"))
    bus.procedure("a.procedure", concurrency=1)(functools.partial(fail_once, "call"))
    async with running(bus):
        await bus.publish({}, topic="a.b")
        await settled(watch)
        # Its room is given back once for each call: there is always some for the next.
        for _ in range(3):
            assert await bus.call("a.procedure") == "call"
    assert calls == ["event", "event", "call", "call", "call", "call"]
    assert await outcomes(connection) == [(1, "done")]


@pytest.mark.parametrize("plain", [False, True])
async def test_the_time_of_middleware_counts_against_the_timeout_of_a_listener(
    bus: pgbus.Bus, connection: asyncpg.Connection, plain: bool
) -> None:
    watch = Watch(bus)

    @bus.middleware
    async def hang(context: AnyContext, call_next: Next) -> Any:
        await call_next()
        await asyncio.Event().wait()

    def handle(event: object) -> None: ...

    async def handle_async(event: object) -> None: ...

    bus.listener("a.b", name="tested", retry=1, timeout=0.05)(handle if plain else handle_async)
    async with running(bus):
        await bus.publish({}, topic="a.b")
        await settled(watch, dead=True)
    assert "ran past its timeout" in await connection.fetchval("SELECT error FROM pgbus.dead_letters")
