"""Draining 50,000 stored events of 200 bytes through one listener with an async handler that does nothing.

From the first handler's start until everything is settled and in history, in one worker process. `outbox`: the events
are still in the outbox when the worker starts, so sequencing is part of it. `log`: they are in the log already.
"""

from __future__ import annotations

import asyncio
import time

import asyncpg

from benchmarks.support import RUNS, OrderPlaced, fresh_bus, median, running, spread
from pgbus.telemetry import Happening, Sequenced, Settled

EVENTS = 50_000


async def drain(dsn: str, *, stored_in: str) -> tuple[float, float]:
    """Events per second, and CPU of this process per event in microseconds."""
    async with fresh_bus(dsn) as bus:
        first = cpu = 0.0
        settled = sequenced = 0
        finished = asyncio.Event()
        logged = asyncio.Event()

        @bus.listener(OrderPlaced, name="bench")
        async def handle(event: OrderPlaced) -> None:
            nonlocal first, cpu
            if not first:
                first, cpu = time.perf_counter(), time.process_time()

        def observe(happening: Happening) -> None:
            nonlocal settled, sequenced
            if isinstance(happening, Settled):
                settled += happening.done
                if settled == EVENTS:
                    finished.set()
            elif isinstance(happening, Sequenced):
                sequenced += happening.events
                if sequenced == EVENTS:
                    logged.set()

        bus.telemetry.observe(observe)
        connection = await asyncpg.connect(dsn)
        if stored_in == "log":
            async with running(bus) as worker:
                await worker.ready.wait()
                await connection.execute(f"UPDATE \"{bus.config.namespace}\".listeners SET state = 'paused'")
                await bus.publish_many([OrderPlaced(number) for number in range(EVENTS)])
                await logged.wait()
            await connection.execute(f"UPDATE \"{bus.config.namespace}\".listeners SET state = 'active'")
        else:
            async with running(bus) as worker:
                await worker.ready.wait()
            await bus.publish_many([OrderPlaced(number) for number in range(EVENTS)])
        async with running(bus):
            await finished.wait()
            ended, cpu = time.perf_counter(), time.process_time() - cpu
        count = await connection.fetchval(
            f"SELECT count(DISTINCT position) FROM \"{bus.config.namespace}\".attempts WHERE outcome = 'done'"
        )
        left = await connection.fetchval(f'SELECT count(*) FROM "{bus.config.namespace}".deliveries')
        await connection.close()
        if (count, left) != (EVENTS, 0):
            raise SystemExit(f"drain: {count} in history and {left} deliveries left, expected {EVENTS} and 0")
        return EVENTS / (ended - first), 1_000_000 * cpu / EVENTS


async def main(dsn: str) -> None:
    for stored_in in ("log", "outbox"):
        runs = [await drain(dsn, stored_in=stored_in) for _ in range(RUNS)]
        rates, cpus = zip(*runs, strict=True)
        print(
            f"drain from the {stored_in}: {spread(rates)} events/s; bar: 40,000; "
            f"{median(cpus):.1f} us of the worker's CPU per event"
        )
