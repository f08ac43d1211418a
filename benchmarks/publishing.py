"""Measures bulk publishing, compared with a bare INSERT of arrays, and publishing while a worker runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
import msgspec

import pgbus
from benchmarks.cpu import Turn, take_turns
from benchmarks.paced import worker_process
from benchmarks.support import OrderPlaced, fresh_bus
from benchmarks.transactions import ORDER, TABLES
from pgbus.database.event_ids import new_event_ids
from pgbus.publishing.rows import CHUNK_ROWS

EVENTS = 10_000
ROUNDS = 4 * int(os.environ.get("PGBUS_BENCH_RUNS", "5"))
PUBLISHERS = (8, 32)
SECONDS = float(os.environ.get("PGBUS_BENCH_SECONDS", "10"))

BARE_TABLE = """
DROP TABLE IF EXISTS bench_bare;
CREATE TABLE bench_bare (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id uuid NOT NULL, topic text NOT NULL, ancestors text[],
    key text, payload jsonb NOT NULL, headers jsonb, published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deliver_at timestamptz
)
"""
BARE_INSERT = """
INSERT INTO bench_bare (event_id, topic, payload)
SELECT g.event_id, g.topic, g.payload::jsonb
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS g (event_id, topic, payload)
"""
BARE = "a bare INSERT"


async def publish_many(dsn: str) -> None:
    """In one transaction; what the bare INSERT is given was made and encoded beforehand."""
    async with fresh_bus(dsn) as bus:
        connection = await asyncpg.connect(dsn)
        await connection.execute(BARE_TABLE)
        events = [OrderPlaced(number) for number in range(EVENTS)]
        event_ids, topics = new_event_ids(EVENTS), ["bench.order_placed"] * EVENTS
        payloads = [msgspec.json.encode(event).decode() for event in events]

        async def bare(_: int) -> None:
            async with connection.transaction():
                for first in range(0, EVENTS, CHUNK_ROWS):
                    part = slice(first, first + CHUNK_ROWS)
                    await connection.execute(BARE_INSERT, event_ids[part], topics[part], payloads[part])

        async def publish(_: int) -> None:
            async with connection.transaction():
                await bus.publish_many(events, using=connection)

        turns: dict[str, Turn] = {BARE: bare, "publish_many": publish}
        timings = await take_turns(turns, rounds=ROUNDS, server=[connection.get_server_pid()])
        for name, one in timings.items():
            print(f"{EVENTS:,} events, {name}, per event: {one.line(EVENTS)}; of {BARE} {one.of(timings[BARE])}")
        await connection.execute("DROP TABLE bench_bare")
        await connection.close()


async def beside_a_worker(dsn: str, publishers: int) -> None:
    """The rate of transactions that publish while a worker handles the events, as a part of those that write one row.

    The publishers share this process, the worker has one of its own. Plain and publishing stretches take turns.
    """
    async with fresh_bus(dsn) as bus:
        connections = [await asyncpg.connect(dsn) for _ in range(publishers)]
        await connections[0].execute(TABLES)

        async def plain(connection: asyncpg.Connection, number: int) -> None:
            async with connection.transaction():
                await connection.execute(ORDER, "order", number)

        async def publishing(connection: asyncpg.Connection, number: int) -> None:
            async with connection.transaction():
                await connection.execute(ORDER, "order", number)
                await bus.publish(OrderPlaced(number), using=connection)

        rates: dict[str, list[float]] = {"plain": [], "publishing": []}
        async with worker_process(dsn, bus.config.namespace) as process:
            for _ in range(max(3, int(SECONDS))):
                rates["plain"].append(await _rate(plain, connections))
                rates["publishing"].append(await _rate(publishing, connections))
                await _until_handled(bus, connections[0])
            process.terminate()
        alone = [await _rate(publishing, connections) for _ in range(3)]
        plain_rate, rate = (sorted(one)[len(one) // 2] for one in (rates["plain"], rates["publishing"]))
        print(
            f"{publishers} publishers and a worker: {rate:,.0f} tx/s of {plain_rate:,.0f} plain, "
            f"{rate / plain_rate:.2f}; without the worker {sorted(alone)[1] / plain_rate:.2f}",
            flush=True,
        )
        await connections[0].execute("DROP TABLE bench_orders, bench_outbox")
        for one in connections:
            await one.close()


async def _rate(
    transact: Callable[[asyncpg.Connection, int], Awaitable[None]], connections: Sequence[asyncpg.Connection]
) -> float:
    """Transactions per second, over a second."""
    began = time.perf_counter()

    async def go_on(connection: asyncpg.Connection) -> int:
        number = 0
        while time.perf_counter() - began < 1:
            await transact(connection, number)
            number += 1
        return number

    done = sum(await asyncio.gather(*map(go_on, connections)))
    return done / (time.perf_counter() - began)


async def _until_handled(bus: pgbus.Bus, connection: asyncpg.Connection) -> None:
    name = bus.config.namespace
    left = f'SELECT EXISTS (SELECT FROM "{name}".outbox) OR EXISTS (SELECT FROM "{name}".deliveries)'
    while await connection.fetchval(left):  # noqa: ASYNC110 - the server tells nobody that all is settled
        await asyncio.sleep(0.1)


async def main(dsn: str) -> None:
    await publish_many(dsn)
    for publishers in PUBLISHERS:
        await beside_a_worker(dsn, publishers)
