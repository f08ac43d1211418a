"""Delivery of what was committed: a real worker of each bus in the test's event loop, until nothing is left to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from pgbus.aio.returned import finish, is_awaitable
from pgbus.bus import Bus, make_worker
from pgbus.database.connections import connect
from pgbus.database.statements import notifications, sequencer, testing
from pgbus.database.store import Store
from pgbus.errors import Retry
from pgbus.listeners.listener import Listener
from pgbus.registry import Registry, Work
from pgbus.telemetry import Happening, Settled
from pgbus.testing.attempts import Attempt
from pgbus.worker.selection import Selection
from pgbus.worker.worker import Worker

# Seconds between looks, for what gives no signal.
LOOK_INTERVAL = 0.05


class WatchedListeners(Selection):
    """Every listener of a bus, and no tasks. It tells what handlers raise; a retry comes without a delay."""

    def __init__(
        self, registry: Registry, *, only: Sequence[str] | None = None, tell: Callable[[BaseException], None]
    ) -> None:
        super().__init__(registry, only=only)
        self._tell = tell

    def work(self) -> Work:
        """The listeners, watched, and the procedures; what is on a schedule is not due to what was published."""
        work = super().work()
        listeners = [_watched(listener, self._tell) for listener in work.listeners]
        return replace(work, listeners=listeners, schedules=(), background=())

    @property
    def names(self) -> list[str]:
        """The listeners whose events are waited for."""
        return [listener.name for listener in super().work().listeners]


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


async def deliver_committed(
    buses: Sequence[Bus], *, only: Sequence[str] | None = None, raise_errors: bool, timeout: float
) -> list[Attempt]:
    """Deliver everything that is due, and what is published by that; raises TimeoutError after `timeout` seconds.

    The buses are of one database and namespace; `only` names listeners, default: all.
    """
    failure = Failure()
    watched = [WatchedListeners(bus.registry, only=only, tell=failure.tell) for bus in buses]
    async with _store(buses[0]) as store:
        since = (await testing.count_unsettled(store, listener_names=[])).looked_at
        workers = [make_worker(bus, selection=selection) for bus, selection in zip(buses, watched, strict=True)]

        def names() -> list[str]:
            return [name for selection in watched for name in selection.names]

        with _observed(buses, failure if raise_errors else None) as happened:
            idle = _wait_until_idle(workers, names, store, happened)
            await _run_until(idle, workers, failure=failure if raise_errors else None, timeout=timeout)
        if raise_errors and failure.error:
            raise failure.error
        found = await testing.find_attempts(store, since=since, listener_names=names())
    attempts = [Attempt(one.listener_name, one.event, one.attempt, one.outcome, one.error) for one in found]
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


@contextlib.contextmanager
def _observed(buses: Sequence[Bus], failure: Failure | None) -> Iterator[asyncio.Event]:
    """An event that is set whenever something happens on one of the buses."""
    happened = asyncio.Event()
    with contextlib.ExitStack() as stack:
        for bus in buses:
            stack.callback(bus.telemetry.observe(lambda _: happened.set()))
            if failure:
                stack.callback(bus.telemetry.observe(failure.observe))
        yield happened


async def _run_until(
    idle: Coroutine[Any, Any, None], workers: Sequence[Worker], *, failure: Failure | None, timeout: float
) -> None:
    running = [asyncio.create_task(worker.run(), name="pgbus worker of a test") for worker in workers]
    waiting = asyncio.create_task(idle, name="pgbus test")
    ends = [waiting, *([asyncio.create_task(_wait_for(failure.happened))] if failure else [])]
    done: set[asyncio.Task[None]] = set()
    try:
        done, _ = await asyncio.wait([*running, *ends], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends:
            task.cancel()
        for worker in workers:
            worker.request_stop()
            if not done:
                worker.request_stop()  # an immediate stop: a handler hangs, or the test was cancelled
        await asyncio.wait([*running, waiting])
    for worker_task in running:
        await worker_task
    if waiting in done:
        waiting.result()
    if not done:
        raise TimeoutError(f"after {timeout:g} seconds, there were still events that are due and not settled")


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


async def _wait_until_idle(
    workers: Sequence[Worker], names: Callable[[], list[str]], store: Store, happened: asyncio.Event
) -> None:
    # An event is owed to the listeners that are registered when it enters the log; so none does before all are.
    holds_back = len(workers) > 1 and await sequencer.try_lead(store)
    for worker in workers:
        await worker.ready.wait()
    if holds_back:
        await testing.stop_leading(store)
    while (await testing.count_unsettled(store, listener_names=names())).unsettled:
        if holds_back:  # each time: a worker may have been about to wait for this
            await notifications.notify_workers(store, "leaderless")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_INTERVAL):
                await happened.wait()
        happened.clear()
