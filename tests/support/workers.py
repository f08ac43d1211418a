"""Workers that run in the test's own event loop, and what a test waits for while they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import asyncpg

import pgbus
from pgbus.bus import make_worker
from pgbus.telemetry import Happening
from pgbus.worker.worker import Worker
from tests.support.waiting import PATIENCE, eventually

T = TypeVar("T")
H = TypeVar("H", bound=Happening)

# A call that says nothing waits as long as everything else in a test does.
RPC_TIMEOUT = PATIENCE
# So rare a poll is none: what arrives has been notified.
NO_POLL = 600.0
QUICK_RETRY = pgbus.RetryPolicy(max_attempts=3, base_delay=0.01, jitter=0.0)
# For handlers with a short timeout, which a busy machine may pass at any attempt.
MANY_RETRIES = pgbus.RetryPolicy(max_attempts=100, base_delay=0.01, jitter=0.0)


@asynccontextmanager
async def open_bus(dsn: str, **settings: Any) -> AsyncIterator[pgbus.Bus]:
    """A bus that never polls, closed afterwards; `settings` are those of `pgbus.create`."""
    bus = pgbus.create(dsn, **{"poll_interval": NO_POLL, "pool_size": 3, "rpc_timeout": RPC_TIMEOUT, **settings})
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def running(
    bus: pgbus.Bus, *, only: Sequence[str] | None = None, skip: Sequence[str] | None = None
) -> AsyncIterator[Worker]:
    """A worker that is ready, and is stopped afterwards; its error, if it has one, is raised."""
    worker = make_worker(bus, only=only, skip=skip)
    task = asyncio.create_task(worker.run())
    ready = asyncio.create_task(worker.ready.wait())
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield worker
    finally:
        ready.cancel()
        if not task.done():
            worker.request_stop()
        async with asyncio.timeout(PATIENCE):
            await task


class Inbox(Generic[T]):
    """What handlers were called with, in that order; they may run in threads."""

    def __init__(self) -> None:
        self.items: list[T] = []
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def put(self, item: T) -> None:
        """Add what a handler got."""
        self.items.append(item)
        self._loop.call_soon_threadsafe(self._changed.set)

    async def take(self, count: int, *, timeout: float = PATIENCE) -> list[T]:
        """Everything so far, as soon as there are `count` items."""
        return await self.until(lambda items: len(items) >= count, timeout=timeout)

    async def until(self, condition: Callable[[list[T]], bool], *, timeout: float = PATIENCE) -> list[T]:
        """Everything so far, as soon as it meets the condition."""
        try:
            async with asyncio.timeout(timeout):
                while not condition(self.items):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"after {timeout} s there are {len(self.items)} items: {self.items[-20:]}") from None
        return list(self.items)


class Watch(Inbox[Happening]):
    """What happens on these buses from now on."""

    def __init__(self, *buses: pgbus.Bus) -> None:
        super().__init__()
        for bus in buses:
            bus.telemetry.observe(self.put)

    def of(self, kind: type[H]) -> list[H]:
        """What happened of one kind."""
        return [item for item in self.items if isinstance(item, kind)]

    async def first(self, kind: type[H], *, after: int = 0, timeout: float = PATIENCE) -> H:
        """The first happening of a kind, beyond the first `after` of them."""
        await self.until(lambda _: len(self.of(kind)) > after, timeout=timeout)
        return self.of(kind)[after]


async def until_idle(connection: asyncpg.Connection, *, timeout: float = PATIENCE) -> None:
    """Wait until nothing is in the outbox and nothing is owed to anyone."""

    async def nothing_left() -> bool:
        left = await connection.fetchval(
            "SELECT (SELECT count(*) FROM pgbus.outbox) + (SELECT count(*) FROM pgbus.deliveries)"
        )
        return bool(left == 0)

    await eventually(nothing_left, timeout, message="the bus did not become idle")
