"""What user code returns: nothing counts as done whose body did not run."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy.orm import Session

import pgbus
from pgbus.telemetry import Settled, TaskEnded
from pgbus.testing import deliver_now
from tests.support.waiting import widening
from tests.support.workers import MANY_RETRIES, QUICK_RETRY, Inbox, Watch, running


async def letters(connection: asyncpg.Connection) -> list[str]:
    return [row["error"] for row in await connection.fetch("SELECT error FROM pgbus.dead ORDER BY id")]


def wrapped(function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def as_lambda(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda event: function(event)


def as_forgotten_await(function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(event: Any) -> Any:
        return function(event)

    return call


def as_task(function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(event: Any) -> Any:
        return asyncio.create_task(function(event))

    return call


HIDING = pytest.mark.parametrize("hide", [wrapped, as_lambda, as_forgotten_await, as_task])


# ----------------------------------------------------------------------------------------------------------- listeners


@HIDING
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("timeout", [None, 10.0])
async def test_a_coroutine_that_a_handler_returns_is_awaited_on_the_event_loop(
    bus: pgbus.Bus, hide: Callable[..., Any], batch: bool, timeout: float | None
) -> None:
    inbox: Inbox[bool] = Inbox()

    async def body(event: Any) -> None:
        await asyncio.sleep(0)
        inbox.put(threading.current_thread() is threading.main_thread())

    bus.listener("a.b", name="mail", batch=batch, timeout=timeout)(hide(body))
    async with running(bus):
        await bus.publish({"n": 1}, topic="a.b")
        assert await inbox.take(1) == [True]


async def test_what_the_coroutine_raises_is_a_failed_attempt(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    watch = Watch(bus)

    async def body(event: Any) -> None:
        raise ValueError("from within")

    bus.listener("a.b", name="mail", retry=1)(wrapped(body))
    async with running(bus):
        await bus.publish({}, topic="a.b")
        assert (await watch.first(Settled)).dead == 1
    assert "from within" in (await letters(connection))[0]


async def test_a_timeout_cancels_the_coroutine_and_its_thread_ends(bus: pgbus.Bus) -> None:
    watch, inbox = Watch(bus), Inbox[str]()

    async def body(event: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            inbox.put("cancelled")
            raise

    # On a busy machine the time of an attempt may be over before its body begins: then nothing of it is cancelled.
    bus.listener("a.b", name="mail", retry=MANY_RETRIES, timeout=0.1)(wrapped(body))
    async with running(bus):
        await bus.publish({}, topic="a.b")
        assert (await watch.first(Settled)).done == 0
        assert set(await inbox.take(1)) == {"cancelled"}


def _generator(event: Any) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _context_manager(event: Any) -> Iterator[None]:
    yield


@contextlib.asynccontextmanager
async def _async_context_manager(event: Any) -> AsyncIterator[None]:
    yield


def _with_retries(times: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    return decorate


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (lambda event: _generator(event), "returned a generator, so nothing of its body has run"),
        (lambda event: map(print, [event]), "returned a map, so nothing"),
        (_context_manager, "returned a GeneratorContextManager, so nothing"),
        (_async_context_manager, "returned an AsyncGeneratorContextManager, so nothing"),
        (_with_retries, "returned a function, which is never called: a decorator on it may lack its parentheses"),
    ],
)
async def test_what_has_not_run_is_a_failed_attempt(
    bus: pgbus.Bus, connection: asyncpg.Connection, handler: Callable[..., Any], said: str
) -> None:
    watch = Watch(bus)
    bus.listener("a.b", name="mail", retry=1)(handler)
    async with running(bus):
        await bus.publish({}, topic="a.b")
        assert (await watch.first(Settled)).dead == 1
    (error,) = await letters(connection)
    assert "the handler of 'mail' returned" in error
    assert said in error


async def test_a_transaction_of_a_thread_awaits_nothing(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    watch = Watch(bus)

    async def body(event: Any, session: Session) -> None: ...

    bus.listener("a.b", name="mail", retry=1, transactional=True)(wrapped(body))
    async with running(bus):
        await bus.publish({}, topic="a.b")
        assert (await watch.first(Settled)).dead == 1
    assert "returned a coroutine, and its transaction is its thread's" in (await letters(connection))[0]


async def test_plain_middleware_is_around_all_of_a_coroutine(bus: pgbus.Bus) -> None:
    inbox: Inbox[str] = Inbox()

    @bus.middleware
    def around(context: Any, call_next: Callable[[], Any]) -> Any:
        inbox.put("in")
        try:
            return call_next()
        finally:
            inbox.put("out")

    async def body(event: Any) -> None:
        await asyncio.sleep(0)
        inbox.put("body")

    bus.listener("a.b", name="mail")(wrapped(body))
    async with running(bus):
        await bus.publish({}, topic="a.b")
        assert await inbox.take(3) == ["in", "body", "out"]


async def test_listen_awaits_what_a_handler_returns(bus: pgbus.Bus) -> None:
    inbox: Inbox[int] = Inbox()

    async def body(n: int) -> None:
        inbox.put(n)

    bus.a.b.listen(lambda n: body(n), listener_name="mail")
    async with running(bus):
        await bus.publish({"n": 7}, topic="a.b")
        assert await inbox.take(1) == [7]


async def test_a_test_gets_what_the_coroutine_raised(bus: pgbus.Bus) -> None:
    async def body(event: Any) -> None:
        raise ValueError("from within")

    bus.listener("a.b", name="mail", retry=QUICK_RETRY, start="beginning")(wrapped(body))
    await bus.publish({}, topic="a.b")
    with pytest.raises(ValueError, match="from within"):
        await deliver_now(bus)


# ---------------------------------------------------------------------------------------------------------- procedures


@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_a_procedure_returns_what_its_coroutine_does(bus: pgbus.Bus, is_wrapped: bool) -> None:
    async def body(n: int) -> int:
        return n + 1

    async def forgetful(n: int) -> Any:
        return body(n)

    bus.procedure("a.add")(wrapped(body) if is_wrapped else forgetful)
    async with running(bus):
        assert await bus.call("a.add", {"n": 1}) == 2
        bus.middleware(lambda context, call_next: call_next())
        assert await bus.call("a.add", {"n": 2}) == 3


async def test_the_caller_is_told_of_a_procedure_that_has_not_run(bus: pgbus.Bus) -> None:
    bus.procedure("a.add")(lambda: _generator(1))
    async with running(bus):
        with pytest.raises(pgbus.RemoteError, match=r"a\.add returned a generator, so nothing of its body has run"):
            await bus.call("a.add")


async def test_a_deadline_cancels_a_plain_procedures_coroutine_and_frees_its_place(bus: pgbus.Bus) -> None:
    inbox: Inbox[str] = Inbox()
    started: list[bool] = []

    async def body(hangs: bool) -> bool:
        started.append(hangs)
        try:
            return hangs and await asyncio.Event().wait()
        except asyncio.CancelledError:
            inbox.put("cancelled")
            raise

    bus.procedure("a.hang", concurrency=1)(wrapped(body))
    async with running(bus):
        for timeout in widening(0.5):
            with pytest.raises(pgbus.CallTimeout):
                await bus.call("a.hang", {"hangs": True}, timeout=timeout)
            if started:
                break
        assert set(await inbox.take(1)) == {"cancelled"}
        assert await bus.call("a.hang", {"hangs": False}) is False


# ------------------------------------------------------------------------------------------------------- hooks, tasks


@pytest.mark.parametrize("is_plain", [False, True])
async def test_a_hook_is_through_when_what_it_returned_is(bus: pgbus.Bus, is_plain: bool) -> None:
    hooked: list[int] = []

    async def body() -> None:
        await asyncio.sleep(0)
        hooked.append(1)

    async def forgetful() -> Any:
        return body()

    bus.client.before_event_sent((lambda: body()) if is_plain else forgetful)
    await bus.publish({}, topic="a.b")
    assert hooked == [1]
    await asyncio.to_thread(bus.publish_sync, {}, topic="a.b")
    assert hooked == [1, 1]


async def test_a_hook_that_has_not_run_is_an_error(bus: pgbus.Bus) -> None:
    bus.client.before_event_sent(lambda: _generator(1))
    with pytest.raises(pgbus.ConfigurationError, match=r"the before_event_sent hook .* returned a generator"):
        await bus.publish({}, topic="a.b")


async def test_a_task_awaits_what_it_returned(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    inbox: Inbox[str] = Inbox()

    async def body() -> None:
        await asyncio.sleep(0)
        inbox.put("body")

    async def forgetful() -> Any:
        return body()

    bus.client.every(hours=1, also_run_immediately=True, name="forgetful")(forgetful)
    bus.client.every(hours=1, also_run_immediately=True, name="plain")(lambda: body())
    bus.client.add_background_task(forgetful)
    bus.client.add_background_task(forgetful())
    async with running(bus):
        await inbox.take(4)


async def test_a_task_that_has_not_run_has_failed(bus: pgbus.Bus) -> None:
    watch = Watch(bus)
    bus.client.every(hours=1, also_run_immediately=True, name="lazy")(lambda: _generator(1))
    async with running(bus):
        assert (await watch.first(TaskEnded)).outcome == "failed"


# ---------------------------------------------------------------------------------------------------------- declaring


class _Callable:
    def __call__(self, event: Any) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_generator, "_generator is a generator function, and a call runs none of it"),
        (functools.partial(_generator), "_generator is a generator"),
        (_Callable(), "_Callable is a generator"),
        (_Callable, "_Callable is a class, and a call only creates an instance"),
        (7, "7 is not a function"),
    ],
)
def test_what_would_not_run_is_refused_where_it_is_declared(function: Any, said: str) -> None:
    bus = pgbus.create("postgresql://localhost/nowhere")
    for declare in (
        bus.listener("a.b", name="mail"),
        bus.a.b.listen,
        bus.procedure("a.b"),
        bus.client.every(hours=1, name="task"),
        bus.client.before_event_sent,
        bus.middleware,
    ):
        with pytest.raises(pgbus.ConfigurationError, match=said):
            declare(function)


def test_plain_middleware_around_an_async_one_is_refused() -> None:
    bus = pgbus.create("postgresql://localhost/nowhere")

    async def middleware(context: Any, call_next: Callable[[], Awaitable[Any]]) -> Any:
        return await call_next()

    with pytest.raises(pgbus.ConfigurationError, match="a plain function around an async one"):
        bus.middleware(wrapped(middleware))


def test_an_observer_is_a_plain_function() -> None:
    async def observe(happening: object) -> None: ...

    bus = pgbus.create("postgresql://localhost/nowhere")
    with pytest.raises(pgbus.ConfigurationError, match="an observer is a plain function"):
        bus.telemetry.observe(observe)  # type: ignore[arg-type] # that is the point
