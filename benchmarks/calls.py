"""Measures calls: CPU by process, with 50 callers and with one, and the time of a call compared with four bare round
trips.

One process calls, another one serves. CPU is that of the calling process, of the serving one, and of their sessions in
PostgreSQL, by /proc (so on Linux only). A bare round trip is `SELECT 1` on an open connection: what the network, the
event loop and the driver take for a statement that does nothing. Calls and bare trips are timed in turn, in one run.
Of many short rounds, the one that was disturbed least counts: other processes cost a call more than it costs itself.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping

import asyncpg

import pgbus
from benchmarks.cpu import cpu_of
from benchmarks.figures import Figure, Goal, at_most
from benchmarks.rpc import call, servers
from benchmarks.support import RUNS, fresh_bus, median

CALLERS = 50
IDLE_CALLS = 100
LOADED_CALLS = 2_000
ROUNDS = 4 * RUNS

Parts = Mapping[str, list[int]]


async def main(dsn: str) -> list[Figure]:
    async with fresh_bus(dsn) as bus:
        with servers(dsn, bus.config.namespace, count=1) as pids:
            await calls(bus, count=1_000, callers=CALLERS)
            parts = {"caller": [os.getpid()], "server": pids, "PostgreSQL": await sessions(dsn)}
            loaded = [await cost(bus, parts, count=LOADED_CALLS, callers=CALLERS) for _ in range(ROUNDS)]
            connection = await asyncpg.connect(dsn)
            idle: list[dict[str, float]] = []
            times: list[float] = []
            trips: list[float] = []
            for _ in range(ROUNDS):
                idle.append(await cost(bus, parts, count=IDLE_CALLS, callers=1))
                times.append(median([await call(bus) for _ in range(IDLE_CALLS)]))
                trips.append(median([await bare(connection) for _ in range(IDLE_CALLS)]))
            await connection.close()
    return [
        _figure(f"CPU of a call, {CALLERS} callers", loaded, at_most(250)),
        _figure("CPU of a call, one caller", idle, None),
        Figure(
            "W8",
            "round trip of an idle call, the least disturbed round",
            [min(times) / min(trips)],
            baseline="four bare round trips",
            goal=at_most(1.3),
            note=f"p50 {min(times):.2f} and {min(trips):.2f} ms",
        ),
    ]


def _figure(what: str, costs: list[dict[str, float]], goal: Goal | None) -> Figure:
    """Of the round with the smallest sum."""
    cost = min(costs, key=lambda cost: sum(cost.values()))
    split = ", ".join(f"{part} {microseconds:.0f}" for part, microseconds in cost.items())
    return Figure("W8", what, [sum(cost.values())], "us", digits=0, goal=goal, note=split)


async def cost(bus: pgbus.Bus, parts: Parts, *, count: int, callers: int) -> dict[str, float]:
    """Microseconds of CPU per call, by part."""
    before = {part: cpu_of(pids) for part, pids in parts.items()}
    await calls(bus, count=count, callers=callers)
    return {part: 1_000_000 * (cpu_of(pids) - before[part]) / count for part, pids in parts.items()}


async def calls(bus: pgbus.Bus, *, count: int, callers: int) -> None:
    async def work() -> None:
        for _ in range(count // callers):
            await call(bus)

    await asyncio.gather(*(work() for _ in range(callers)))


async def bare(connection: asyncpg.Connection) -> float:
    """Milliseconds of four round trips."""
    started = time.perf_counter()
    for _ in range(4):
        await connection.fetchval("SELECT 1")
    return 1000 * (time.perf_counter() - started)


async def sessions(dsn: str) -> list[int]:
    """The process ids of the sessions of callers and servers."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbus'")
    await connection.close()
    return [row["pid"] for row in rows]
