"""faststream-outbox on SQLAlchemy and asyncpg, with the settings of autovacuum that it recommends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from faststream_outbox import OutboxBroker, make_outbox_table
from faststream_outbox.autovacuum import outbox_autovacuum_ddl
from sqlalchemy import MetaData, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from benchmarks.race.peer import Handled, Payload, Peer, payload, serve

WORKERS = 2  # of 1, 2, 4: the fastest
BATCH = 1_000  # of 100 to 1000: the fastest
FLUSH = 500  # deletes in one statement, of 1 (its default, a fifth of the rate), 100, 500, 1000: the fastest

TABLES = """
CREATE TABLE race_orders (id bigserial PRIMARY KEY, customer text NOT NULL, amount integer NOT NULL);
CREATE TABLE race_outbox (
    id bigserial PRIMARY KEY, topic text NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
);
"""
ORDER = text("INSERT INTO race_orders (customer, amount) VALUES (:customer, :amount)")
BY_HAND = text("INSERT INTO race_outbox (topic, payload) VALUES (:topic, CAST(:payload AS jsonb))")


class FaststreamOutbox(Peer):
    packages = ("faststream-outbox", "faststream", "sqlalchemy", "asyncpg", "uvloop")
    chunk = 5_000

    def __init__(self, dsn: str, redis: str) -> None:
        super().__init__(dsn, redis)
        self.metadata = MetaData()
        self.table = make_outbox_table(self.metadata, table_name="outbox")
        self.broker: Any = None

    async def open(self, clients: int) -> None:
        url = make_url(self.dsn).set(drivername="postgresql+asyncpg")
        self.engine = create_async_engine(url, pool_size=clients, max_overflow=10)
        self.broker = OutboxBroker(self.engine, outbox_table=self.table, logger=None)  # else a line per event

    async def set_up(self, listeners: int, purpose: str) -> None:
        await self.open(1)
        async with self.engine.begin() as connection:
            await connection.run_sync(self.metadata.create_all)
            for statement in (*TABLES.strip().split(";\n"), outbox_autovacuum_ddl("outbox")):
                await connection.execute(text(statement))

    async def transact(self, kind: str, client: int, number: int) -> None:
        connection: AsyncConnection
        async with self.engine.begin() as connection:
            await connection.execute(ORDER, {"customer": "order", "amount": number})
            if kind == "publish":
                await self.broker.publish(payload(number), queue="race0", session=connection)
            elif kind == "hand":
                values = {"topic": "race.order_placed", "payload": json.dumps(payload(number))}
                await connection.execute(BY_HAND, values)

    async def bulk(self, orders: Sequence[Payload], listeners: int) -> None:
        async with self.engine.begin() as connection:
            for number in range(listeners):
                await self.broker.publish_batch(*orders, queue=f"race{number}", session=connection)

    async def work(self, listeners: int, handled: Handled, purpose: str) -> None:
        await self.open(listeners * (WORKERS + 2))
        for number in range(listeners):

            async def handle(body: dict[str, Any]) -> None:
                handled.take(body)

            self.broker.subscriber(
                f"race{number}", max_workers=WORKERS, fetch_batch_size=BATCH, terminal_flush_batch_size=FLUSH,
                min_fetch_interval=0.01,
            )(handle)  # fmt: skip
        await self.broker.start()
        await asyncio.Event().wait()

    async def left(self) -> bool:
        async with self.engine.connect() as connection:
            return bool(await connection.scalar(text("SELECT EXISTS (SELECT FROM outbox)")))


if __name__ == "__main__":
    serve(FaststreamOutbox)
