"""The leader's statements that move the outbox into the log, and hand over what they moved to who is idle."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from pgbus.database.statements.deliveries import Claim
from pgbus.database.statements.rows import event_of
from pgbus.database.statements.sequencer import Reading, new_waiting
from pgbus.database.store import Store


class Delivery(NamedTuple):
    """A run of events that a listener is owed. `positions`, joined by commas within braces, if the run has holes."""

    listener_id: int
    lane: int | None
    first: int
    last: int
    size: int
    positions: str | None


class Offer(NamedTuple):
    """The idle listeners of a worker: claims may be made for them under this token, with a lease of `lease` seconds.

    `lanes` are those of ordered listeners in which nothing waits, by listener: each with the position from which on to
    make sure of that.
    """

    listener_ids: Collection[int]
    token: UUID
    worker_id: int
    lease: float
    lanes: Mapping[int, Mapping[int, int]] = MappingProxyType({})

    def includes(self, delivery: Delivery) -> bool:
        """Whether a delivery may be claimed at once."""
        if delivery.lane is None:
            return delivery.listener_id in self.listener_ids
        return self.floor(delivery) is not None

    def floor(self, delivery: Delivery) -> int | None:
        """From where on its lane has to be empty; None if that does not matter."""
        its = self.lanes.get(delivery.listener_id)
        return its.get(delivery.lane) if its and delivery.lane is not None else None

    def values(self) -> dict[str, object]:
        """The parameters of a claim that is made with the write."""
        return {"claim_token": self.token, "worker_id": self.worker_id, "lease": self.lease}


@dataclass(frozen=True, slots=True)
class Logged:
    """The result of a write in transaction `xid`: the number of moved rows; `handed` were claimed, by listener id.

    A listener without order has one of these claims, an ordered one has one for each lane.
    """

    moved: int
    xid: int
    handed: Mapping[int, Sequence[Claim]]


class GuessedDelivery(NamedTuple):
    """A listener of a guessed event: `lanes` is None for one without order; `claimed`: it is handed over at once."""

    listener_id: int
    lanes: int | None
    claimed: bool


class Guess(NamedTuple):
    """An event that may come next, by its topics, with its deliveries, and what to tell other workers of it."""

    topic: str
    ancestors: Sequence[str] | None
    deliveries: Sequence[GuessedDelivery]
    wakes: Sequence[str]


async def log_event(
    store: Store, *, id_: int, base: int, deliveries: Sequence[Delivery], offer: Offer, wakes: Sequence[str]
) -> Logged | None:
    """Move one row to the position `base`; deliveries without a lane are claimed for the listeners of the offer.

    None: nothing was done, as the routes have changed, or the row is gone.
    """
    rows = await store.fetch(
        "log_event",
        id=id_,
        base=base,
        listener_ids=[one.listener_id for one in deliveries],
        lanes=[one.lane for one in deliveries],
        claimed=[one.lane is None and offer.includes(one) for one in deliveries],
        wakes=list(wakes),
        work_channel=store.work_channel,
        **offer.values(),
    )
    return Logged(moved=1, xid=rows[0]["xid"], handed=_handed(rows, token=offer.token)) if rows else None


async def log_events(
    store: Store, *, ids: Sequence[int], base: int, deliveries: Sequence[Delivery], offer: Offer, wakes: Sequence[str]
) -> Logged | None:
    """Move rows to the positions from `base` on; deliveries are claimed for the listeners of the offer.

    None: nothing was done, as the routes have changed.
    """
    listener_ids, lanes, firsts, lasts, sizes, positions = (
        (list(column) for column in zip(*deliveries, strict=True)) if deliveries else ([], [], [], [], [], [])
    )
    rows = await store.fetch(
        "log_events",
        ids=list(ids),
        base=base,
        listener_ids=listener_ids,
        lanes=lanes,
        firsts=firsts,
        lasts=lasts,
        sizes=sizes,
        positions=positions,
        claimed=[offer.includes(one) for one in deliveries],
        lane_floors=[offer.floor(one) for one in deliveries],
        wakes=list(wakes),
        work_channel=store.work_channel,
        **offer.values(),
    )
    if not rows:
        return None
    return Logged(moved=rows[0]["moved"], xid=rows[0]["xid"], handed=_handed(rows, token=offer.token))


async def read_and_log_event(
    store: Store,
    *,
    high: int,
    batch: int,
    hashes: bool,
    guesses: Sequence[Guess],
    base: int,
    offer: Offer,
) -> tuple[Reading, Logged | None]:
    """`read_outbox`, and `log_event` at once for a single event of one of these guesses.

    None: nothing was done, as there is another number of events, or none that was guessed, or the routes have changed.
    Raises LockNotAvailable when someone holds the event's row, whose id is then not known.
    """
    deliveries = [(number, one) for number, guess in enumerate(guesses, 1) for one in guess.deliveries]
    wakes = [(number, wake) for number, guess in enumerate(guesses, 1) for wake in guess.wakes]
    records = await store.fetch(
        "read_and_log_event",
        high=high,
        batch=batch,
        hashes=hashes,
        topics=[guess.topic for guess in guesses],
        ancestors=[" ".join(guess.ancestors) if guess.ancestors else None for guess in guesses],
        numbers=[number for number, _ in deliveries],
        listener_ids=[one.listener_id for _, one in deliveries],
        lanes=[one.lanes for _, one in deliveries],
        claimed=[one.claimed for _, one in deliveries],
        wake_numbers=[number for number, _ in wakes],
        wakes=[wake for _, wake in wakes],
        base=base,
        work_channel=store.work_channel,
        **offer.values(),
    )
    snapshot, *rows = records
    if not rows or rows[0]["xid"] is None:
        return Reading(snapshot["topic"], [new_waiting(row[:6]) for row in rows]), None
    logged = Logged(moved=1, xid=rows[0]["xid"], handed=_handed(rows, token=offer.token))
    return Reading(snapshot["topic"], [new_waiting(rows[0][:6])]), logged


def _handed(rows: Sequence[Any], *, token: UUID) -> dict[int, list[Claim]]:
    """The claims that were made with the move, by listener: each gets events of its own, in the order of the log."""
    claims: dict[int, Claim] = {}
    listeners: dict[int, int] = {}
    for row in rows:
        if (delivery_id := row["delivery_id"]) is None:
            continue
        if delivery_id not in claims:
            claims[delivery_id] = _claim(row, token=token)
            listeners[delivery_id] = row["listener_id"]
        claims[delivery_id].events.append(event_of(row))
    handed: dict[int, list[Claim]] = {}
    for delivery_id, claim in claims.items():
        # A claim that lacks an event, whose row someone deleted meanwhile, is handed to nobody: its worker finds that
        # it does not know it, and returns it.
        if len(claim.events) == claim.size:
            handed.setdefault(listeners[delivery_id], []).append(claim)
    return handed


def _claim(row: Any, *, token: UUID) -> Claim:
    return Claim(
        id=row["delivery_id"],
        token=token,
        attempt=1,
        lane=row["lane"],
        suspect=False,
        fresh=True,
        last=row["last"],
        claimed_at=row["claimed_at"],
        size=row["events"],
        events=[],
    )
