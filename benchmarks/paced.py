"""A steady stream of events, each published in a transaction of its own: what the consumer's side costs per event.

Eight connections publish 1,000 events per second together. One worker process, in the event loop that `pgbus run` takes
(or PGBUS_BENCH_LOOP), has one listener that does nothing: first one without order, and then an ordered one, for events
of 1,000 keys. CPU is that of the worker's process and of its sessions on the server, by /proc (so on Linux only); the
time is from the end of the publisher's COMMIT to the handler's first line.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg

import pgbus
from benchmarks.cpu import Sessions, cpu_of
from benchmarks.figures import Figure, at_most
from benchmarks.support import OrderPlaced, fresh_bus, median, quantile, running

RATE = 1_000
CONNECTIONS = 8
SECONDS = float(os.environ.get("PGBUS_BENCH_SECONDS", "10"))
WARM_UP = 2.0
# Seconds between looks at the sessions: a pool closes one that it has not needed for minutes, whose CPU counts, too.
LOOK_EVERY = 5.0
KEYS = 1_000
# The loop of the workers' processes.
LOOP = os.environ.get("PGBUS_BENCH_LOOP", "auto")
UNORDERED, ORDERED = "unordered", "ordered"


async def _nothing(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Heard:
    """The stream at one listener: times from COMMIT to handler in milliseconds, and events handled per second."""

    p50: float
    p99: float
    longest: float
    rate: float
    minutes: list[float]
    """The p99 of each minute."""


@dataclass(frozen=True, slots=True)
class Stream:
    """CPU per event in microseconds, and the stream at each listener, by its kind."""

    server: float
    worker: float
    heard: dict[str, Heard]

    @property
    def cpu(self) -> float:
        """The CPU of the consumer's side per event."""
        return self.server + self.worker


async def work(dsn: str, namespace: str, *, kinds: Sequence[str]) -> None:
    """The worker's process: prints `ready`, and at SIGTERM when each event was handled, by listener and number."""
    handled: dict[str, dict[int, float]] = {}
    async with pgbus.create(dsn, namespace=namespace) as bus:
        for kind in kinds:
            handled[kind] = listen(bus, kind)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        async with running(bus) as worker:
            await worker.ready.wait()
            print("ready", flush=True)
            await ended.wait()
    print(json.dumps(handled))


def listen(bus: pgbus.Bus, kind: str) -> dict[int, float]:
    """Declare a listener; when each event was handled."""
    handled: dict[int, float] = {}

    @bus.listener(OrderPlaced, name=f"bench_{kind}", concurrency=10, ordered=kind == ORDERED)
    async def handle(event: OrderPlaced) -> None:
        handled[event.order_id] = time.time()

    return handled


@asynccontextmanager
async def worker_process(dsn: str, namespace: str, *, kinds: Sequence[str] = (UNORDERED,)) -> AsyncIterator[Process]:
    code = (
        "import benchmarks.paced as p; from pgbus.cli.loops import open_runner\n"
        f"with open_runner({LOOP!r}) as runner: runner.run(p.work({dsn!r}, {namespace!r}, kinds={kinds!r}))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=PIPE, limit=64 * 1024 * 1024)
    try:
        assert process.stdout
        await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def publish(
    bus: pgbus.Bus,
    connection: asyncpg.Connection,
    *,
    first: int,
    count: int,
    sent: list[float],
    rate: int = RATE,
    keyed: bool = False,
) -> None:
    began = time.perf_counter()
    for number in range(count):
        due = began + number * CONNECTIONS / rate
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        order = first + number * CONNECTIONS
        async with connection.transaction():
            key = f"customer {order % KEYS}" if keyed else None
            await bus.publish(OrderPlaced(order), key=key, using=connection)
        sent[order] = time.time()


async def stream(
    dsn: str,
    *,
    kinds: Sequence[str] = (UNORDERED,),
    seconds: float = SECONDS,
    rate: int = RATE,
    workers: int = 1,
    before: Callable[[str], Awaitable[object]] = _nothing,
) -> Stream:
    """The figures of a stream of this length; `before` gets the namespace, and runs before the first event."""
    total = int(rate * (WARM_UP + seconds)) // CONNECTIONS * CONNECTIONS
    sent = [0.0] * total
    async with fresh_bus(dsn) as bus:
        await before(bus.config.namespace)
        connections = [await asyncpg.connect(dsn) for _ in range(CONNECTIONS)]
        watching = await asyncpg.connect(dsn)
        async with AsyncExitStack() as stack:
            processes = [
                await stack.enter_async_context(worker_process(dsn, bus.config.namespace, kinds=kinds))
                for _ in range(workers)
            ]
            pids = [process.pid for process in processes]
            publishers = [
                asyncio.create_task(
                    publish(
                        bus,
                        connection,
                        first=n,
                        count=total // CONNECTIONS,
                        sent=sent,
                        rate=rate,
                        keyed=ORDERED in kinds,
                    )
                )
                for n, connection in enumerate(connections)
            ]
            await asyncio.sleep(WARM_UP)
            sessions = Sessions(watching)
            earlier = await sessions.look(), cpu_of(pids)
            began, began_at = time.perf_counter(), time.time()
            while (left := seconds - 1 - (time.perf_counter() - began)) > 0:
                await asyncio.sleep(min(left, LOOK_EVERY))
                later = await sessions.look(), cpu_of(pids)
            took, ended_at = time.perf_counter() - began, time.time()
            await asyncio.gather(*publishers)
            await asyncio.sleep(0.5)
            handled: dict[str, dict[int, float]] = {kind: {} for kind in kinds}
            for process in processes:
                process.terminate()
                assert process.stdout
                for kind, when in json.loads(await process.stdout.read()).items():
                    handled[kind] |= {int(number): at for number, at in when.items()}
        for connection in [*connections, watching]:
            await connection.close()
    server, worker = (1_000_000 * (late - early) / (rate * took) for early, late in zip(earlier, later, strict=True))
    heard = {kind: _heard(sent, handled[kind], rate=rate, between=(began_at, ended_at)) for kind in kinds}
    return Stream(server, worker, heard)


def _heard(sent: Sequence[float], handled: Mapping[int, float], *, rate: int, between: tuple[float, float]) -> Heard:
    began_at, ended_at = between
    # What was never handled, was at least not within this time.
    times = [1000 * (handled.get(number, ended_at + 1) - at) for number, at in enumerate(sent)]
    warm = times[int(rate * WARM_UP) :]
    minutes = [warm[first : first + 60 * rate] for first in range(0, len(warm), 60 * rate)]
    return Heard(
        median(warm),
        quantile(warm, 0.99),
        max(warm),
        sum(began_at <= at < ended_at for at in handled.values()) / (ended_at - began_at),
        [quantile(minute, 0.99) for minute in minutes],
    )


async def main(dsn: str) -> list[Figure]:
    return [await _figure(dsn, UNORDERED), await _figure(dsn, ORDERED)]


async def _figure(dsn: str, kind: str) -> Figure:
    found = await stream(dsn, kinds=(kind,))
    heard = found.heard[kind]
    return Figure(
        "W3",
        f"paced {RATE:,} events/s, {kind}: CPU of the consumer's side",
        [found.cpu],
        "us/event",
        digits=0,
        goal=at_most(300) if kind == UNORDERED else None,
        note=f"server {found.server:.0f}, worker {found.worker:.0f}; from COMMIT to handler p50 {heard.p50:.1f} "
        f"and p99 {heard.p99:.1f} ms",
    )
