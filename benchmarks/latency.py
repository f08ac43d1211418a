"""An idle bus: from the publish call to the handler's first line; and what an idle bus asks of the database."""

from __future__ import annotations

import asyncio
import random
import re
import time
from pathlib import Path

import asyncpg
import msgspec

from benchmarks.support import OrderPlaced, fresh_bus, quantile, running
from pgbus.embedded import EmbeddedPostgres

EVENTS = 400
IDLE_SECONDS = 20


async def latency(dsn: str) -> None:
    async with fresh_bus(dsn) as bus:
        heard: asyncio.Queue[float] = asyncio.Queue()

        @bus.listener(OrderPlaced, name="bench")
        async def handle(event: OrderPlaced) -> None:
            heard.put_nowait(time.perf_counter())

        async with running(bus) as worker:
            await worker.ready.wait()
            times = []
            for number in range(EVENTS):
                await asyncio.sleep(random.uniform(0.01, 0.03))
                started = time.perf_counter()
                await bus.publish(OrderPlaced(number))
                times.append(1000 * (await heard.get() - started))
    times = times[20:]
    print(f"idle latency: p50 {quantile(times, 0.5):.2f} ms, p99 {quantile(times, 0.99):.2f} ms; bars: 2.5 and 8 ms")


async def floor(dsn: str) -> None:
    """Measure the same by hand: INSERT with a NOTIFY, LISTEN and DELETE, and decoding the row."""
    sender, receiver = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await sender.execute("DROP TABLE IF EXISTS bench_queue; CREATE TABLE bench_queue (id bigserial, payload jsonb)")
    heard = asyncio.Event()
    await receiver.add_listener("bench_queue", lambda *_: heard.set())
    payload = msgspec.json.encode(OrderPlaced(1)).decode()
    times = []
    for _ in range(EVENTS):
        await asyncio.sleep(random.uniform(0.01, 0.03))
        heard.clear()
        started = time.perf_counter()
        await sender.execute(
            "WITH put AS (INSERT INTO bench_queue (payload) VALUES ($1) RETURNING id) "
            "SELECT pg_notify('bench_queue', '') FROM put",
            payload,
        )
        await heard.wait()
        rows = await receiver.fetch("DELETE FROM bench_queue RETURNING payload")
        msgspec.json.decode(rows[0]["payload"], type=OrderPlaced)
        times.append(1000 * (time.perf_counter() - started))
    await sender.execute("DROP TABLE bench_queue")
    await sender.close()
    await receiver.close()
    times = times[20:]
    print(f"idle latency by hand: p50 {quantile(times, 0.5):.2f} ms, p99 {quantile(times, 0.99):.2f} ms")


async def statements() -> None:
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
    print(f"idle bus: {(after - before) / IDLE_SECONDS:.2f} statements/s; bar: 2")


def _logged_statements(log: Path) -> int:
    return len(re.findall(r"LOG:  (?:statement|execute \S+): ", log.read_text()))


async def main(dsn: str) -> None:
    await floor(dsn)
    await latency(dsn)
    await statements()
