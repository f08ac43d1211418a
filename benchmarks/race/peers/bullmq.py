"""BullMQ on PostgreSQL. A queue has a connection of its own: an event is added after the user's transaction, so that a
crash between the two loses it, and W1 compares unlike things.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from bullmq import Queue, Worker

from benchmarks.race.asyncpg_peer import ORDER, AsyncpgPeer
from benchmarks.race.peer import Handled, Payload, payload, serve

CONCURRENCY = 10  # jobs at once; they share one connection, so that more do not help
JOB = {"removeOnComplete": True}


class BullMq(AsyncpgPeer):
    packages = ("bullmq", "psycopg", "asyncpg", "uvloop")
    chunk = 1_000

    def _options(self) -> dict[str, Any]:
        return {"backend": "postgres", "connection": self.dsn}

    async def create(self, connection: asyncpg.Connection, listeners: int, purpose: str) -> None:
        queue = Queue("race0", self._options())
        await queue.getJobCounts("waiting")  # which makes the schema
        await queue.close()

    async def open(self, clients: int) -> None:
        await super().open(clients)
        self.queues = [Queue(f"race{number}", self._options()) for number in range(3)]
        self.own = [Queue("race0", self._options()) for _ in range(clients)]

    async def transact(self, kind: str, client: int, number: int) -> None:
        if kind != "publish":
            await super().transact(kind, client, number)
            return
        order = payload(number)
        async with self.connections[client].transaction():
            await self.connections[client].execute(ORDER, "order", number)
        await self.own[client].add("order", order, JOB)

    async def publish(self, connection: asyncpg.Connection, order: Payload) -> None:
        raise NotImplementedError

    async def bulk(self, orders: Sequence[Payload], listeners: int) -> None:
        for queue in self.queues[:listeners]:
            await queue.addBulk([{"name": "order", "data": order, "opts": JOB} for order in orders])

    async def work(self, listeners: int, handled: Handled, purpose: str) -> None:
        async def handle(job: Any, token: str) -> None:
            handled.take(job.data)

        options = {**self._options(), "concurrency": CONCURRENCY, "autorun": False, **JOB}
        await asyncio.gather(*(Worker(f"race{number}", handle, options).run() for number in range(listeners)))

    async def left(self) -> bool:
        return await self.exists("SELECT FROM bullmq.job")


if __name__ == "__main__":
    serve(BullMq)
