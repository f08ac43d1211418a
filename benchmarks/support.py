"""Shared code of the benchmarks: a server, a fresh bus, the payload, and medians."""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec

import pgbus
from pgbus import migrate
from pgbus.bus import make_worker
from pgbus.embedded import EmbeddedPostgres
from pgbus.worker.worker import Worker

RUNS = int(os.environ.get("PGBUS_BENCH_RUNS", "5"))
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "fsync": "on", "synchronous_commit": "on"}


@pgbus.event("bench.order_placed")
class OrderPlaced(msgspec.Struct):
    """About 200 bytes of JSON."""

    order_id: int
    customer: str = "c" * 40
    note: str = "n" * 70
    amount: float = 12.5
    currency: str = "EUR"
    paid: bool = True


@contextmanager
def server() -> Iterator[str]:
    """DSN of a server whose commits reach the disk."""
    if dsn := os.environ.get("PGBUS_BENCH_DSN"):
        yield dsn
        return
    with EmbeddedPostgres(settings=SETTINGS) as running:
        yield running.dsn()


@asynccontextmanager
async def fresh_bus(dsn: str, **settings: Any) -> AsyncIterator[pgbus.Bus]:
    """A bus in a namespace of its own."""
    namespace = f"bench_{uuid4().hex[:8]}"
    migrate.upgrade(dsn, namespace=namespace)
    async with pgbus.create(dsn, namespace=namespace, **settings) as bus:
        try:
            yield bus
        finally:
            connection = await asyncpg.connect(dsn)
            await connection.execute(f'DROP SCHEMA "{namespace}" CASCADE')
            await connection.execute("CHECKPOINT")
            await connection.close()


@asynccontextmanager
async def running(bus: pgbus.Bus) -> AsyncIterator[Worker]:
    """A worker in this process."""
    worker = make_worker(bus)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        await worker.stop()
        await task


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def spread(values: Sequence[float]) -> str:
    return f"median {median(values):,.0f} (min {min(values):,.0f}, max {max(values):,.0f}, {len(values)} runs)"


Benchmark = Callable[[str], Awaitable[None]]
