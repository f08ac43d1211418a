"""Curves over what is published and handled in one process: listeners, backlog, payloads, topics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

import pgbus
from benchmarks.race.meter import Meter, Reading
from benchmarks.race.peer import cpu
from benchmarks.scale.curve import Curve, Trace
from benchmarks.scale.sizes import events, sizes
from benchmarks.support import Handled, fresh_bus, running
from pgbus import EventMessage

TOPIC = "scale.order_placed"
CHUNK = 2_000
IDLE = 60_000  # microseconds of CPU in a second
IDLE_TRIES = 60
CHUNK_BYTES = 4_000_000


@dataclass(frozen=True)
class Spent:
    """Seconds of CPU of this process and of the server."""

    own: float
    server: Reading

    @classmethod
    async def now(cls, meter: Meter) -> Spent:
        return cls(cpu(), await meter.read())

    async def since(self, meter: Meter) -> float:
        """Microseconds of CPU since then, of both."""
        return 1e6 * (cpu() - self.own + (await meter.read()).since(self.server).cpu)


@asynccontextmanager
async def measured(dsn: str) -> AsyncIterator[tuple[pgbus.Bus, Meter]]:
    async with fresh_bus(dsn) as bus:
        connection = await asyncpg.connect(dsn)
        try:
            yield bus, Meter(connection, [])
        finally:
            await connection.close()


def listen(bus: pgbus.Bus, name: str, pattern: str) -> None:
    @bus.listener(pattern, name=name)
    async def handle(event: EventMessage) -> None: ...


async def register(bus: pgbus.Bus) -> None:
    """A worker registers the listeners, so that they are owed what is published from then on."""
    async with running(bus) as worker:
        await worker.ready.wait()


async def publish(bus: pgbus.Bus, count: int, *, note: int = 100, topics: int = 1) -> None:
    """In transactions of at most 2,000 events and 4 MB."""
    body = "n" * note
    chunk = max(1, min(CHUNK, CHUNK_BYTES // (note + 100)))
    for first in range(0, count, chunk):
        for_topic: dict[int, list[dict[str, object]]] = {}
        for number in range(first, min(count, first + chunk)):
            for_topic.setdefault(number % topics, []).append({"order_id": number, "note": body})
        for topic, orders in for_topic.items():
            await bus.publish_many(orders, topic=f"{TOPIC}.t{topic}")


async def listeners(dsn: str) -> Curve:
    """The start of a worker with many listeners, and events that one of them hears, or all."""
    starts: list[tuple[float, float]] = []
    one_hears: list[tuple[float, float]] = []
    all_hear: list[tuple[float, float]] = []
    count, few = events(500), events(20)
    for number in sizes("listeners"):
        async with measured(dsn) as (bus, meter):
            for other in range(number):
                listen(bus, f"l{other}", f"{TOPIC}.t{other}")
            start, cost = await _started_and_handled(bus, meter, count=count, deliveries=count)
            starts.append((number, start / number))
            one_hears.append((number, cost))
        async with measured(dsn) as (bus, meter):
            for other in range(number):
                listen(bus, f"l{other}", f"{TOPIC}.*")
            # As many for each listener, whatever their number: claims of the same size.
            _, cost = await _started_and_handled(bus, meter, count=few, deliveries=few * number)
            all_hear.append((number, cost))
    return Curve(
        "listeners",
        "Listeners of one process",
        "listeners",
        "us of CPU",
        f"A worker starts, per listener; then {count:,} events for one of the listeners, per event, and {few:,}"
        " events for all of them, per delivery.",
        [
            Trace("start, per listener", starts),
            Trace("one hears it, per event", one_hears),
            Trace("all hear it, per delivery", all_hear),
        ],
    )


async def _started_and_handled(bus: pgbus.Bus, meter: Meter, *, count: int, deliveries: int) -> tuple[float, float]:
    """Microseconds of CPU of a worker's start, and of each delivery of what is published afterwards."""
    handled = Handled(bus)
    before = await Spent.now(meter)
    async with running(bus) as worker:
        await worker.ready.wait()
        start = await _until_idle(before, meter)
        before = await Spent.now(meter)
        await publish(bus, count)
        await handled.until(deliveries)
        return start, await before.since(meter) / deliveries


