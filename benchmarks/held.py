"""A steady stream of 1,000 events per second while something else holds the database back, or lies in its tables.

Compared with the same stream without it, all with one worker that has an ordered listener and one that is not: a
snapshot that is held, one that is held with a transaction id, 100,000 scheduled events (PGBUS_BENCH_SCHEDULED sets
another number), and 100,000 deliveries that wait for their retry. PGBUS_BENCH_SECONDS is the length of each stream: 600
for what is reported.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from benchmarks.figures import Figure, Goal, at_least
from benchmarks.paced import ORDERED, RATE, SECONDS, UNORDERED, Stream, stream

SCHEDULED = int(os.environ.get("PGBUS_BENCH_SCHEDULED", "100000"))
RETRIES = 100_000
KINDS = (UNORDERED, ORDERED)
SNAPSHOTS = {
    "a snapshot is held": "SELECT count(*) FROM pg_class",
    "a snapshot is held with a transaction id": "SELECT pg_current_xact_id()",
}


@asynccontextmanager
async def held(dsn: str, query: str) -> AsyncIterator[None]:
    """A transaction that has run the query, and stays open."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {query}")
    try:
        yield
    finally:
        await connection.close()


def filled(dsn: str, statement: str, *values: object) -> Callable[[str], Awaitable[object]]:
    """Run a statement in the namespace before the stream."""

    async def fill(namespace: str) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement.replace("pgbus.", f'"{namespace}".'), *values)
        finally:
            await connection.close()

    return fill


SCHEDULE = """
INSERT INTO pgbus.outbox (topic, payload, deliver_at)
SELECT 'bench.later', '{}', now() + interval '1 day' + n * interval '1 second' FROM generate_series(1, $1::integer) AS n
"""
RETRY = """
WITH one AS (INSERT INTO pgbus.listeners (listener_name) VALUES ('bench_unordered') RETURNING id),
     topics AS (INSERT INTO pgbus.subscriptions (listener_id, pattern) SELECT id, 'bench.order_placed' FROM one)
INSERT INTO pgbus.deliveries (listener_id, first, last, events, attempt, available_at)
SELECT id, -n, -n, 1, 2, now() + interval '1 day' FROM one, generate_series(1, $1::integer) AS n
"""


async def main(dsn: str) -> list[Figure]:
    alone = await stream(dsn, kinds=KINDS)
    figures = [_figure(f"{kind}, alone", alone, alone, kind) for kind in KINDS]
    for name, query in SNAPSHOTS.items():
        async with held(dsn, query):
            found = await stream(dsn, kinds=KINDS)
        figures += [_figure(f"{kind}, {name}", found, alone, kind, at_least(0.9)) for kind in KINDS]
    later = await stream(dsn, kinds=KINDS, before=filled(dsn, SCHEDULE, SCHEDULED))
    figures += [_figure(f"{kind}, {SCHEDULED:,} events are scheduled", later, alone, kind) for kind in KINDS]
    retries = await stream(dsn, kinds=KINDS, before=filled(dsn, RETRY, RETRIES))
    return [*figures, _figure(f"{UNORDERED}, {RETRIES:,} retries wait", retries, alone, UNORDERED)]


def _figure(name: str, found: Stream, alone: Stream, kind: str, goal: Goal | None = None) -> Figure:
    heard, before = found.heard[kind], alone.heard[kind]
    minutes = ", ".join(f"{p99:.0f}" for p99 in heard.minutes)
    return Figure(
        "",
        f"{RATE:,} events/s for {SECONDS:.0f} s, {name}: rate",
        [heard.rate / before.rate],
        baseline="the same stream without it",
        goal=goal,
        note=f"{heard.rate:,.0f} events/s, p50 {heard.p50:.1f} ms, p99 {heard.p99:.1f} ms "
        f"({heard.p99 / before.p99:.2f} times; by minute {minutes}), longest {heard.longest:.0f} ms, "
        f"CPU per event {found.cpu:.0f} us ({found.cpu / alone.cpu:.2f} times)",
    )
