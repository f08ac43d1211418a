"""An idle bus: from the publish call to the handler's first line; and what an idle bus asks of the database."""

from __future__ import annotations

import asyncio
import random
import time

import asyncpg

from benchmarks.support import OrderPlaced, fresh_bus, quantile, running

EVENTS = 400
IDLE_SECONDS = 20


async def latency(dsn: str) -> None:
    async with fresh_bus(dsn) as bus:
        heard: asyncio.Queue[float] = asyncio.Queue()

        @bus.listener(OrderPlaced, name="bench")
        async def handle(event: OrderPlaced) -> None:
            heard.put_nowait(time.perf_counter())

        async with running(bus) as worker:
            await worker.ready.wait()
            times = []
            for number in range(EVENTS):
                await asyncio.sleep(random.uniform(0.01, 0.03))
                started = time.perf_counter()
                await bus.publish(OrderPlaced(number))
                times.append(1000 * (await heard.get() - started))
    times = times[20:]
    print(
        f"idle latency: p50 {quantile(times, 0.5):.2f} ms, p99 {quantile(times, 0.99):.2f} ms; bars: 2.5 and 8 ms"
    )


async def statements(dsn: str) -> None:
    """Counted by the server: transactions per second, less our own looks."""
    async with fresh_bus(dsn) as bus:
        for number in range(3):

            async def handle(event: OrderPlaced) -> None: ...

            bus.listener(OrderPlaced, name=f"bench{number}")(handle)
        connection = await asyncpg.connect(dsn)
        async with running(bus) as worker:
            await worker.ready.wait()
            await asyncio.sleep(5)
            before = await _transactions(connection)
            await asyncio.sleep(IDLE_SECONDS)
            after = await _transactions(connection)
        await connection.close()
        print(f"idle bus: {(after - before - 1) / IDLE_SECONDS:.2f} statements/s; bar: 2")


async def _transactions(connection: asyncpg.Connection) -> int:
    # A backend reports what it did when it next goes idle, at most once a second.
    return await connection.fetchval(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    )


async def main(dsn: str) -> None:
    await latency(dsn)
    await statements(dsn)
