"""The engine's statements on one connection, and the rows that they leave."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec

from pgbus.database.statements import deliveries
from pgbus.database.statements.deliveries import Claim
from pgbus.database.store import Store
from pgbus.leader.maintenance import MAX_CRASHES
from pgbus.listeners.listener import LANES
from pgbus.listeners.settlement import Ending, HeldClaim, settlement
from tests.support.leading import Leading
from tests.support.rows import Rows

LEASE = 60.0


@dataclass(frozen=True, slots=True)
class Sequenced:
    """What a look did: the listeners that were woken, and the claims that were handed over, by listener.

    `in_lanes` are those of ordered listeners.
    """

    moved: int
    has_more: bool
    listener_ids: list[int]
    handed: dict[int, Claim]
    in_lanes: dict[int, list[Claim]]


class Bench:
    """One connection to a fresh bus, the statements on it, and rows for them."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.store = Store(connection, namespace="pgbus")
        self.rows = Rows(connection)
        self._leading: Leading | None = None

    async def fetch(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.connection.fetch(query, *values)]

    async def outbox(self, *topics: str, key: str | None = None, deliver_at: datetime | None = None) -> None:
        await self.connection.executemany(
            "INSERT INTO pgbus.outbox (topic, key, deliver_at) VALUES ($1, $2, $3)",
            [(topic, key, deliver_at) for topic in topics],
        )

    async def sequence(
        self,
        *,
        base: int | None = None,
        batch: int = 100,
        tells_others: bool = False,
        idle_listener_ids: Sequence[int] = (),
        empty_lanes: Mapping[int, Mapping[int, int]] = MappingProxyType({}),
        worker_id: int = 1,
        expects_one: bool = False,
    ) -> Sequenced:
        """One look of a leader, the same one each time, whose runs have up to 10 events."""
        if self._leading is None:
            self._leading = await Leading.start(self.connection, base=1)
        mover, neighbours = self._leading.mover, self._leading.neighbours
        mover.base = mover.base if base is None else base
        mover.rows, mover.run, mover.tells_others = batch, 10, tells_others
        neighbours.listener_ids, neighbours.worker_id, neighbours.lanes = idle_listener_ids, worker_id, empty_lanes
        self._leading.expects_one = expects_one
        look = await self._leading.look()
        handed, in_lanes = dict(neighbours.handed), dict(neighbours.in_lanes)
        return Sequenced(look.moved, look.has_more, sorted(neighbours.woken), handed, in_lanes)

    @property
    def woken_lanes(self) -> dict[int, set[int]]:
        """The lanes of the listeners that the last look woke."""
        assert self._leading
        return self._leading.neighbours.woken

    async def find_locked(self) -> None:
        """Have the leader find out which rows someone holds locked."""
        assert self._leading
        await self._leading.mover.find_locked()

    @property
    def is_stepping_over(self) -> bool:
        assert self._leading
        return self._leading.mover.is_stepping_over

    async def claim(self, listener_id: int, *, lanes: int | None = None, **values: Any) -> list[Claim]:
        return (await self.look(listener_id, lane_floors=[0] * (lanes or 0), **values)).claims

    async def look(self, listener_id: int, *, lean: bool = False, **values: Any) -> deliveries.Claimed:
        """A claim, and the tops of the lanes; `lean`: by the statement for some lanes, which must do."""
        defaults: dict[str, Any] = {
            "token": uuid4(), "worker_id": 1, "rows": 100, "limit": 100, "piece": 100, "lease": LEASE, "suspects": True,
        }  # fmt: skip
        terms = deliveries.ClaimTerms(listener_id=listener_id, **{**defaults, **values})
        if not lean:
            return await deliveries.claim_deliveries(self.store, terms)
        every = range(len(terms.lane_floors))
        claimed = await deliveries.claim_lanes(self.store, msgspec.structs.replace(terms, lanes=every))
        assert claimed
        return claimed

    async def settle(self, listener_id: int, claims: Sequence[Claim], *endings: Ending, blocking: bool = False) -> int:
        """Settle each claim with these endings of its events; how many claims were still ours."""
        held_claims = []
        for claim in claims:
            began = time.monotonic()
            held = HeldClaim(claim, now=began)
            for index, ending in enumerate(endings):
                held.end(index, ending, started=began, duration=0.5)
            held_claims.append(held)
        values, _, _ = settlement(held_claims, listener_id=listener_id, worker="worker-1", blocking=blocking)
        return len(await deliveries.settle_deliveries(self.store, values))

    async def deliveries(self, columns: str = "first, last") -> list[tuple[Any, ...]]:
        return await self.fetch(f"SELECT {columns} FROM pgbus.deliveries ORDER BY lane NULLS FIRST, first, id")

    async def log(self, *positions: int, **columns: Any) -> None:
        for position in positions:
            await self.rows.event(position, **columns)


def positions(claims: Sequence[Claim]) -> list[list[int | None]]:
    return [[event.position for event in claim.events] for claim in claims]


async def claimed(bench: Bench, *, size: int = 1, attempt: int = 1, lane: int | None = None) -> tuple[int, list[Claim]]:
    """A listener, and its claim of one run at the log's beginning, whose events have the key `k`."""
    listener_id = await bench.rows.listener("mail", "**", lanes=None if lane is None else LANES)
    await bench.log(*range(1, size + 1), key="k")
    await bench.rows.delivery(listener_id, 1, size, attempt=attempt, lane=lane)
    return listener_id, await bench.claim(listener_id, lanes=None if lane is None else LANES)


async def crash(bench: Bench, *, lease_floor: float = -math.inf) -> tuple[int, list[int]]:
    """Free the claims of workers, none of whom lives."""
    look = await free(bench, lease_floor=lease_floor)
    again = await free(bench, lease_floor=lease_floor, absent=look.absent)
    return look.freed + again.freed, sorted({*look.listener_ids, *again.listener_ids})


async def free(
    bench: Bench,
    *,
    absent: Collection[int] = (),
    lease_floor: float = -math.inf,
    overdue: Collection[int] = (),
    all_leases: bool = True,
) -> deliveries.Freeing:
    """One look for the claims of dead workers."""
    return await deliveries.free_claims(
        bench.store,
        absent=absent,
        max_crashes=MAX_CRASHES,
        lease_floor=lease_floor,
        overdue=overdue,
        all_leases=all_leases,
        batch=100,
    )
