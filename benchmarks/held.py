"""A steady stream of 1,000 events per second while something else holds the database back, or lies in its tables.

Compared with the same stream without it, on an ordered listener and on one that is not: a snapshot that is held, one
that is held with a transaction id, 100,000 scheduled events (PGBUS_BENCH_SCHEDULED sets another number), and 100,000
deliveries that wait for their retry. PGBUS_BENCH_SECONDS is the length of each stream: 600 for what is reported.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from benchmarks.figures import Figure, Goal, at_least
from benchmarks.paced import RATE, SECONDS, Stream, stream

SCHEDULED = int(os.environ.get("PGBUS_BENCH_SCHEDULED", "100000"))
RETRIES = 100_000
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
WITH one AS (INSERT INTO pgbus.listeners (listener_name) VALUES ('bench') RETURNING id),
     topics AS (INSERT INTO pgbus.subscriptions (listener_id, pattern) SELECT id, 'bench.order_placed' FROM one)
INSERT INTO pgbus.deliveries (listener_id, first, last, events, attempt, available_at)
SELECT id, -n, -n, 1, 2, now() + interval '1 day' FROM one, generate_series(1, $1::integer) AS n
"""


async def main(dsn: str) -> list[Figure]:
    figures = []
    for ordered in (False, True):
        kind = "ordered" if ordered else "unordered"
        alone = await stream(dsn, ordered=ordered)
        for name, query in SNAPSHOTS.items():
            async with held(dsn, query):
                figures.append(_figure(f"{kind}, {name}", await stream(dsn, ordered=ordered), alone, at_least(0.9)))
        later = await stream(dsn, ordered=ordered, before=filled(dsn, SCHEDULE, SCHEDULED))
        figures.append(_figure(f"{kind}, {SCHEDULED:,} events are scheduled", later, alone))
        if not ordered:
            retries = await stream(dsn, before=filled(dsn, RETRY, RETRIES))
            figures.append(_figure(f"{kind}, {RETRIES:,} retries wait", retries, alone))
    return figures


def _figure(name: str, found: Stream, alone: Stream, goal: Goal | None = None) -> Figure:
    cpu = found.server + found.worker
    return Figure(
        "",
        f"{RATE:,} events/s for {SECONDS:.0f} s, {name}: rate",
        [found.rate / alone.rate],
        baseline="the same stream without it",
        goal=goal,
        note=f"{found.rate:,.0f} events/s, p50 {found.p50:.1f} ms, p99 {found.p99:.1f} ms "
        f"({found.p99 / alone.p99:.2f} times), CPU per event {cpu:.0f} us "
        f"({cpu / (alone.server + alone.worker):.2f} times)",
    )
