"""Middleware: what wraps which handler, in which order, thread and transaction, and what it can make of it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import pgbus
from pgbus.telemetry import Settled
from tests.conftest import Connect
from tests.support.workers import QUICK_RETRY, Inbox, Watch, running, until_idle

Next = Callable[[], Awaitable[Any]]
PlainNext = Callable[[], Any]
AnyContext = pgbus.Context | pgbus.CallContext


@pytest.fixture
async def connection(database: str, connect: Connect) -> asyncpg.Connection:
    opened = await connect(database)
    await opened.execute("CREATE TABLE ledger (n text)")
    return opened


async def ledger(connection: asyncpg.Connection) -> list[str]:
    return [row["n"] for row in await connection.fetch("SELECT n FROM ledger ORDER BY n")]


async def outcomes(connection: asyncpg.Connection) -> list[tuple[int, str]]:
    rows = await connection.fetch("SELECT attempt, outcome FROM pgbus.history ORDER BY position, attempt")
    return [tuple(row) for row in rows]


async def settled(watch: Watch, *, dead: bool = False) -> None:
    await watch.until(lambda _: any(one.dead if dead else one.done for one in watch.of(Settled)))


# -------------------------------------------------------------------------------------------------------------- order


async def test_the_first_registered_is_outermost_and_plain_ones_are_within_async_ones(bus: pgbus.Bus) -> None:
    calls: list[str] = []
    inbox: Inbox[Any] = Inbox()

    def noting(name: str) -> Callable[[AnyContext, PlainNext], Any]:
        def middleware(context: AnyContext, call_next: PlainNext) -> Any:
            calls.append(f"{name} in")
            try:
                return call_next()
            finally:
                calls.append(f"{name} out")

        return middleware

    def noting_async(name: str) -> Callable[[AnyContext, Next], Awaitable[Any]]:
        async def middleware(context: AnyContext, call_next: Next) -> Any:
            calls.append(f"{name} in")
            try:
                return await call_next()
            finally:
                calls.append(f"{name} out")

        return middleware

    for middleware in (noting("plain 1"), noting_async("async 1"), noting("plain 2"), noting_async("async 2")):
        assert bus.middleware(middleware) is middleware

    @bus.listener("plain.event", name="plain")
    def plain(event: object) -> None:
        calls.append("plain handler")

    @bus.listener("async.event", name="async")
    async def not_plain(event: object) -> None:
        calls.append("async handler")

    watch = Watch(bus)
    outer, inner = ["async 1 in", "async 2 in"], ["async 2 out", "async 1 out"]
    plain_outer, plain_inner = ["plain 1 in", "plain 2 in"], ["plain 2 out", "plain 1 out"]
    async with running(bus):
        await bus.publish({}, topic="plain.event")
        await settled(watch)
        assert calls == [*outer, *plain_outer, "plain handler", *plain_inner, *inner]
        calls.clear()
        await bus.publish({}, topic="async.event")
        await watch.until(lambda _: len(watch.of(Settled)) == 2)
        assert calls == [*outer, "async handler", *inner]
    assert inbox.items == []


# ------------------------------------------------------------------------------------------------------------ contexts


async def test_events_come_with_their_context_and_calls_with_theirs(bus: pgbus.Bus) -> None:
    contexts: Inbox[AnyContext] = Inbox()

    @bus.middleware
    async def note(context: AnyContext, call_next: Next) -> Any:
        contexts.put(context)
        return await call_next()

    @bus.listener("a.one", name="one")
    async def one(event: object, context: pgbus.Context) -> None:
        assert contexts.items[-1] is context

    @bus.listener("a.many", name="many", batch=True)
    async def many(events: list[object]) -> None: ...

    @bus.procedure("math.half")
    def half(number: int) -> float:
        return number / 2

    async with running(bus):
        published = await bus.publish({}, topic="a.one")
        [context] = await contexts.take(1)
        assert isinstance(context, pgbus.Context)
        assert (context.listener_name, context.event.id, context.attempt) == ("one", published.id, 1)

        ids = await bus.publish_many([{}, {}], topic="a.many")
        await contexts.until(lambda items: sum(len(getattr(item, "events", [])) for item in items) == 3)
        events = [event for item in contexts.items[1:] if isinstance(item, pgbus.Context) for event in item.events]
        assert {event.event_id for event in events} == set(ids)

        contexts.items.clear()
        assert await bus.call("math.half", {"number": 4}) == 2.0
        [call] = contexts.items
        assert isinstance(call, pgbus.CallContext)
        assert (call.procedure, call.api_name, call.procedure_name) == ("math.half", "math", "half")
        assert call.arguments == {"number": 4}


async def test_what_middleware_sets_in_a_context_variable_the_handler_sees(bus: pgbus.Bus) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
    seen: Inbox[str] = Inbox()

    @bus.middleware
    async def set_tenant(context: AnyContext, call_next: Next) -> Any:
        token = tenant.set("acme")
        try:
            return await call_next()
        finally:
            tenant.reset(token)

    @bus.middleware
    def extend(context: AnyContext, call_next: PlainNext) -> Any:
        tenant.set(f"{tenant.get()} plain")
        return call_next()

    @bus.listener("a.b", name="async")
    async def handle(event: object) -> None:
        seen.put(tenant.get())

    @bus.listener("a.b", name="plain")
    def handle_plain(event: object) -> None:
        seen.put(tenant.get())

    @bus.procedure("who.am_i")
    def who() -> str:
        return tenant.get()

    async with running(bus):
        await bus.publish({}, topic="a.b")
        assert sorted(await seen.take(2)) == ["acme", "acme plain"]
        assert await bus.call("who.am_i") == "acme plain"


async def test_plain_middleware_runs_in_the_thread_of_the_handler(bus: pgbus.Bus) -> None:
    """As connections of Django are a thread's own, they are looked after by what runs in that."""
    threads: Inbox[tuple[str, int]] = Inbox()

    @bus.middleware
    def close_old_connections(context: AnyContext, call_next: PlainNext) -> Any:
        threads.put(("before", threading.get_ident()))
        try:
            return call_next()
        finally:
            threads.put(("after", threading.get_ident()))

    @bus.listener("a.b", name="tested")
    def handle(event: object) -> None:
        threads.put(("handler", threading.get_ident()))

    @bus.procedure("a.procedure")
    def procedure() -> None:
        threads.put(("procedure", threading.get_ident()))

    async with running(bus):
        await bus.publish({}, topic="a.b")
        noted = await threads.take(3)
        assert [name for name, _ in noted] == ["before", "handler", "after"]
        assert len({ident for _, ident in noted}) == 1 != threading.get_ident()
        await bus.call("a.procedure")
        assert [name for name, _ in threads.items[3:]] == ["before", "procedure", "after"]
        assert len({ident for _, ident in threads.items[3:]}) == 1


