"""The floor: a queue written by hand, one INSERT with a NOTIFY to publish, LISTEN and DELETE to handle. No history, no
retries, and an event is gone when the handler fails.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import asyncpg

from benchmarks.race.asyncpg_peer import AsyncpgPeer
from benchmarks.race.peer import Handled, Payload, serve

PUT = "WITH put AS (INSERT INTO queue_0 (payload) VALUES ($1)) SELECT pg_notify('race', '')"
TAKE = """
DELETE FROM queue_{number} WHERE id IN (SELECT id FROM queue_{number} ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING payload
"""
BATCH = 500  # of 100, 500, 1000: nearly the same


class Hand(AsyncpgPeer):
    packages = ("asyncpg",)

    async def create(self, connection: asyncpg.Connection, listeners: int, purpose: str) -> None:
        for number in range(listeners):
            await connection.execute(f"CREATE TABLE queue_{number} (id bigserial PRIMARY KEY, payload jsonb NOT NULL)")

    async def publish(self, connection: asyncpg.Connection, order: Payload) -> None:
        await connection.execute(PUT, json.dumps(order))

    async def bulk(self, orders: Sequence[Payload], listeners: int) -> None:
        payloads = [json.dumps(order) for order in orders]
        async with self.connections[0].transaction():
            for number in range(listeners):
                await self.connections[0].execute(
                    f"INSERT INTO queue_{number} (payload) SELECT p::jsonb FROM unnest($1::text[]) AS p", payloads
                )

    async def work(self, listeners: int, handled: Handled, purpose: str) -> None:
        woken = asyncio.Event()
        hearing = await asyncpg.connect(self.dsn)
        await hearing.add_listener("race", lambda *_: woken.set())

        async def drain(number: int) -> None:
            connection = await asyncpg.connect(self.dsn)
            take = TAKE.format(number=number)
            while True:
                while rows := await connection.fetch(take, BATCH):
                    for row in rows:
                        handled.take(json.loads(row["payload"]))
                woken.clear()
                if not await connection.fetchval(f"SELECT EXISTS (SELECT FROM queue_{number})"):
                    await woken.wait()

        async with asyncio.TaskGroup() as tasks:
            for number in range(listeners):
                tasks.create_task(drain(number))

    async def left(self) -> bool:
        return await self.exists("SELECT FROM queue_0")


if __name__ == "__main__":
    serve(Hand)
