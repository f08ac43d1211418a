"""PgQueuer on asyncpg, in its durable mode, which is its default."""

from __future__ import annotations

import json
from collections.abc import Sequence

import asyncpg
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

from benchmarks.race.asyncpg_peer import AsyncpgPeer
from benchmarks.race.peer import Handled, Payload, serve

BATCH = 1_000  # of 10 (its default), 100, 500, 1000: the fastest
POOL = 4  # connections; faster than one


class PgQueuer(AsyncpgPeer):
    packages = ("pgqueuer", "asyncpg", "uvloop")

    async def create(self, connection: asyncpg.Connection, listeners: int, purpose: str) -> None:
        await Queries(AsyncpgDriver(connection)).install()

    async def open(self, clients: int) -> None:
        await super().open(clients)
        self.queries = {connection: Queries(AsyncpgDriver(connection)) for connection in self.connections}

    async def publish(self, connection: asyncpg.Connection, order: Payload) -> None:
        await self.queries[connection].enqueue("race0", json.dumps(order).encode())

    async def bulk(self, orders: Sequence[Payload], listeners: int) -> None:
        payloads: list[bytes | None] = [json.dumps(order).encode() for order in orders]
        async with self.connections[0].transaction():
            for number in range(listeners):
                await self.queries[self.connections[0]].enqueue(
                    [f"race{number}"] * len(payloads), payloads, [0] * len(payloads)
                )

    async def work(self, listeners: int, handled: Handled, purpose: str) -> None:
        pool = await asyncpg.create_pool(self.dsn, min_size=POOL, max_size=POOL)
        manager = QueueManager(Queries(AsyncpgPoolDriver(pool)))
        for number in range(listeners):

            async def handle(job: Job) -> None:
                assert job.payload
                handled.take(json.loads(job.payload))

            manager.entrypoint(f"race{number}")(handle)
        await manager.run(batch_size=BATCH)

    async def left(self) -> bool:
        return await self.exists("SELECT FROM pgqueuer")


if __name__ == "__main__":
    serve(PgQueuer)
