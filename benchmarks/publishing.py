"""What publishing costs: in bulk, beside a bare INSERT of the same columns; and in a user's own transaction."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import asyncpg
import msgspec

from benchmarks.support import RUNS, OrderPlaced, fresh_bus, median
from pgbus.publishing.outbox import Limits, prepare
from pgbus.publishing.rows import CHUNK_ROWS, OutboxRow

EVENTS = 50_000
TRANSACTIONS = 1_500

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


async def publish_many(dsn: str) -> None:
    async with fresh_bus(dsn) as bus:
        connection = await asyncpg.connect(dsn)
        await connection.execute(BARE_TABLE)
        ratios, rates = [], []
        for _ in range(RUNS):
            events = [OrderPlaced(number) for number in range(EVENTS)]
            rows = [prepare(event, limits=Limits()) for event in events]
            bare = await _bare(connection, rows)
            started = time.perf_counter()
            async with connection.transaction():
                await bus.publish_many(events, using=connection)
            took = time.perf_counter() - started
            await connection.execute(f'TRUNCATE bench_bare, "{bus.config.namespace}".outbox')
            ratios.append(bare / took)
            rates.append(EVENTS / took)
        await connection.execute("DROP TABLE bench_bare")
        await connection.close()
        print(
            f"publish_many of {EVENTS:,}: {median(rates):,.0f} events/s, "
            f"{median(ratios):.0%} of a bare INSERT; bar: 60%"
        )


async def _bare(connection: asyncpg.Connection, rows: list[OutboxRow]) -> float:
    started = time.perf_counter()
    async with connection.transaction():
        for first in range(0, len(rows), CHUNK_ROWS):
            chunk = rows[first : first + CHUNK_ROWS]
            await connection.execute(
                BARE_INSERT,
                [row.event_id for row in chunk],
                [row.topic for row in chunk],
                [row.payload for row in chunk],
            )
    return time.perf_counter() - started


# The baseline decides the ratio: a transaction that writes as much as the event, and one that writes next to nothing.
BASELINES = {
    "a row as large as the event": ("INSERT INTO bench_orders (payload) VALUES ($1)", True),
    "a row of one number": ("INSERT INTO bench_numbers (number) VALUES ($1)", False),
}
ORDERS = """
DROP TABLE IF EXISTS bench_orders, bench_numbers;
CREATE TABLE bench_orders (id bigserial PRIMARY KEY, payload jsonb);
CREATE TABLE bench_numbers (id bigserial PRIMARY KEY, number int);
"""


async def in_a_transaction(dsn: str, baseline: str) -> None:
    insert, takes_payload = BASELINES[baseline]
    async with fresh_bus(dsn) as bus:
        connection = await asyncpg.connect(dsn)
        await connection.execute(ORDERS)
        payload = msgspec.json.encode(OrderPlaced(1)).decode()

        async def transact(publish: bool, number: int) -> None:
            async with connection.transaction():
                await connection.execute(insert, payload if takes_payload else number)
                if publish:
                    await bus.publish(OrderPlaced(number), using=connection)

        ratios, rates = [], []
        for run in range(RUNS + 1):
            took = await _compare(transact)
            if run:  # the first one warms up
                ratios.append(took[False] / took[True])
                rates.append(TRANSACTIONS / took[True])
        await connection.execute("DROP TABLE bench_orders, bench_numbers")
        await connection.close()
        print(
            f"publish in a transaction of one INSERT of {baseline}: {median(rates):,.0f} tx/s, "
            f"keeps {median(ratios):.2f} of the rate without it; bar: 0.70 beside a row as large"
        )


async def _compare(transact: Callable[[bool, int], Awaitable[None]]) -> dict[bool, float]:
    """Seconds with and without publishing, interleaved in small stretches, so that both meet the same noise."""
    took = {False: 0.0, True: 0.0}
    for stretch in range(TRANSACTIONS // 50):
        for publish in (False, True) if stretch % 2 else (True, False):
            started = time.perf_counter()
            for number in range(50):
                await transact(publish, number)
            took[publish] += time.perf_counter() - started
    return took


async def main(dsn: str) -> None:
    await publish_many(dsn)
    for baseline in BASELINES:
        await in_a_transaction(dsn, baseline)
