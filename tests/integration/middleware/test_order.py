"""Middleware: what wraps which handler, in which order, context and thread, and what is refused as middleware."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

import pgbus
from pgbus.telemetry import Settled
from tests.support.workers import Inbox, Watch, running
from tests.support.wrapping import AnyContext, Next, PlainNext, settled

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


async def test_plain_middleware_that_returns_a_coroutine_fails_the_attempt(
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


async def test_a_handler_that_middleware_does_not_await_has_failed_not_been_skipped(
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
