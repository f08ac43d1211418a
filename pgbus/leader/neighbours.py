"""The listeners of the leader's own process, and how events that come alone, or few at a time, are handed to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar
from uuid import UUID, uuid4

from pgbus.aio.clock import now
from pgbus.database.statements.deliveries import Claim
from pgbus.database.statements.moving import Logged, Offer

L = TypeVar("L", bound=Logged | None)


class Neighbours(Protocol):
    """The listeners of the leader's own process: it wakes them itself, and hands events to those that are idle."""

    def wake(self, lanes: Mapping[int, Iterable[int]]) -> None:
        """Listeners have something to claim, by their ids: in these lanes, or anywhere if none is named."""

    def offer(self, token: UUID, listener_ids: Collection[int], *, events: int, lease: float) -> Offer:
        """The ones of these listeners that would take this many events at once, and lanes in which others would: claims
        under this token may be made for them.
        """
        ...

    def hand_over(self, claims: Mapping[int, Sequence[Claim]], *, sent_at: float) -> None:
        """Take the result of the offer, by listener id; called after each offer. `sent_at`: by the engine's clock."""


async def handing_over(
    neighbours: Neighbours,
    log: Callable[[Offer], Awaitable[L]],
    *,
    takers: Collection[int],
    events: int,
    lease: float,
) -> L:
    """Have events be claimed for those of the takers that are idle as they are logged: that saves a round trip.

    `log` claims them for listeners of its offer, and returns None if it logged nothing.
    """
    token, sent_at = uuid4(), now()
    offer = neighbours.offer(token, takers, events=events, lease=lease)
    handed: Mapping[int, Sequence[Claim]] = {}
    try:
        logged = await log(offer)
        if isinstance(logged, Logged):
            handed = logged.handed
    finally:
        # Also when the write failed: the token counts as under way until then. If it has committed and only the answer
        # was lost, the worker finds a claim of its own that it does not know, and returns it.
        neighbours.hand_over(handed, sent_at=sent_at)
    return logged
