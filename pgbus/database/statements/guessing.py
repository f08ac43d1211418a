"""The leader's statement for a quiet bus: it reads, and logs what was guessed at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from pgbus.database.statements.sequencer import Logged, Reading, handed_claim, new_waiting
from pgbus.database.store import Store


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


async def read_and_log_event(
    store: Store,
    *,
    high: int,
    batch: int,
    hashes: bool,
    guesses: Sequence[Guess],
    base: int,
    token: UUID,
    worker_id: int,
    lease: float,
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
        claim_token=token,
        worker_id=worker_id,
        lease=lease,
    )
    snapshot, *rows = records
    if not rows or rows[0]["xid"] is None:
        return Reading(snapshot["topic"], [new_waiting(row[:6]) for row in rows]), None
    handed = {row["listener_id"]: handed_claim(row, token=token) for row in rows if row["delivery_id"] is not None}
    return Reading(snapshot["topic"], [new_waiting(rows[0][:6])]), Logged(moved=1, xid=rows[0]["xid"], handed=handed)
