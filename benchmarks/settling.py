"""Measures settling: CPU of the server for each done event, compared with a bare row for each attempt.

Claims of one event, of 8, and four of 500, whose events begin 0.02 ms apart (handlers that do nothing) or 2 ms apart
(no two share a row of history). The baseline does the least that a row for each attempt takes: it deletes the
deliveries by their keys, without a look at who holds them, and inserts the rows into a table with an index and no
checks. Both take turns. CPU is that of the session (by /proc, so on Linux only), WAL what was written, for each event.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from uuid import uuid4

import asyncpg

from benchmarks.cpu import cpu_of
from benchmarks.figures import Figure
from benchmarks.support import fresh_bus, quantile
from pgbus.database.connections import ENGINE_SETTINGS, settings_sql
from pgbus.database.statements import deliveries
from pgbus.database.statements.deliveries import Claim
from pgbus.database.store import Store
from pgbus.handlers.outcomes import DONE
from pgbus.listeners.settlement import HeldClaim, settlement
from pgbus.messages import EventMessage

# Name, sizes of the claims, seconds between two events, rounds.
SHAPES: Sequence[tuple[str, list[int], float, int]] = (
    ("one event", [1], 0.0, 300),
    ("a claim of 8", [8], 0.00002, 200),
    ("4 claims of 500", [500] * 4, 0.00002, 40),
    ("4 claims of 500, 2 ms apart", [500] * 4, 0.002, 40),
)
PLAIN_WAY = "a row for each attempt"
PLAIN = """
WITH settled AS (DELETE FROM "{namespace}".deliveries WHERE id = ANY ($1::bigint[]))
INSERT INTO "{namespace}".plain_history
SELECT o.position, 1, 1, 'done', to_timestamp(o.started), o.duration, 'host-12345'
FROM unnest($2::bigint[], $3::float8[], $4::real[]) AS o (position, started, duration)
"""
PREPARE = """
CREATE TABLE "{namespace}".plain_history (
    position bigint NOT NULL, listener_id integer NOT NULL, attempt integer NOT NULL, outcome text NOT NULL,
    started_at timestamptz NOT NULL, duration real NOT NULL, worker text NOT NULL);
CREATE INDEX ON "{namespace}".plain_history (position);
"""


async def main(dsn: str) -> list[Figure]:
    async with fresh_bus(dsn) as bus:
        namespace = bus.config.namespace
        connection = await asyncpg.connect(dsn)
        await connection.execute(settings_sql(ENGINE_SETTINGS))
        await connection.execute("SET synchronous_commit = off")
        await connection.execute(PREPARE.format(namespace=namespace))
        bench = _Settling(connection, namespace)
        figures = [await bench.compare(name, sizes, apart, rounds) for name, sizes, apart, rounds in SHAPES]
        await connection.close()
        return figures


class _Settling:
    def __init__(self, connection: asyncpg.Connection, namespace: str) -> None:
        self._connection = connection
        self._namespace = namespace
        self._store = Store(connection, namespace=namespace)
        self._position = 1
        self._random = random.Random(1)

    async def compare(self, name: str, sizes: Sequence[int], apart: float, rounds: int) -> Figure:
        """Settle claims of these sizes in both ways, by turns: what an event costs."""
        taken: dict[str, list[tuple[float, float]]] = {"pgbus": [], PLAIN_WAY: []}
        for number in range(rounds):
            for way, settle in (("pgbus", self._settle), (PLAIN_WAY, self._settle_plainly)):
                cost = await self._measure(await self._claim(sizes, apart), settle)
                if number >= rounds / 10:
                    taken[way].append(cost)
        cpu = {way: 1e6 * quantile([one[0] for one in costs], 0.1) / sum(sizes) for way, costs in taken.items()}
        wal = {way: quantile([one[1] for one in costs], 0.5) / sum(sizes) for way, costs in taken.items()}
        return Figure(
            "W3",
            f"settling, {name}: CPU of the server",
            [cpu["pgbus"] / cpu[PLAIN_WAY]],
            baseline=PLAIN_WAY,
            note=f"p10 {cpu['pgbus']:.2f} and {cpu[PLAIN_WAY]:.2f} us/event; WAL {wal['pgbus']:.0f} and "
            f"{wal[PLAIN_WAY]:.0f} bytes/event",
        )

    async def _measure(
        self, held_claims: Sequence[HeldClaim], settle: Callable[[Sequence[HeldClaim]], Awaitable[None]]
    ) -> tuple[float, float]:
        server = [self._connection.get_server_pid()]
        wal = await self._wal()
        cpu = cpu_of(server)
        await settle(held_claims)
        cpu = cpu_of(server) - cpu
        return cpu, await self._wal() - wal

    async def _wal(self) -> int:
        return int(await self._connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'"))

    async def _claim(self, sizes: Sequence[int], apart: float) -> list[HeldClaim]:
        """Claims that follow each other in the log, of which every event is done."""
        held_claims = []
        began = 1_700_000_000.0
        for size in sizes:
            first, self._position = self._position, self._position + size
            token = uuid4()
            id_ = await self._connection.fetchval(
                f"""
                INSERT INTO "{self._namespace}".deliveries
                    (listener_id, first, last, events, claim_token, worker_id, lease_expires_at)
                VALUES (1, $1, $2, $3, $4, 1, now() + interval '1 minute') RETURNING id
                """,
                first, first + size - 1, size, token,
            )  # fmt: skip
            events = [
                EventMessage(topic="bench.settled", raw="{}", event_id=token, position=first + index)
                for index in range(size)
            ]
            claim = Claim(id_, token, 1, None, False, True, first + size - 1, 0.0, size, events)
            held = HeldClaim(claim, now=0.0)
            for index in range(size):
                held.end(index, DONE, started=began, duration=0.000005 + self._random.random() * 0.00002)
                began += apart
            held_claims.append(held)
        return held_claims

    async def _settle(self, held_claims: Sequence[HeldClaim]) -> None:
        values, _, _ = settlement(held_claims, listener_id=1, worker="host-12345", blocking=False)
        settled = await deliveries.settle_deliveries(self._store, values)
        assert len(settled) == len(held_claims)

    async def _settle_plainly(self, held_claims: Sequence[HeldClaim]) -> None:
        await self._connection.fetch(
            PLAIN.format(namespace=self._namespace),
            [held.claim.id for held in held_claims],
            [event.position for held in held_claims for event in held.claim.events],
            [started for held in held_claims for started in held.started],
            [duration for held in held_claims for duration in held.durations],
        )
