"""Measures publishing in a user's transaction, compared with a hand-written outbox with the same driver.

Each transaction writes one small row of business. The outbox by hand is a table of its own, and one INSERT into it:
nothing is checked, nobody is woken, and no one reads it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg
import psycopg
from sqlalchemy import Engine, Table, create_engine, insert, make_url, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import pgbus
from benchmarks.cpu import Turn, take_turns
from benchmarks.figures import Figure, Goal, at_least
from benchmarks.support import OrderPlaced, fresh_bus
from pgbus.contrib.sqlalchemy import OutboxEvent

CLIENTS = (1, 8, 32)
TRANSACTIONS = int(os.environ.get("PGBUS_BENCH_TRANSACTIONS", "2400"))

TABLES = """
DROP TABLE IF EXISTS bench_orders, bench_outbox;
CREATE TABLE bench_orders (id bigserial PRIMARY KEY, customer text NOT NULL, amount integer NOT NULL);
CREATE TABLE bench_outbox (
    id bigserial PRIMARY KEY, topic text NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
);
"""
ORDER = "INSERT INTO bench_orders (customer, amount) VALUES ($1, $2)"
BY_HAND = "INSERT INTO bench_outbox (topic, payload) VALUES ($1, $2)"
PSYCOPG_ORDER = "INSERT INTO bench_orders (customer, amount) VALUES (%s, %s)"
PSYCOPG_BY_HAND = "INSERT INTO bench_outbox (topic, payload) VALUES (%s, %s)"

BASELINE = "outbox by hand"
NO_EVENT = "no event"


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "bench_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    amount: Mapped[int]


class OwnOutbox(Base):
    __tablename__ = "bench_outbox"
    id: Mapped[int] = mapped_column(primary_key=True)
    topic: Mapped[str]
    payload: Mapped[Any] = mapped_column(JSONB)


ORDERS: Table = Order.metadata.tables["bench_orders"]
OUTBOX: Table = Order.metadata.tables["bench_outbox"]


def fields(number: int) -> dict[str, object]:
    """Those of OrderPlaced, as someone writes them who has no class for it."""
    return {"order_id": number, "customer": "c" * 40, "note": "n" * 70, "amount": 12.5, "currency": "EUR", "paid": True}


@dataclass(frozen=True)
class Case:
    """Transactions of one driver by name; they run on the server's processes `server`."""

    turns: Mapping[str, Turn]
    server: list[int]


Write = Callable[[asyncpg.Connection, int], Awaitable[Any]]
Opened = AbstractAsyncContextManager[Case]


@asynccontextmanager
async def asyncpg_connections(dsn: str, bus: pgbus.Bus, clients: int) -> AsyncIterator[Case]:
    connections = [await asyncpg.connect(dsn) for _ in range(clients)]

    async def nothing(connection: asyncpg.Connection, number: int) -> None: ...

    async def by_hand(connection: asyncpg.Connection, number: int) -> None:
        await connection.execute(BY_HAND, "bench.order_placed", json.dumps(fields(number)))

    async def publish(connection: asyncpg.Connection, number: int) -> None:
        await bus.publish(OrderPlaced(number), using=connection)

    async def transact(write: Write, connection: asyncpg.Connection, number: int) -> None:
        async with connection.transaction():
            await connection.execute(ORDER, "order", number)
            await write(connection, number)

    def turn(write: Write) -> Turn:
        async def take(number: int) -> None:
            if clients == 1:
                await transact(write, connections[0], number)
            else:
                await asyncio.gather(*(transact(write, one, number) for one in connections))

        return take

    turns = {NO_EVENT: turn(nothing), BASELINE: turn(by_hand), "bus.publish": turn(publish)}
    try:
        yield Case(turns, [one.get_server_pid() for one in connections])
    finally:
        for one in connections:
            await one.close()


@asynccontextmanager
async def psycopg_async(dsn: str, bus: pgbus.Bus) -> AsyncIterator[Case]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:

        async def by_hand(number: int) -> None:
            async with connection.transaction():
                await connection.execute(PSYCOPG_ORDER, ("order", number))
                await connection.execute(PSYCOPG_BY_HAND, ("bench.order_placed", json.dumps(fields(number))))

        async def publish(number: int) -> None:
            async with connection.transaction():
                await connection.execute(PSYCOPG_ORDER, ("order", number))
                await bus.publish(OrderPlaced(number), using=connection)

        yield Case({BASELINE: by_hand, "bus.publish": publish}, [connection.info.backend_pid])


@asynccontextmanager
async def psycopg_sync(dsn: str, bus: pgbus.Bus) -> AsyncIterator[Case]:
    with psycopg.connect(dsn) as connection:

        async def by_hand(number: int) -> None:
            with connection.transaction():
                connection.execute(PSYCOPG_ORDER, ("order", number))
                connection.execute(PSYCOPG_BY_HAND, ("bench.order_placed", json.dumps(fields(number))))

        async def publish(number: int) -> None:
            with connection.transaction():
                connection.execute(PSYCOPG_ORDER, ("order", number))
                bus.publish_sync(OrderPlaced(number), using=connection)

        yield Case({BASELINE: by_hand, "bus.publish_sync": publish}, [connection.info.backend_pid])


