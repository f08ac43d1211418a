"""PGMQ: its SQL as the package `pgmq` has it, which makes its tables in any PostgreSQL. It has no worker: the loop is
ours, and does the least that its documents ask for (read a batch, delete it).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from importlib.resources import files

import asyncpg

from benchmarks.race.asyncpg_peer import AsyncpgPeer
from benchmarks.race.peer import Handled, Payload, serve

BATCH = 500  # of 100, 500, 1000: the fastest
LEASE = 60  # seconds that a read message stays invisible
POLL = 0.1  # seconds; where latency counts, PGMQ's notification wakes the loop at once
NOTIFIED = ("W5",)  # elsewhere its trigger would cost each insert


class Pgmq(AsyncpgPeer):
    packages = ("pgmq", "asyncpg", "uvloop")

    async def create(self, connection: asyncpg.Connection, listeners: int, purpose: str) -> None:
        await connection.execute("CREATE SCHEMA IF NOT EXISTS pgmq")
        await connection.execute((files("pgmq") / "sql" / "pgmq.sql").read_text(encoding="utf-8"))
        for number in range(listeners):
            await connection.execute(f"SELECT pgmq.create('race{number}')")
            if purpose in NOTIFIED:
                await connection.execute(f"SELECT pgmq.enable_notify_insert('race{number}', 0)")

    async def publish(self, connection: asyncpg.Connection, order: Payload) -> None:
        await connection.execute("SELECT pgmq.send('race0', $1)", json.dumps(order))

    async def bulk(self, orders: Sequence[Payload], listeners: int) -> None:
        payloads = [json.dumps(order) for order in orders]
        async with self.connections[0].transaction():
            for number in range(listeners):
                await self.connections[0].execute(f"SELECT pgmq.send_batch('race{number}', $1::jsonb[])", payloads)

    async def work(self, listeners: int, handled: Handled, purpose: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(listeners):
                tasks.create_task(self._drain(f"race{number}", handled, purpose))

    async def _drain(self, queue: str, handled: Handled, purpose: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        woken = asyncio.Event()
        if purpose in NOTIFIED:
            hearing = await asyncpg.connect(self.dsn)
            await hearing.add_listener(f"pgmq.q_{queue}.INSERT", lambda *_: woken.set())
        while True:
            woken.clear()
            while rows := await connection.fetch(
                "SELECT msg_id, message FROM pgmq.read($1, $2, $3)", queue, LEASE, BATCH
            ):
                for row in rows:
                    handled.take(json.loads(row["message"]))
                await connection.fetch("SELECT pgmq.delete($1, $2::bigint[])", queue, [row["msg_id"] for row in rows])
            try:
                await asyncio.wait_for(woken.wait(), POLL)
            except TimeoutError:
                continue

    async def left(self) -> bool:
        return await self.exists("SELECT FROM pgmq.q_race0")


if __name__ == "__main__":
    serve(Pgmq)