async def _until_idle(since: Spent, meter: Meter) -> float:
    """Microseconds of CPU until a second has nearly none; what a listener does first goes on after it is registered."""
    for _ in range(IDLE_TRIES):
        spent = await since.since(meter)
        await asyncio.sleep(1)
        if await since.since(meter) - spent < IDLE:
            break
    return spent


async def backlog(dsn: str) -> list[Curve]:
    """A worker that starts with a backlog, and handles the first 10,000 events of it."""
    taken = events(10_000)
    costs: list[tuple[float, float]] = []
    waits: list[tuple[float, float]] = []
    for number in sizes("backlog"):
        async with measured(dsn) as (bus, meter):
            listen(bus, "bench", f"{TOPIC}.*")
            await register(bus)
            await publish(bus, number)
            handled = Handled(bus)
            began, before = time.perf_counter(), await Spent.now(meter)
            async with running(bus):
                await handled.until(1)
                waits.append((number, 1000 * (time.perf_counter() - began)))
                await handled.until(min(taken, number))
                costs.append((number, await before.since(meter) / handled.count))
    about = f"A worker starts with a backlog that no worker has seen, and handles {taken:,} events of it."
    return [
        Curve(
            "backlog",
            "Backlog",
            "events waiting",
            "us of CPU per event",
            f"{about} CPU until then, per event.",
            [Trace("worker and server", costs)],
            digits=1,
        ),
        Curve(
            "backlog-start",
            "Backlog: the first event",
            "events waiting",
            "ms",
            f"{about} Time until the first are settled.",
            [Trace("until the first events are settled", waits)],
        ),
    ]


async def payload(dsn: str) -> Curve:
    """From 100 bytes to one megabyte of JSON for each event."""
    published: list[tuple[float, float]] = []
    handling: list[tuple[float, float]] = []
    for size in sizes("payload"):
        count = max(10, min(events(5_000), 40_000_000 // size))
        async with measured(dsn) as (bus, meter):
            listen(bus, "bench", f"{TOPIC}.*")
            await register(bus)
            before = await Spent.now(meter)
            await publish(bus, count, note=size)
            published.append((size, await before.since(meter) / count))
            handled = Handled(bus)
            async with running(bus) as worker:
                await worker.ready.wait()
                before = await Spent.now(meter)
                await handled.until(count)
                handling.append((size, await before.since(meter) / max(1, count)))
    return Curve(
        "payload",
        "Payload",
        "bytes",
        "us of CPU per event",
        "Up to 5,000 events, or 40 MB of them, published in bulk and then handled by a worker that starts.",
        [Trace("publish", published, exponent=1.0), Trace("handle", handling, exponent=1.0)],
    )


async def topics(dsn: str) -> Curve:
    """From one topic to ten thousand, all of them heard by one listener."""
    costs: list[tuple[float, float]] = []
    count = events(20_000)
    for number in sizes("topics"):
        async with measured(dsn) as (bus, meter):
            listen(bus, "bench", f"{TOPIC}.*")
            await register(bus)
            connection = await asyncpg.connect(dsn)
            await connection.execute(
                f'INSERT INTO "{bus.config.namespace}".outbox (topic, payload) '
                "SELECT $1 || '.t' || n % $2, jsonb_build_object('order_id', n) FROM generate_series(1, $3) AS n",
                TOPIC,
                number,
                count,
            )
            await connection.close()
            handled = Handled(bus)
            before = await Spent.now(meter)
            async with running(bus):
                await handled.until(count)
                costs.append((number, await before.since(meter) / count))
    return Curve(
        "topics",
        "Topics",
        "topics",
        "us of CPU per event",
        f"{count:,} stored events of many topics, all of which match the pattern of one listener.",
        [Trace("worker and server", costs)],
        digits=1,
    )
