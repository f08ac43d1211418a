"""A leader's looks, one by one, on a connection of the test's own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from pgbus.database.session import Session
from pgbus.database.statements.deliveries import Claim
from pgbus.database.statements.moving import Offer
from pgbus.leader.mover import Look, Mover


@dataclass
class Idle:
    """The leader's neighbours: listeners that take what they are offered, and remember for what they were woken."""

    listener_ids: Sequence[int] = ()
    worker_id: int = 1
    woken: dict[int, set[int]] = field(default_factory=dict)
    handed: dict[int, Claim] = field(default_factory=dict)
    lanes: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    in_lanes: dict[int, list[Claim]] = field(default_factory=dict)

    def wake(self, lanes: Mapping[int, Iterable[int]]) -> None:
        self.woken |= {listener_id: set(its) for listener_id, its in lanes.items()}

    def offer(self, token: UUID, listener_ids: Collection[int], *, events: int, lease: float) -> Offer:
        idle = [one for one in self.listener_ids if one in listener_ids]
        lanes = {one: its for one, its in self.lanes.items() if one in listener_ids}
        return Offer(idle, token, self.worker_id, lease, lanes)

    def hand_over(self, claims: Mapping[int, Sequence[Claim]], *, sent_at: float) -> None:
        self.handed = {listener_id: its[0] for listener_id, its in claims.items() if its[0].lane is None}
        self.in_lanes = {listener_id: list(its) for listener_id, its in claims.items() if its[0].lane is not None}


@dataclass
class Leading:
    """A mover that has started, and its neighbours."""

    mover: Mover
    neighbours: Idle
    expects_one: bool = False

    @classmethod
    async def start(
        cls,
        connection: asyncpg.Connection,
        *,
        kind: type[Mover] = Mover,
        base: int | None = None,
        lease: float = 60.0,
        expects_one: bool = False,
    ) -> Leading:
        neighbours = Idle()
        mover = kind(Session(connection, namespace="pgbus"), neighbours=neighbours, lease=lease)
        await mover.start()
        if base is not None:
            mover.base = base
        return cls(mover, neighbours, expects_one)

    async def look(self) -> Look:
        """One look; what it woke and handed over is that of this look alone."""
        self.neighbours.woken.clear()
        self.neighbours.handed.clear()
        self.neighbours.in_lanes.clear()
        return await self.mover.look(expects_one=self.expects_one)

    async def drain(self) -> int:
        """Looks until one moves nothing and sees no more; how many events they moved."""
        moved = 0
        while True:
            look = await self.look()
            moved += look.moved
            if not look.moved and not look.has_more:
                return moved
