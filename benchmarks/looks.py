"""Measures a look of the leader: CPU of its session on the server, by /proc (so on Linux only), in microseconds.

One listener hears the events and eight do not. `with an open transaction`: one that has published stays open while
40,000 events pass.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

import asyncpg

from benchmarks.cpu import cpu_of
from benchmarks.figures import Figure, Goal, at_most
from benchmarks.support import fresh_bus, median, quantile
from pgbus.database.connections import set_up
from pgbus.database.session import Session
from pgbus.database.statements.deliveries import Claim
from pgbus.database.statements.moving import Offer
from pgbus.leader.mover import Mover

ROUNDS = 200
PASSING = 40_000


class Nobody:
    """Neighbours that have no listeners of their own."""

    def wake(self, lanes: Mapping[int, Iterable[int]]) -> None:
        """Do nothing: there is no listener to wake."""

    def offer(self, token: UUID, listener_ids: Collection[int], *, events: int, lease: float) -> Offer:
        """Offer nothing: there is no idle listener."""
        return Offer((), token, 1, lease)

    def hand_over(self, claims: Mapping[int, Sequence[Claim]], *, sent_at: float) -> None:
        """Do nothing: there was no offer."""


async def looks(dsn: str) -> list[Figure]:
    figures = []
    async with fresh_bus(dsn) as bus:
        namespace = bus.config.namespace
        publisher, leading, slow = [await asyncpg.connect(dsn) for _ in range(3)]
        await set_up(leading)
        for number in range(9):
            topic = "bench.sold" if number == 0 else f"bench.other_{number}"
            await publisher.execute(
                f'WITH one AS (INSERT INTO "{namespace}".listeners (listener_name) VALUES ($1) RETURNING id) '
                f'INSERT INTO "{namespace}".subscriptions (listener_id, pattern) SELECT id, $1 FROM one',
                topic,
            )
        mover = Mover(Session(leading, namespace=namespace), neighbours=Nobody(), lease=60.0)
        await mover.start()
        backend = [leading.get_server_pid()]
        insert = (
            f'INSERT INTO "{namespace}".outbox (topic, payload) '
            "SELECT 'bench.sold', jsonb_build_object('pad', repeat('x', 170)) FROM generate_series(1, $1::integer)"
        )

        async def measure(label: str, events: int, goal: Goal | None = None) -> Figure:
            server, client = [], []
            for _ in range(ROUNDS):
                if events:
                    await publisher.execute(insert, events)
                before, began = cpu_of(backend), time.process_time()
                look = await mover.look()
                client.append(1e6 * (time.process_time() - began))
                server.append(1e6 * (cpu_of(backend) - before))
                assert look.moved == events
            return Figure(
                "",
                f"a look of the leader, {label}, {events} events: CPU of its session, p10",
                [quantile(server, 0.1)],
                "us",
                digits=0,
                goal=goal,
                note=f"median {median(server):.0f}; of the worker {median(client):.0f}",
            )

        for _ in range(20):
            await publisher.execute(insert, 2)
            await mover.look()
        for events, goal in ((0, at_most(70)), (1, at_most(320)), (8, None), (100, None)):
            figures.append(await measure("idle bus", events, goal))
        await slow.execute("BEGIN")
        await slow.execute(insert, 1)
        for _ in range(PASSING // 1_000):
            await publisher.execute(insert, 1_000)
            await mover.look()
        figures += [await measure("with an open transaction", events, at_most(1_000)) for events in (0, 1, 8)]
        for connection in (publisher, leading, slow):
            await connection.close()
    return figures


async def main(dsn: str) -> list[Figure]:
    return await looks(dsn)
