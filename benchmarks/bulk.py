"""Measures bulk publishing, compared with the same driver's own way to insert many rows.

With asyncpg that is one INSERT of arrays, into a table like pgbus's own without its checks; what it is given was made
and encoded beforehand. With psycopg it is `executemany`, and with SQLAlchemy `insert()` with a list of rows, both into
an outbox by hand; rows and events were made beforehand, and each side encodes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import psycopg
from sqlalchemy import create_engine, insert, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

import pgbus
from benchmarks.cpu import take_turns
from benchmarks.figures import Figure, Goal, at_least
from benchmarks.support import OrderPlaced, fresh_bus
from benchmarks.transactions import OUTBOX, PSYCOPG_BY_HAND, TABLES, Case, Opened, fields
from pgbus.database.event_ids import new_event_ids
from pgbus.publishing.rows import CHUNK_ROWS

EVENTS = int(os.environ.get("PGBUS_BENCH_BULK_EVENTS", "10000"))
ROUNDS = 4 * int(os.environ.get("PGBUS_BENCH_RUNS", "5"))

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
OWN = "its own way"


def orders(count: int) -> list[OrderPlaced]:
    return [OrderPlaced(number) for number in range(count)]


@asynccontextmanager
async def asyncpg_bulk(dsn: str, bus: pgbus.Bus) -> AsyncIterator[Case]:
    connection = await asyncpg.connect(dsn)
    await connection.execute(BARE_TABLE)
    events = orders(EVENTS)
    event_ids, topics = new_event_ids(EVENTS), ["bench.order_placed"] * EVENTS
    payloads = [msgspec.json.encode(event).decode() for event in events]

    async def own(_: int) -> None:
        async with connection.transaction():
            for first in range(0, EVENTS, CHUNK_ROWS):
                part = slice(first, first + CHUNK_ROWS)
                await connection.execute(BARE_INSERT, event_ids[part], topics[part], payloads[part])

    async def publish(_: int) -> None:
        async with connection.transaction():
            await bus.publish_many(events, using=connection)

    yield Case({OWN: own, "publish_many": publish}, [connection.get_server_pid()])
    await connection.execute("DROP TABLE bench_bare")
    await connection.close()


@asynccontextmanager
async def psycopg_bulk(dsn: str, bus: pgbus.Bus) -> AsyncIterator[Case]:
    events, rows = orders(EVENTS), _rows()
    async with await psycopg.AsyncConnection.connect(dsn) as connection:

        async def own(_: int) -> None:
            values = [(topic, json.dumps(one)) for topic, one in rows]
            async with connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(PSYCOPG_BY_HAND, values)

        async def publish(_: int) -> None:
            async with connection.transaction():
                await bus.publish_many(events, using=connection)

        yield Case({OWN: own, "publish_many": publish}, [connection.info.backend_pid])


@asynccontextmanager
async def psycopg_sync_bulk(dsn: str, bus: pgbus.Bus) -> AsyncIterator[Case]:
    events, rows = orders(EVENTS), _rows()
    with psycopg.connect(dsn) as connection:

        async def own(_: int) -> None:
            values = [(topic, json.dumps(one)) for topic, one in rows]
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(PSYCOPG_BY_HAND, values)

        async def publish(_: int) -> None:
            with connection.transaction():
                bus.publish_many_sync(events, using=connection)

        yield Case({OWN: own, "publish_many_sync": publish}, [connection.info.backend_pid])


@asynccontextmanager
async def sqlalchemy_bulk(dsn: str, bus: pgbus.Bus) -> AsyncIterator[Case]:
    engine = create_async_engine(make_url(dsn).set(drivername="postgresql+asyncpg"), pool_size=1)
    events, rows = orders(EVENTS), _mappings()

    async def own(_: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(insert(OUTBOX), rows)

    async def publish(_: int) -> None:
        async with engine.begin() as connection:
            await bus.publish_many(events, using=connection)

    async with engine.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
    yield Case({OWN: own, "publish_many": publish}, [pid])
    await engine.dispose()


@asynccontextmanager
async def sqlalchemy_sync_bulk(dsn: str, bus: pgbus.Bus) -> AsyncIterator[Case]:
    engine = create_engine(make_url(dsn).set(drivername="postgresql+psycopg"), pool_size=1)
    events, rows = orders(EVENTS), _mappings()

    async def own(_: int) -> None:
        with engine.begin() as connection:
            connection.execute(insert(OUTBOX), rows)

    async def publish(_: int) -> None:
        with engine.begin() as connection:
            bus.publish_many_sync(events, using=connection)

    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    yield Case({OWN: own, "publish_many_sync": publish}, [pid])
    engine.dispose()


def _rows() -> list[tuple[str, dict[str, object]]]:
    return [("bench.order_placed", fields(number)) for number in range(EVENTS)]


def _mappings() -> list[dict[str, Any]]:
    return [{"topic": topic, "payload": one} for topic, one in _rows()]


# How each driver inserts many rows, and the goal.
DRIVERS: Sequence[tuple[str, str, Callable[[str, pgbus.Bus], Opened], Goal | None]] = (
    ("asyncpg", "a bare INSERT of arrays", asyncpg_bulk, at_least(0.8)),
    ("psycopg, async", "executemany", psycopg_bulk, None),
    ("psycopg", "executemany", psycopg_sync_bulk, None),
    ("SQLAlchemy, async", "insert() of a list, same driver", sqlalchemy_bulk, None),
    ("SQLAlchemy over psycopg", "insert() of a list, same driver", sqlalchemy_sync_bulk, None),
)


async def main(dsn: str) -> list[Figure]:
    return [await publish_many(dsn, *driver) for driver in DRIVERS]


async def publish_many(
    dsn: str, driver: str, own: str, open_case: Callable[[str, pgbus.Bus], Opened], goal: Goal | None
) -> Figure:
    """In one transaction; both take turns."""
    async with fresh_bus(dsn) as bus:
        connection = await asyncpg.connect(dsn)
        await connection.execute(TABLES)
        async with open_case(dsn, bus) as case:
            timings = await take_turns(case.turns, rounds=ROUNDS, server=case.server)
        await connection.execute("DROP TABLE bench_orders, bench_outbox")
        await connection.close()
    [name] = [one for one in timings if one != OWN]
    rate, fast, cpu = timings[name].rates(timings[OWN])
    return Figure(
        "W2",
        f"{name} of {EVENTS:,} events, {driver}",
        [rate],
        baseline=own,
        goal=goal,
        note=f"p10 {fast:.2f}, by CPU {cpu:.2f}; per event {timings[name].line(EVENTS)}; its own way "
        f"{timings[OWN].line(EVENTS)}",
    )
