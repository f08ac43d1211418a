"""Measures how many statements an idle bus sends in ten minutes, and how fast an event wakes it."""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pgbus
from benchmarks.figures import Figure, at_most
from benchmarks.support import OrderPlaced, fresh_bus, running
from pgbus.embedded import EmbeddedPostgres
from pgbus.leader import slumber
from pgbus.worker.worker import Worker

IDLE_SECONDS = float(os.environ.get("PGBUS_BENCH_IDLE", "600"))
WAKES = 200


async def main(dsn: str) -> list[Figure]:
    """With three listeners and two workers, counted in the log of a server of its own."""
    with EmbeddedPostgres(settings={"log_statement": "all"}) as server:
        async with fresh_bus(server.dsn()) as bus, AsyncExitStack() as stack:
            handled: asyncio.Queue[float] = asyncio.Queue()

            async def handle(event: OrderPlaced) -> None:
                handled.put_nowait(time.perf_counter())

            for number in range(3):
                bus.listener(OrderPlaced, name=f"bench{number}")(handle)
            workers = [await _start(stack, bus) for _ in range(2)]
            await _asleep(workers)
            before = _logged_statements(server.log_path)
            await asyncio.sleep(IDLE_SECONDS)
            sent = _logged_statements(server.log_path) - before
            # In place of ten seconds before each wake; all that the wake before it still has to do takes less.
            slumber.QUIET = 1.0
            waking = [await _wake(bus, workers, handled) for _ in range(WAKES)]
            slumber.QUIET = 3600.0
            awake = [await _deliver(bus, handled) for _ in range(WAKES)]
    what = f"statements of an idle bus with three listeners and two workers in {IDLE_SECONDS:g} s"
    return [
        Figure("", what, [float(sent)], "", digits=0, goal=at_most(0)),
        Figure(
            "",
            "p50: from a commit that wakes the bus to the handler's first line",
            [_share(waking, 0.5)],
            "ms",
            baseline=f"{_share(awake, 0.5):.1f} ms of a bus that is awake",
            goal=at_most(10),
        ),
        Figure(
            "", "p99 of that", [_share(waking, 0.99)], "ms", baseline=f"{_share(awake, 0.99):.1f} ms", goal=at_most(10)
        ),
    ]


async def _start(stack: AsyncExitStack, bus: pgbus.Bus) -> Worker:
    """Run a worker until the stack ends."""
    worker = await stack.enter_async_context(running(bus))
    await worker.ready.wait()
    return worker


async def _asleep(workers: list[Worker]) -> None:
    while not all(worker.is_asleep for worker in workers):  # noqa: ASYNC110 - a worker gives no signal
        await asyncio.sleep(0.1)


async def _wake(bus: pgbus.Bus, workers: list[Worker], handled: asyncio.Queue[float]) -> float:
    await _asleep(workers)
    return await _deliver(bus, handled)


async def _deliver(bus: pgbus.Bus, handled: asyncio.Queue[float]) -> float:
    """Milliseconds until the first of the three listeners has an event."""
    await bus.publish(OrderPlaced(order_id=1))
    committed = time.perf_counter()
    first = await handled.get()
    for _ in range(2):
        await handled.get()
    await asyncio.sleep(0.01)
    return max(0.0, first - committed) * 1000


def _share(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def _logged_statements(log: Path) -> int:
    return len(re.findall(r"LOG:  (?:statement|execute \S+): ", log.read_text()))
