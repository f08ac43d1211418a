"""Procrastinate on psycopg. It keeps finished jobs, and finishes each by a statement of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import procrastinate
import psycopg
from psycopg import AsyncConnection

from benchmarks.race.peer import Handled, Payload, Peer, payload, serve

CONCURRENCY = 10  # of 1, 10, 30: the fastest, by little

TABLES = """
CREATE TABLE race_orders (id bigserial PRIMARY KEY, customer text NOT NULL, amount integer NOT NULL);
CREATE TABLE race_outbox (
    id bigserial PRIMARY KEY, topic text NOT NULL, payload jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
);
"""
ORDER = "INSERT INTO race_orders (customer, amount) VALUES (%s, %s)"
BY_HAND = "INSERT INTO race_outbox (topic, payload) VALUES (%s, %s)"
BARE_BULK = "INSERT INTO race_outbox (topic, payload) SELECT %s, p::jsonb FROM unnest(%b::text[]) AS p"


class Procrastinate(Peer):
    packages = ("procrastinate", "psycopg")
    loop = "asyncio"
    chunk = 5_000

    def __init__(self, dsn: str, redis: str) -> None:
        super().__init__(dsn, redis)
        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn))
        self.handled = Handled()
        self.tasks = [self.app.task(self._handle, name=f"race{n}", queue=f"race{n}") for n in range(3)]

    async def _handle(self, **order: Any) -> None:
        self.handled.take(order)

    async def set_up(self, listeners: int, purpose: str) -> None:
        async with self.app.open_async():
            await self.app.schema_manager.apply_schema_async()
        async with await AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            await connection.execute(TABLES)

    async def open(self, clients: int) -> None:
        await self.app.open_async()
        self.connections: list[AsyncConnection[Any]] = [
            await AsyncConnection.connect(self.dsn, autocommit=True) for _ in range(clients)
        ]

    async def transact(self, kind: str, client: int, number: int) -> None:
        connection = self.connections[client]
        async with connection.transaction():
            await connection.execute(ORDER, ("order", number))
            if kind == "publish":
                await self.tasks[0].configure(connection=connection).defer_async(**payload(number))
            elif kind == "hand":
                await connection.execute(BY_HAND, ("race.order_placed", json.dumps(payload(number))))

    async def bulk(self, orders: Sequence[Payload], listeners: int) -> None:
        async with self.connections[0].transaction():
            for task in self.tasks[:listeners]:
                await task.configure(connection=self.connections[0]).batch_defer_async(*orders)

    async def bare_bulk(self, orders: Sequence[Payload]) -> None:
        values = ("race.order_placed", [json.dumps(order) for order in orders])
        await self.connections[0].execute(BARE_BULK, values)

    async def work(self, listeners: int, handled: Handled, purpose: str) -> None:
        self.handled = handled
        await self.app.open_async()
        await self.app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)

    async def left(self) -> bool:
        found: psycopg.AsyncCursor[Any] = await self.connections[0].execute(
            "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"
        )
        row = await found.fetchone()
        return bool(row and row[0])


if __name__ == "__main__":
    serve(Procrastinate)
