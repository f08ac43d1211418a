"""Measures what telemetry costs: what a bus without it asks before each operation, and traces that nobody exports.

Without it, an event that is published and one that is handled cost a look for instruments each, which takes less than
any two runs differ. So the looks are timed by themselves, and compared with the CPU of the event. With OpenTelemetry
and no SDK, the spans are made and thrown away: both ways take turns.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable

import asyncpg

import pgbus
from benchmarks.cpu import Timings, Turn, take_turns
from benchmarks.figures import Figure, Goal, at_most
from benchmarks.support import RUNS, Handled, OrderPlaced, fresh_bus, median, running
from pgbus.contrib.opentelemetry import OpenTelemetry
from pgbus.handlers.hooks import Hooks

ROUNDS = 400
EVENTS = 20_000
OFF, ON = "without telemetry", "with OpenTelemetry and no SDK"


async def main(dsn: str) -> list[Figure]:
    """Return the part of an event's CPU that a bus without telemetry pays for it, and what OpenTelemetry adds."""
    hooks = Hooks()
    async with fresh_bus(dsn) as off, fresh_bus(dsn) as on:
        on.telemetry.instrument(OpenTelemetry(on.config))
        published = await _publish(dsn, off, on)
        handled = [await _handle(one) for one in (off, on)]
    return [
        _asked("W1", "an event published in a transaction", lambda: hooks.on_sending, published[OFF].cpu),
        _asked("W3", "an event handled", lambda: hooks.instruments.all, handled[0]),
        _added("W1", "an event published in a transaction", published[OFF].cpu, published[ON].cpu),
        _added("W3", "an event handled", *handled),
    ]


async def _publish(dsn: str, off: pgbus.Bus, on: pgbus.Bus) -> dict[str, Timings]:
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TEMP TABLE bench_orders (number integer)")

    def turn(bus: pgbus.Bus) -> Turn:
        async def transact(number: int) -> None:
            async with connection.transaction():
                await connection.execute("INSERT INTO bench_orders VALUES ($1)", number)
                await bus.publish(OrderPlaced(number), using=connection)

        return transact

    try:
        turns = {OFF: turn(off), ON: turn(on)}
        return await take_turns(turns, rounds=ROUNDS, server=[connection.get_server_pid()])
    finally:
        await connection.close()


async def _handle(bus: pgbus.Bus) -> float:
    """Seconds of this process's CPU for an event that a handler does nothing with, of those that are stored."""
    handled = Handled(bus)

    @bus.listener(OrderPlaced, name="bench")
    async def handle(event: OrderPlaced) -> None: ...

    async with running(bus) as worker:
        await worker.ready.wait()
        spent = []
        for number in range(1, RUNS + 1):
            await bus.publish_many([OrderPlaced(one) for one in range(EVENTS)])
            before = time.process_time()
            start = handled.count
            await handled.until(number * EVENTS)
            spent.append((time.process_time() - before) / (number * EVENTS - start))
    return median(spent)


def _asked(workload: str, what: str, look: Callable[[], object], cpu: float) -> Figure:
    taken = min(timeit.repeat(look, number=100_000, repeat=5)) / 100_000
    goal = at_most(1.0)
    return _part(workload, f"{what}, {OFF}: looks for instruments", taken, cpu, goal)


def _added(workload: str, what: str, off: float, on: float) -> Figure:
    return _part(workload, f"{what}, {ON}: more CPU", on - off, off)


def _part(workload: str, what: str, taken: float, cpu: float, goal: Goal | None = None) -> Figure:
    note = f"{1e6 * taken:.2f} of {1e6 * cpu:.1f} us"
    return Figure(workload, what, [100 * taken / cpu], "%", baseline=OFF, goal=goal, note=note)
