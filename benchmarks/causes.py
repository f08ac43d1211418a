"""Measures what causality costs: publishing and a look of the leader, with the four headers of a cause and without.

Both take turns on the same tables, and CPU is counted, of the sessions and of this process. A root carries no header.
"""

from __future__ import annotations

import asyncpg

import pgbus
from benchmarks.cpu import Timings, Turn, take_turns
from benchmarks.figures import Figure, Goal, at_most
from benchmarks.looks import Nobody
from benchmarks.support import OrderPlaced, fresh_bus
from pgbus.database.connections import set_up
from pgbus.database.session import Session
from pgbus.leader.mover import Mover

ROUNDS = 200
EVENTS = 100
ROOT, CAUSED = "a root", "caused"


async def main(dsn: str) -> list[Figure]:
    """Return the CPU of what is caused, as a part of that of roots."""
    async with fresh_bus(dsn) as bus:
        connection, leading = [await asyncpg.connect(dsn) for _ in range(2)]
        await connection.execute("CREATE TEMP TABLE bench_orders (number integer)")
        await set_up(leading)
        namespace = bus.config.namespace
        await connection.execute(
            f'WITH one AS (INSERT INTO "{namespace}".listeners (listener_name) VALUES ($1) RETURNING id) '
            f'INSERT INTO "{namespace}".subscriptions (listener_id, pattern) SELECT id, $2 FROM one',
            "bench",
            "**",
        )
        mover = Mover(Session(leading, namespace=namespace), neighbours=Nobody(), lease=60.0)
        await mover.start()
        cause = pgbus.Cause.of_request({"x-correlation-id": "request"})

        async def transact(number: int) -> None:
            async with connection.transaction():
                await connection.execute("INSERT INTO bench_orders VALUES ($1)", number)
                await bus.publish(OrderPlaced(number), using=connection)

        async def publish_many(_: int) -> None:
            async with connection.transaction():
                await bus.publish_many([OrderPlaced(number) for number in range(EVENTS)], using=connection)

        async def drain(number: int) -> None:
            await publish_many(number)
            look = await mover.look()
            assert look.moved == EVENTS

        backends = [connection.get_server_pid(), leading.get_server_pid()]
        figures = []
        for workload, what, turn, goal in (
            ("W1", "a transaction that publishes", transact, at_most(1.02)),
            ("W2", f"publish_many of {EVENTS}", publish_many, at_most(1.02)),
            ("W3", f"publish_many and the leader's look, {EVENTS} events", drain, at_most(1.03)),
        ):
            await connection.execute(f'TRUNCATE "{namespace}".outbox')
            found = await take_turns({ROOT: turn, CAUSED: _caused(turn, cause)}, rounds=ROUNDS, server=backends)
            figures.append(_compare(workload, what, found[ROOT], found[CAUSED], goal))
        for one in (connection, leading):
            await one.close()
        return figures


def _caused(turn: Turn, cause: pgbus.Cause) -> Turn:
    async def take(number: int) -> None:
        with pgbus.caused_by(cause):
            await turn(number)

    return take


def _compare(workload: str, what: str, root: Timings, caused: Timings, goal: Goal) -> Figure:
    return Figure(
        workload,
        f"{what}, caused: CPU",
        [caused.cpu / root.cpu],
        digits=3,
        baseline=ROOT,
        goal=goal,
        note=f"{1e6 * root.cpu:.0f} and {1e6 * caused.cpu:.0f} us",
    )
