"""Shared code of the benchmarks: a server, a fresh bus, the payload, and medians."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import statistics
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec

import pgbus
from pgbus import migrate
from pgbus.bus import make_worker
from pgbus.embedded import EmbeddedPostgres
from pgbus.telemetry import Happening, Settled
from pgbus.worker.worker import Worker

RUNS = int(os.environ.get("PGBUS_BENCH_RUNS", "5"))
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "fsync": "on", "synchronous_commit": "on"}

TOLD = ("server_version", "fsync", "synchronous_commit")


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


class Handled:
    """Counts events that were handled and settled, by the bus's telemetry."""

    def __init__(self, bus: pgbus.Bus) -> None:
        self.count = 0
        self._reached: list[tuple[int, asyncio.Event]] = []
        bus.telemetry.observe(self._observe)

    def _observe(self, happening: Happening) -> None:
        if isinstance(happening, Settled):
            self.count += happening.done
            for count, event in self._reached:
                if self.count >= count:
                    event.set()

    async def until(self, count: int) -> None:
        event = asyncio.Event()
        self._reached.append((count, event))
        if self.count < count:
            await event.wait()


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, and the smallest and largest value if there are several; a dash if there are none."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:,.{digits}f}"
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def machine(what: str, dsn: str) -> str:
    """A line for results: when and where they were measured, and with which versions."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    name = found.group(1) if found else platform.machine()
    return (
        f"Measured on {datetime.now(tz=UTC):%Y-%m-%d}, {os.cpu_count()} cores ({name}), {platform.system()}, "
        f"PostgreSQL {asyncio.run(_postgres(dsn))}, Python {platform.python_version()}, pgbus {version('pgbus')} at "
        f"{_revision()}; {what}; load average {os.getloadavg()[0]:.1f} at the end."
    )


async def _postgres(dsn: str) -> str:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY ($1)", list(TOLD))
    await connection.close()
    settings = {row["name"]: row["setting"] for row in rows}
    return f"{settings.pop('server_version')} ({', '.join(f'{one} {value}' for one, value in settings.items())})"


def _revision() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "an unknown revision"
