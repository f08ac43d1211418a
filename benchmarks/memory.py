"""A worker's memory over a million events: its resident size after each tenth."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.support import Handled, OrderPlaced, fresh_bus, running

EVENTS = int(os.environ.get("PGBUS_BENCH_MEMORY_EVENTS", "1000000"))
PARTS = 10


def resident_mib() -> float:
    """Return the resident memory of the process in MiB, on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1_048_576


async def main(dsn: str) -> list[Figure]:
    async with fresh_bus(dsn) as bus:
        part = EVENTS // PARTS
        handled = Handled(bus)

        @bus.listener(OrderPlaced, name="bench")
        async def handle(event: OrderPlaced) -> None: ...

        sizes = []
        async with running(bus) as worker:
            await worker.ready.wait()
            for number in range(1, PARTS + 1):
                for start in range(0, part, 5_000):
                    await bus.publish_many([OrderPlaced(start + one) for one in range(5_000)])
                await handled.until(number * part)
                gc.collect()
                sizes.append(resident_mib())
        steady = sizes[PARTS // 3 :]
        return [
            Figure(
                "",
                f"growth of a worker's memory over {EVENTS:,} events, after the first third",
                [steady[-1] - steady[0]],
                "MiB",
                digits=1,
                note=f"{', '.join(f'{size:.0f}' for size in sizes)} MiB",
            )
        ]
