"""Calls: one caller process and one server process; and many callers with ten servers, all answered."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event

import pgbus
from benchmarks.figures import Figure, at_least
from benchmarks.support import RUNS, fresh_bus, median, quantile, running

ARGUMENTS = {"username": "adam", "password": "secret"}
IDLE_CALLS = 500
SECONDS = 3.0


def serve(dsn: str, namespace: str, ready: Event, stop: Event) -> None:
    asyncio.run(_serve(pgbus.create(dsn, namespace=namespace), ready, stop))


async def _serve(bus: pgbus.Bus, ready: Event, stop: Event) -> None:
    @bus.procedure("auth.check_password", concurrency=50)
    async def check_password(username: str, password: str) -> bool:
        return (username, password) == ("adam", "secret")

    async with running(bus) as worker:
        await worker.ready.wait()
        ready.set()
        await asyncio.to_thread(stop.wait)


@contextmanager
def servers(dsn: str, namespace: str, *, count: int) -> Iterator[list[int]]:
    """Run `count` processes that serve; their process ids."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    started = [context.Event() for _ in range(count)]
    processes = [context.Process(target=serve, args=(dsn, namespace, ready, stop)) for ready in started]
    for process in processes:
        process.start()
    try:
        for ready in started:
            if not ready.wait(60):
                raise SystemExit("a server did not start")
        yield [process.pid for process in processes if process.pid]
    finally:
        stop.set()
        for process in processes:
            process.join(30)


async def call(bus: pgbus.Bus) -> float:
    started = time.perf_counter()
    if await bus.call("auth.check_password", ARGUMENTS, timeout=30) is not True:
        raise SystemExit("a wrong answer")
    return 1000 * (time.perf_counter() - started)


async def rate(bus: pgbus.Bus, *, callers: int) -> float:
    started = time.perf_counter()

    async def work() -> int:
        calls = 0
        while time.perf_counter() - started < SECONDS:
            await call(bus)
            calls += 1
        return calls

    calls = sum(await asyncio.gather(*(work() for _ in range(callers))))
    return calls / (time.perf_counter() - started)


async def answered(bus: pgbus.Bus, *, callers: int, calls: int) -> int:
    async def work() -> int:
        return len([await call(bus) for _ in range(calls)])

    return sum(await asyncio.gather(*(work() for _ in range(callers))))


async def main(dsn: str) -> list[Figure]:
    async with fresh_bus(dsn) as bus:
        with servers(dsn, bus.config.namespace, count=1):
            times = [await call(bus) for _ in range(IDLE_CALLS)][20:]
            rates = [await rate(bus, callers=50) for _ in range(RUNS)]
        with servers(dsn, bus.config.namespace, count=10):
            started = time.perf_counter()
            count = await answered(bus, callers=100, calls=20)
            seconds = time.perf_counter() - started
    return [
        Figure("W8", "idle call, p50", [median(times)], "ms", note=f"p99 {quantile(times, 0.99):.2f} ms"),
        Figure("W8", "50 callers", rates, "calls/s", digits=0, goal=at_least(6_000)),
        Figure("W8", "100 callers, 10 servers: answered of 2,000", [count], digits=0, note=f"in {seconds:.2f} s"),
    ]
