"""The listeners of the leader's own process, and how an event that comes alone is handed to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol
from uuid import UUID, uuid4

from pgbus.aio.clock import now
from pgbus.database.statements.deliveries import Claim
from pgbus.database.statements.sequencer import Logged

Log = Callable[[UUID, int, Collection[int]], Awaitable[Logged | None]]
"""Logs an event, claimed under a token by a worker for idle listeners; None: nothing was logged."""


class Neighbours(Protocol):
    """The listeners of the leader's own process: it wakes them itself, and hands them an event that comes alone."""

    def wake(self, listener_ids: Iterable[int]) -> None:
        """They have something to claim."""

    def offer(self, token: UUID) -> tuple[int, Sequence[int]]:
        """The worker's id, and the listeners that are idle: a claim under this token may be made for each of them."""

    def hand_over(self, claims: Mapping[int, Claim], *, sent_at: float) -> None:
        """Take the result of the offer, by listener id; called after each offer. `sent_at`: by the engine's clock."""


async def handing_over(neighbours: Neighbours, log: Log) -> Logged | None:
    """Have an event that comes alone be claimed for idle listeners as it is logged: that saves a round trip."""
    token, sent_at = uuid4(), now()
    worker_id, idle = neighbours.offer(token)
    handed: Mapping[int, Claim] = {}
    try:
        logged = await log(token, worker_id, idle)
        if logged:
            handed = logged.handed
    finally:
        # Also when the write failed: the token counts as under way until then. If it has committed and only the answer
        # was lost, the worker finds a claim of its own that it does not know, and returns it.
        neighbours.hand_over(handed, sent_at=sent_at)
    return logged
