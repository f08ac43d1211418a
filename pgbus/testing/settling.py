"""Delivery of what was committed: a real worker in the test's event loop, until nothing is left to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from pgbus.bus import Bus
from pgbus.errors import Retry
from pgbus.registry import Listener
from pgbus.store import Store, connect
from pgbus.testing.attempts import Attempt, message_of
from pgbus.worker import Worker

# Seconds between looks, for what gives no signal.
LOOK_INTERVAL = 0.05


class SettlingWorker(Worker):
    """A worker that tells what handlers raise, and tries again without a delay."""

    def __init__(self, bus: Bus, *, tell: Callable[[BaseException], None]) -> None:
        super().__init__(bus)
        self._tell = tell

    @property
    def listener_names(self) -> list[str]:
        """The listeners whose events are waited for."""
        return [listener.name for listener in self._listeners()]

    def _listeners(self) -> list[Listener]:
        return [_watched(listener, self._tell) for listener in super()._listeners()]


def _watched(listener: Listener, tell: Callable[[BaseException], None]) -> Listener:
    @contextlib.contextmanager
    def watching() -> Iterator[None]:
        try:
            yield
        except Retry as error:
            tell(error)
            raise Retry(error.reason, after=0.0) from error
        except BaseException as error:
            tell(error)
            raise

    def decode(event: Any) -> Any:
        with watching():
            return listener.decode(event)

    async def handle(**arguments: Any) -> None:
        with watching():
            await listener.handler(**arguments)

    def handle_sync(**arguments: Any) -> None:
        with watching():
            listener.handler(**arguments)

    return replace(
        listener,
        handler=handle if listener.signature.is_async else handle_sync,
        decode=decode,
        retry=replace(listener.retry, base_delay=0.0, max_delay=0.0),
    )


async def settle(bus: Bus, *, raise_errors: bool, timeout: float) -> list[Attempt]:
    """Deliver everything that is due, and what is published by that; raises TimeoutError after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[BaseException] = loop.create_future()

    def fail(error: BaseException) -> None:
        if not failed.done():
            failed.set_result(error)

    def tell(error: BaseException) -> None:
        if raise_errors:
            loop.call_soon_threadsafe(fail, error)

    async with _store(bus) as store:
        since = (await store.fetch_one("count_unsettled", listener_names=[]))["looked_at"]
        worker = SettlingWorker(bus, tell=tell)
        await _run_until_idle(worker, bus, store, failed=failed, timeout=timeout)
        if failed.done():
            raise failed.result()
        rows = await store.fetch("find_attempts", since=since, listener_names=worker.listener_names)
    return [
        Attempt(name, message_of(columns), attempt, outcome, error) for name, attempt, outcome, error, *columns in rows
    ]


@asynccontextmanager
async def _store(bus: Bus) -> AsyncIterator[Store]:
    connection = await connect(bus.config)
    try:
        yield Store(connection, namespace=bus.config.namespace)
    finally:
        await connection.close()


async def _run_until_idle(
    worker: SettlingWorker, bus: Bus, store: Store, *, failed: asyncio.Future[BaseException], timeout: float
) -> None:
    happened = asyncio.Event()
    unobserve = bus.telemetry.observe(lambda _: happened.set())
    running = asyncio.create_task(worker.run(), name="pgbus worker of a test")
    idle = asyncio.create_task(_wait_until_idle(worker, store, happened), name="pgbus test")
    done: set[asyncio.Future[Any]] = set()
    ends: list[asyncio.Future[Any]] = [running, idle, failed]
    try:
        done, _ = await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        unobserve()
        idle.cancel()
        worker.request_stop()
        if not done:
            worker.request_stop()  # in a hurry: a handler hangs, or the test was cancelled
        await running
    if idle in done:
        idle.result()
    if not done:
        raise TimeoutError(f"after {timeout:g} seconds, there were still events that are due and not settled")


async def _wait_until_idle(worker: SettlingWorker, store: Store, happened: asyncio.Event) -> None:
    await worker.ready.wait()
    while (await store.fetch_one("count_unsettled", listener_names=worker.listener_names))["unsettled"]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_INTERVAL):
                await happened.wait()
        happened.clear()