@asynccontextmanager
async def sqlalchemy_async(dsn: str, bus: pgbus.Bus) -> AsyncIterator[Case]:
    """A Core connection, each statement by `insert()`."""
    engine = create_async_engine(make_url(dsn).set(drivername="postgresql+asyncpg"), pool_size=1)

    def turn(write: Callable[[AsyncConnection, int], Awaitable[Any]]) -> Turn:
        async def take(number: int) -> None:
            async with engine.begin() as connection:
                await connection.execute(insert(ORDERS).values(customer="order", amount=number))
                await write(connection, number)

        return take

    async def by_hand(connection: AsyncConnection, number: int) -> None:
        await connection.execute(insert(OUTBOX).values(topic="bench.order_placed", payload=fields(number)))

    async def publish(connection: AsyncConnection, number: int) -> None:
        await bus.publish(OrderPlaced(number), using=connection)

    async with engine.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
    yield Case({BASELINE: turn(by_hand), "bus.publish": turn(publish)}, [pid])
    await engine.dispose()


@asynccontextmanager
async def sqlalchemy_async_session(dsn: str, bus: pgbus.Bus) -> AsyncIterator[Case]:
    """A session of the ORM, which is given objects."""
    engine = create_async_engine(make_url(dsn).set(drivername="postgresql+asyncpg"), pool_size=1)
    engine = engine.execution_options(schema_translate_map={"pgbus": bus.config.namespace})

    def turn(write: Callable[[AsyncSession, int], Awaitable[Any]]) -> Turn:
        async def take(number: int) -> None:
            async with AsyncSession(engine) as session, session.begin():
                session.add(Order(customer="order", amount=number))
                await write(session, number)

        return take

    async def by_hand(session: AsyncSession, number: int) -> None:
        session.add(OwnOutbox(topic="bench.order_placed", payload=fields(number)))

    async def publish(session: AsyncSession, number: int) -> None:
        await bus.publish(OrderPlaced(number), using=session)

    async def add(session: AsyncSession, number: int) -> None:
        session.add(OutboxEvent(OrderPlaced(number)))

    async with engine.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
    yield Case({BASELINE: turn(by_hand), "bus.publish": turn(publish), "OutboxEvent": turn(add)}, [pid])
    await engine.dispose()


@asynccontextmanager
async def sqlalchemy_session(dsn: str, bus: pgbus.Bus) -> AsyncIterator[Case]:
    """The same for code that blocks, over psycopg."""
    engine: Engine = create_engine(make_url(dsn).set(drivername="postgresql+psycopg"), pool_size=1)
    engine = engine.execution_options(schema_translate_map={"pgbus": bus.config.namespace})

    def turn(write: Callable[[Session, int], object]) -> Turn:
        async def take(number: int) -> None:
            with Session(engine) as session, session.begin():
                session.add(Order(customer="order", amount=number))
                write(session, number)

        return take

    def by_hand(session: Session, number: int) -> None:
        session.add(OwnOutbox(topic="bench.order_placed", payload=fields(number)))

    def publish(session: Session, number: int) -> None:
        bus.publish_sync(OrderPlaced(number), using=session)

    def add(session: Session, number: int) -> None:
        session.add(OutboxEvent(OrderPlaced(number)))

    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    yield Case({BASELINE: turn(by_hand), "bus.publish_sync": turn(publish), "OutboxEvent": turn(add)}, [pid])
    engine.dispose()


DRIVERS: dict[str, Callable[[str, pgbus.Bus], Opened]] = {
    "psycopg, async": psycopg_async,
    "psycopg": psycopg_sync,
    "SQLAlchemy Core, async": sqlalchemy_async,
    "SQLAlchemy ORM, async": sqlalchemy_async_session,
    "SQLAlchemy ORM over psycopg": sqlalchemy_session,
}


async def compare(
    dsn: str, name: str, open_case: Callable[[pgbus.Bus], Opened], *, clients: int = 1, goal: Goal | None = None
) -> list[Figure]:
    """Measure a transaction that publishes, in each way there is, and its rate as a part of the rate by hand."""
    async with fresh_bus(dsn) as bus:
        connection = await asyncpg.connect(dsn)
        await connection.execute(TABLES)
        async with open_case(bus) as case:
            rounds = max(200, TRANSACTIONS // clients)
            timings = await take_turns(case.turns, rounds=rounds, server=case.server)
        await connection.execute("DROP TABLE bench_orders, bench_outbox")
        await connection.close()
    figures = []
    for variant, one in timings.items():
        if variant in (BASELINE, NO_EVENT):
            continue
        rate, fast, cpu = one.rates(timings[BASELINE])
        figures.append(
            Figure(
                "W1",
                f"{variant} in a transaction, {name}, {clients} client{'s' if clients > 1 else ''}",
                [rate],
                baseline=f"{BASELINE}, same driver",
                goal=goal,
                note=f"p10 {fast:.2f}, by CPU {cpu:.2f}; {one.line(clients)}",
            )
        )
    return figures


async def main(dsn: str) -> list[Figure]:
    figures = []
    for clients in CLIENTS:
        case = partial(asyncpg_connections, dsn, clients=clients)
        figures += await compare(dsn, "asyncpg", case, clients=clients, goal=at_least(1.0))
    for name, open_case in DRIVERS.items():
        figures += await compare(dsn, name, partial(open_case, dsn))
    return figures
