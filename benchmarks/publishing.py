"""Measures publishers that share the cores with a worker: their rate, of that of transactions that do not publish."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

import pgbus
from benchmarks.figures import Figure, at_least
from benchmarks.paced import worker_process
from benchmarks.support import OrderPlaced, fresh_bus, median
from benchmarks.transactions import ORDER, TABLES

PUBLISHERS = (8, 32)
SECONDS = float(os.environ.get("PGBUS_BENCH_SECONDS", "10"))


async def beside_a_worker(dsn: str, publishers: int) -> Figure:
    """The rate of transactions that publish while a worker handles the events, as a part of those that write one row.

    The publishers share this process, the worker has one of its own. Plain and publishing stretches take turns.
    """
    async with fresh_bus(dsn) as bus:
        connections = [await asyncpg.connect(dsn) for _ in range(publishers)]
        await connections[0].execute(TABLES)

        async def plain(connection: asyncpg.Connection, number: int) -> None:
            async with connection.transaction():
                await connection.execute(ORDER, "order", number)

        async def publishing(connection: asyncpg.Connection, number: int) -> None:
            async with connection.transaction():
                await connection.execute(ORDER, "order", number)
                await bus.publish(OrderPlaced(number), using=connection)

        rates: dict[str, list[float]] = {"plain": [], "publishing": []}
        async with worker_process(dsn, bus.config.namespace) as process:
            for _ in range(max(3, int(SECONDS))):
                rates["plain"].append(await _rate(plain, connections))
                rates["publishing"].append(await _rate(publishing, connections))
                await _until_handled(bus, connections[0])
            process.terminate()
        alone = [await _rate(publishing, connections) for _ in range(3)]
        await connections[0].execute("DROP TABLE bench_orders, bench_outbox")
        for one in connections:
            await one.close()
    plain_rate = median(rates["plain"])
    return Figure(
        "W10",
        f"{publishers} publishers with a worker on the same cores",
        [rate / plain_rate for rate in rates["publishing"]],
        baseline="transactions that do not publish",
        goal=at_least(0.5),
        note=f"{median(rates['publishing']):,.0f} of {plain_rate:,.0f} tx/s; without a worker "
        f"{median(alone) / plain_rate:.2f}",
    )


async def _rate(
    transact: Callable[[asyncpg.Connection, int], Awaitable[None]], connections: Sequence[asyncpg.Connection]
) -> float:
    """Transactions per second, over a second."""
    began = time.perf_counter()

    async def go_on(connection: asyncpg.Connection) -> int:
        number = 0
        while time.perf_counter() - began < 1:
            await transact(connection, number)
            number += 1
        return number

    done = sum(await asyncio.gather(*map(go_on, connections)))
    return done / (time.perf_counter() - began)


async def _until_handled(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    """Until nothing is pending at two looks in turn, between which the leader has had time for what it had not seen."""
    pending = f'SELECT EXISTS (SELECT FROM "{bus.config.namespace}".pending)'
    quiet = 0
    while quiet < 2:
        quiet = 0 if await connection.fetchval(pending) else quiet + 1
        await asyncio.sleep(0.1)


async def main(dsn: str) -> list[Figure]:
    return [await beside_a_worker(dsn, publishers) for publishers in PUBLISHERS]
