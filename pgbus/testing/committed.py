"""Delivery of what was committed: a real worker in the test's event loop, until nothing is left to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from pgbus.aio.returned import finish, is_awaitable
from pgbus.bus import Bus, make_worker
from pgbus.database.connections import connect
from pgbus.database.store import Store
from pgbus.errors import Retry
from pgbus.listeners.listener import Listener
from pgbus.registry import Registry
from pgbus.schedules.schedule import Background, Schedule
from pgbus.telemetry import Happening, Settled
from pgbus.testing.attempts import Attempt, message_of
from pgbus.worker.selection import Selection
from pgbus.worker.worker import Worker

# Seconds between looks, for what gives no signal.
LOOK_INTERVAL = 0.05


class WatchedListeners(Selection):
    """Every listener of a bus, and no tasks. It tells what handlers raise; a retry comes without a delay."""

    def __init__(self, registry: Registry, *, tell: Callable[[BaseException], None]) -> None:
        super().__init__(registry)
        self._tell = tell

    @property
    def listeners(self) -> list[Listener]:
        """The listeners, watched."""
        return [_watched(listener, self._tell) for listener in super().listeners]

    @property
    def names(self) -> list[str]:
        """The listeners whose events are waited for."""
        return [listener.name for listener in super().listeners]

    @property
    def schedules(self) -> list[Schedule]:
        """None: what is on a schedule has nothing to do with what was published."""
        return []

    @property
    def background(self) -> list[Background]:
        """None."""
        return []


def _watched(listener: Listener, tell: Callable[[BaseException], None]) -> Listener:
    @contextlib.contextmanager
    def watching() -> Iterator[None]:
        try:
            yield
        except Retry as error:
            tell(error)
            raise Retry(error.reason, after=0.0) from error
        except asyncio.CancelledError:  # by its timeout, or as the worker stops
            raise
        except BaseException as error:
            tell(error)
            raise

    def decode(event: Any) -> Any:
        with watching():
            return listener.decode(event)

    async def handle(**arguments: Any) -> Any:
        with watching():
            return await listener.handler(**arguments)

    async def watch(returned: Any) -> Any:
        with watching():
            return await finish(returned, f"the handler of {listener.name!r}")

    def handle_sync(**arguments: Any) -> Any:
        with watching():
            returned = listener.handler(**arguments)
        return watch(returned) if is_awaitable(returned) else returned

    return replace(
        listener,
        handler=handle if listener.signature.is_async else handle_sync,
        decode=decode,
        retry=replace(listener.retry, base_delay=0.0, max_delay=0.0),
    )


class Failure:
    """The first failure of a handler: `error` is what it raised, if that is known."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.error: BaseException | None = None
        self.happened = asyncio.Event()

    def tell(self, error: BaseException) -> None:
        """A handler raised; it may run in a thread."""
        self._loop.call_soon_threadsafe(self._note, error)

    def observe(self, happening: Happening) -> None:
        """Something was settled, perhaps what failed without its handler: by its timeout, or in middleware."""
        if isinstance(happening, Settled) and (happening.retried or happening.dead):
            self._note(None)

    def _note(self, error: BaseException | None) -> None:
        if not self.happened.is_set():
            self.error = error
            self.happened.set()


async def deliver_committed(bus: Bus, *, raise_errors: bool, timeout: float) -> list[Attempt]:
    """Deliver everything that is due, and what is published by that; raises TimeoutError after `timeout` seconds."""
    failure = Failure()
    async with _store(bus) as store:
        since = (await store.fetch_one("count_unsettled", listener_names=[]))["looked_at"]
        watched = WatchedListeners(bus.registry, tell=failure.tell)
        await _run_until_idle(watched, bus, store, failure=failure if raise_errors else None, timeout=timeout)
        if raise_errors and failure.error:
            raise failure.error
        rows = await store.fetch("find_attempts", since=since, listener_names=watched.names)
    attempts = [
        Attempt(name, message_of(columns), attempt, outcome, error) for name, attempt, outcome, error, *columns in rows
    ]
    for one in attempts:
        if raise_errors and one.outcome in ("retry", "dead"):
            raise AssertionError(f"{one.listener_name} failed on {one.event.topic}: {one.error}")
    return attempts


@asynccontextmanager
async def _store(bus: Bus) -> AsyncIterator[Store]:
    connection = await connect(bus.config)
    try:
        yield Store(connection, namespace=bus.config.namespace)
    finally:
        await connection.close()


async def _run_until_idle(
    watched: WatchedListeners, bus: Bus, store: Store, *, failure: Failure | None, timeout: float
) -> None:
    worker = make_worker(bus, selection=watched)
    happened = asyncio.Event()
    unobserve = [bus.telemetry.observe(lambda _: happened.set())]
    ends = [
        asyncio.create_task(worker.run(), name="pgbus worker of a test"),
        asyncio.create_task(_wait_until_idle(worker, watched, store, happened), name="pgbus test"),
    ]
    if failure:
        unobserve.append(bus.telemetry.observe(failure.observe))
        ends.append(asyncio.create_task(_wait_for(failure.happened)))
    running, idle, *_ = ends
    done: set[asyncio.Task[None]] = set()
    try:
        done, _ = await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in unobserve:
            end()
        for task in ends[1:]:
            task.cancel()
        worker.request_stop()
        if not done:
            worker.request_stop()  # in a hurry: a handler hangs, or the test was cancelled
        await running
    if idle in done:
        idle.result()
    if not done:
        raise TimeoutError(f"after {timeout:g} seconds, there were still events that are due and not settled")


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


async def _wait_until_idle(worker: Worker, watched: WatchedListeners, store: Store, happened: asyncio.Event) -> None:
    await worker.ready.wait()
    while (await store.fetch_one("count_unsettled", listener_names=watched.names))["unsettled"]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_INTERVAL):
                await happened.wait()
        happened.clear()
