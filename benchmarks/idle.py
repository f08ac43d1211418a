"""Measures how many statements an idle bus sends."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from benchmarks.figures import Figure, at_most
from benchmarks.support import OrderPlaced, fresh_bus, running
from pgbus.embedded import EmbeddedPostgres

IDLE_SECONDS = 20


async def main(dsn: str) -> list[Figure]:
    """With three listeners, counted in the log of a server of its own."""
    with EmbeddedPostgres(settings={"log_statement": "all"}) as server:
        async with fresh_bus(server.dsn()) as bus:
            for number in range(3):

                async def handle(event: OrderPlaced) -> None: ...

                bus.listener(OrderPlaced, name=f"bench{number}")(handle)
            async with running(bus) as worker:
                await worker.ready.wait()
                await asyncio.sleep(5)
                before = _logged_statements(server.log_path)
                await asyncio.sleep(IDLE_SECONDS)
                after = _logged_statements(server.log_path)
    rate = (after - before) / IDLE_SECONDS
    return [Figure("", "statements of an idle bus with three listeners", [rate], "per second", goal=at_most(2))]


def _logged_statements(log: Path) -> int:
    return len(re.findall(r"LOG:  (?:statement|execute \S+): ", log.read_text()))