# -------------------------------------------------------------------------------------------------- what it can make


@pytest.mark.parametrize("plain", [False, True])
async def test_middleware_times_handlers_skips_them_and_turns_their_errors_into_others(
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


async def test_middleware_changes_the_arguments_and_the_result_of_a_procedure_or_answers_itself(
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
            assert await bus.call("a.procedure", timeout=20) == "call"
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


# -------------------------------------------------------------------------------------------------------- transactions

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


async def test_an_error_of_async_middleware_after_the_transaction_of_a_plain_handler_comes_too_late(
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


async def test_an_error_of_a_plain_transactional_handler_that_middleware_swallows_rolls_back_and_settles(
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


# ------------------------------------------------------------------------------------------------------------- refused


async def _async_generator(context: object, call_next: object) -> Any:
    yield


def _generator(context: object, call_next: object) -> Any:
    yield


async def _too_few(context: object) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (None, "None is not a function"),
        (_async_generator, "is a generator"),
        (_generator, "is a generator"),
        (_too_few, "is called as `_too_few\\(context, call_next\\)`"),
        (lambda context, call_next, more: None, "missing a required argument: 'more'"),
    ],
)
async def test_what_cannot_be_middleware_is_refused_when_it_is_registered(
    bus: pgbus.Bus, function: Any, said: str
) -> None:
    with pytest.raises(pgbus.ConfigurationError, match=said):
        bus.middleware(function)


async def test_a_plain_function_that_returns_a_coroutine_fails_the_attempt_and_says_why(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    watch = Watch(bus)

    async def wrap(context: AnyContext, call_next: Next) -> Any:
        return await call_next()

    bus.middleware(lambda context, call_next: wrap(context, call_next))
    bus.listener("a.b", name="tested", retry=1)(lambda event: None)
    async with running(bus):
        await bus.publish({}, topic="a.b")
        await settled(watch, dead=True)
    assert "make it `async def`, and await call_next()" in await connection.fetchval(
        "SELECT error FROM pgbus.dead_letters"
    )


async def test_a_handler_that_middleware_forgets_to_await_is_a_failure_and_not_a_skipped_handler(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    watch = Watch(bus)

    @bus.middleware
    async def forgetful(context: AnyContext, call_next: Next) -> Any:
        return call_next()

    @bus.listener("a.b", name="tested", retry=1)
    async def handle(event: object) -> None: ...

    async with running(bus):
        await bus.publish({}, topic="a.b")
        await settled(watch, dead=True)
    error = await connection.fetchval("SELECT error FROM pgbus.dead_letters")
    assert "forgetful has not awaited call_next()" in error
