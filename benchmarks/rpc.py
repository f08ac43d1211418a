"""Calls: one caller process and one server process (ten, for the last). `python -m benchmarks.rpc`.

The server is a throw-away PostgreSQL with fsync on, or the one that PGBUS_BENCH_DSN names, in a new database.
"""

import asyncio
import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event

import pgbus
from pgbus import migrate
from pgbus.embedded import EmbeddedPostgres
from pgbus.worker import Worker

ARGUMENTS = {"username": "adam", "password": "secret"}
IDLE_CALLS = 500
CALLERS = 50
SECONDS = 5.0


def serve(dsn: str, ready: Event, stop: Event) -> None:
    asyncio.run(_serve(dsn, ready, stop))


async def _serve(dsn: str, ready: Event, stop: Event) -> None:
    bus = pgbus.create(dsn)

    @bus.procedure("auth.check_password", concurrency=50)
    async def check_password(username: str, password: str) -> bool:
        return (username, password) == ("adam", "secret")

    worker = Worker(bus)
    task = asyncio.create_task(worker.run())
    await worker.ready.wait()
    ready.set()
    await asyncio.to_thread(stop.wait)
    await worker.stop()
    await task


@contextlib.contextmanager
def servers(dsn: str, *, count: int) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    started = [context.Event() for _ in range(count)]
    processes = [context.Process(target=serve, args=(dsn, ready, stop)) for ready in started]
    for process in processes:
        process.start()
    try:
        for ready in started:
            if not ready.wait(60):
                raise SystemExit("a server did not start")
        yield
    finally:
        stop.set()
        for process in processes:
            process.join(30)


async def call(bus: pgbus.Bus) -> float:
    started = time.perf_counter()
    assert await bus.call("auth.check_password", ARGUMENTS, timeout=30) is True
    return time.perf_counter() - started


async def idle(dsn: str) -> None:
    async with pgbus.create(dsn) as bus:
        for _ in range(100):
            await call(bus)
        times = [await call(bus) for _ in range(IDLE_CALLS)]
    cuts = statistics.quantiles(times, n=100)
    print(f"idle round trip: p50 {cuts[49] * 1e3:.2f} ms, p95 {cuts[94] * 1e3:.2f} ms (bar: p50 1.8 ms)")


async def throughput(dsn: str, *, callers: int) -> None:
    async with pgbus.create(dsn) as bus:
        await call(bus)
        started = time.perf_counter()

        async def work() -> int:
            calls = 0
            while time.perf_counter() - started < SECONDS:
                await call(bus)
                calls += 1
            return calls

        calls = sum(await asyncio.gather(*(work() for _ in range(callers))))
        print(f"{callers} concurrent callers: {calls / (time.perf_counter() - started):,.0f} calls/s (bar: 6,000)")


async def crowd(dsn: str, *, callers: int, calls_each: int) -> None:
    async with pgbus.create(dsn) as bus:
        started = time.perf_counter()

        async def work() -> int:
            return len([await call(bus) for _ in range(calls_each)])

        answered = sum(await asyncio.gather(*(work() for _ in range(callers))))
        wanted = callers * calls_each
        print(f"{callers} callers, 10 servers: {answered}/{wanted} answered in {time.perf_counter() - started:.2f} s")


def main() -> None:
    with contextlib.ExitStack() as stack:
        dsn = os.environ.get("PGBUS_BENCH_DSN") or stack.enter_context(EmbeddedPostgres()).dsn()
        migrate.upgrade(dsn)
        with servers(dsn, count=1):
            asyncio.run(idle(dsn))
            asyncio.run(throughput(dsn, callers=CALLERS))
        with servers(dsn, count=10):
            asyncio.run(crowd(dsn, callers=100, calls_each=20))


if __name__ == "__main__":
    main()
