"""Awa, whose engine is in Rust, with its storage of queues, which is active before the first event."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, make_dataclass
from typing import Any

import asyncpg
from awa import AsyncClient
from awa.bridge import insert_job

from benchmarks.race.asyncpg_peer import AsyncpgPeer
from benchmarks.race.peer import Handled, Payload, serve

WORKERS = 200  # jobs at once; it claims a batch for those that are free
FIELDS = (("order_id", int), ("customer", str), ("note", str), ("amount", float), ("currency", str), ("paid", bool))
# A handler is found by the kind of its job, so each listener has a kind and a queue of its own.
KINDS: list[Any] = [make_dataclass(f"Order{number}", (*FIELDS, ("sent", float))) for number in range(3)]


class Awa(AsyncpgPeer):
    packages = ("awa-pg", "asyncpg", "uvloop")
    chunk = 5_000

    def _url(self) -> str:
        """With a host, which Awa's driver wants even where a socket's directory is given."""
        return self.dsn.replace("@/", "@localhost/")

    async def create(self, connection: asyncpg.Connection, listeners: int, purpose: str) -> None:
        client = AsyncClient(self._url(), 1)
        await client.migrate()
        # A worker would activate it at its first start, which in these workloads comes after the first COPY.
        await client.install_queue_storage()

    async def open(self, clients: int) -> None:
        await super().open(clients)
        self.client = AsyncClient(self._url(), 2)

    async def publish(self, connection: asyncpg.Connection, order: Payload) -> None:
        await insert_job(connection, KINDS[0](**order), queue="race0")

    async def bulk(self, orders: Sequence[Payload], listeners: int) -> None:
        for number in range(listeners):
            await self.client.enqueue_many_copy([KINDS[number](**order) for order in orders], queue=f"race{number}")

    async def work(self, listeners: int, handled: Handled, purpose: str) -> None:
        client = AsyncClient(self._url(), 10)
        for number in range(listeners):

            async def handle(job: Any) -> None:
                handled.take(asdict(job.args))

            client.task(KINDS[number], queue=f"race{number}")(handle)
        await client.start([(f"race{number}", WORKERS) for number in range(listeners)])
        await asyncio.Event().wait()

    async def left(self) -> bool:
        return any(one.available + one.running + one.retryable for one in await self.client.queue_stats())


if __name__ == "__main__":
    serve(Awa)
