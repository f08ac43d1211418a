"""A steady stream of events, each published in a transaction of its own: what the consumer's side costs per event.

Eight connections publish 1,000 events per second together. One worker process, in the event loop that `pgbus run` takes
(or PGBUS_BENCH_LOOP), has one listener that does nothing. CPU
is that of the worker's process and of its sessions on the server, by /proc (so on Linux only); the time is from the end
of the publisher's COMMIT to the handler's first line.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
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


async def _nothing(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Stream:
    """CPU per event in microseconds, times from COMMIT to handler in milliseconds, and events handled per second."""

    server: float
    worker: float
    p50: float
    p99: float
    rate: float


async def work(dsn: str, namespace: str, *, ordered: bool = False) -> None:
    """The worker's process: prints `ready`, and at SIGTERM when each event was handled, by its number."""
    handled: dict[int, float] = {}
    async with pgbus.create(dsn, namespace=namespace) as bus:

        @bus.listener(OrderPlaced, name="bench", concurrency=10, ordered=ordered)
        async def handle(event: OrderPlaced) -> None:
            handled[event.order_id] = time.time()

        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        async with running(bus) as worker:
            await worker.ready.wait()
            print("ready", flush=True)
            await ended.wait()
    print(json.dumps(handled))


@asynccontextmanager
async def worker_process(dsn: str, namespace: str, *, ordered: bool = False) -> AsyncIterator[Process]:
    code = f"import asyncio, benchmarks.paced as p; asyncio.run(p.work({dsn!r}, {namespace!r}, ordered={ordered}))"
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
    ordered: bool = False,
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
                await stack.enter_async_context(worker_process(dsn, bus.config.namespace, ordered=ordered))
                for _ in range(workers)
            ]
            pids = [process.pid for process in processes]
            publishers = [
                asyncio.create_task(
                    publish(bus, connection, first=n, count=total // CONNECTIONS, sent=sent, rate=rate, keyed=ordered)
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
            handled: dict[int, float] = {}
            for process in processes:
                process.terminate()
                assert process.stdout
                handled |= {int(number): at for number, at in json.loads(await process.stdout.read()).items()}
        for connection in [*connections, watching]:
            await connection.close()
    times = [1000 * (handled.get(number, ended_at + 1) - sent[number]) for number in range(total // 4, total)]
    server, worker = (1_000_000 * (late - early) / (rate * took) for early, late in zip(earlier, later, strict=True))
    handled_rate = sum(began_at <= at < ended_at for at in handled.values()) / took
    return Stream(server, worker, median(times), quantile(times, 0.99), handled_rate)


async def main(dsn: str) -> list[Figure]:
    found = await stream(dsn)
    return [
        Figure(
            "W3",
            f"paced {RATE:,} events/s: CPU of the consumer's side",
            [found.server + found.worker],
            "us/event",
            digits=0,
            goal=at_most(300),
            note=f"server {found.server:.0f}, worker {found.worker:.0f}; from COMMIT to handler p50 {found.p50:.1f} "
            f"and p99 {found.p99:.1f} ms",
        )
    ]
