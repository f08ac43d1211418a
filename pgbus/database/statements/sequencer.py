"""The leader's statements: reading the outbox, waking and sleeping, and who leads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from pgbus.database.sql import names_in
from pgbus.database.store import Store


class Waiting(NamedTuple):
    """An outbox row that can be logged: `bytes` as it is stored, `hash` for its lane, if it was asked for.

    `deliver_at`, in the database's epoch seconds, is that of a scheduled event.
    """

    id: int
    topic: str
    ancestors: Sequence[str] | None
    hash: int | None
    bytes: int
    deliver_at: float | None


new_waiting: Callable[[Any], Waiting] = partial(tuple.__new__, Waiting)
"""`_make` without its check of the length, in half of its time."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The rows of one snapshot, in the order of their ids, and that snapshot, as PostgreSQL writes it."""

    snapshot: str
    rows: Sequence[Waiting]


@dataclass(frozen=True, slots=True)
class Subscription:
    """A pattern of a live listener; `lanes` is None for one without order."""

    listener_id: int
    lanes: int | None
    is_active: bool
    pattern: str


@dataclass(frozen=True, slots=True)
class NextDue:
    """When the next scheduled event is due: the instant in the database's epoch seconds, and seconds from now."""

    deliver_at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Backfilling:
    """`listener_id` got a stretch of the log; None when nobody but lock holders is behind. `were_behind`: any was."""

    listener_id: int | None
    were_behind: bool


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The position after the last event of the log, 0 when it is empty, and the highest partition that exists."""

    next_position: int
    last_partition: int


@dataclass(frozen=True, slots=True)
class WakeSlot:
    """The current wake slot; `armed`: we hold it exclusively, so the next publisher will notify."""

    slot: int
    armed: bool


class Owed(NamedTuple):
    """Whether something is owed now, and the seconds until something else is due; infinity: nothing is."""

    now: bool
    seconds: float


class LeaderLock(NamedTuple):
    """The lock that is held by who leads: nobody has to while the bus is `asleep`."""

    free: bool
    asleep: bool


async def read_outbox(
    store: Store,
    *,
    high: int,
    batch: int,
    hashes: bool,
    holes: Sequence[range] = (),
    scheduled: bool = True,
) -> Reading:
    """Up to `batch` rows above the id `high`, and up to `batch` that lie in the holes below it.

    `scheduled`: whether rows in the holes that are scheduled count.
    """
    if holes:
        records = await store.fetch(
            "read_outbox_and_holes",
            high=high,
            batch=batch,
            hashes=hashes,
            lows=[hole.start for hole in holes],
            ends=[hole.stop for hole in holes],
            scheduled=scheduled,
        )
    else:
        records = await store.fetch("read_outbox", high=high, batch=batch, hashes=hashes)
    # The first row has no id, and the snapshot in the place of the topic.
    return Reading(snapshot=records[0]["topic"], rows=list(map(new_waiting, records[1:])))


async def take_xid(store: Store) -> int:
    """An xid that is higher than any that was given out before."""
    xid: int = (await store.fetch_one("take_xid"))["xid"]
    return xid


async def load_routes(store: Store) -> list[Subscription]:
    """Return the subscriptions of live listeners; after a later change the next write is refused."""
    return [Subscription(**row) for row in await store.fetch("load_routes")]


async def find_next_due(store: Store, *, due_floor: float) -> NextDue | None:
    """The instant of the first scheduled event from that instant on, or None."""
    rows = await store.fetch("find_next_due", due_floor=due_floor)
    return NextDue(**rows[0]) if rows else None


async def lock_due_events(store: Store, *, due_floor: float, batch: int, hashes: bool) -> list[Waiting]:
    """Up to `batch` scheduled events that are due, in their order, but for those that someone else has locked."""
    rows = await store.fetch("lock_due_events", due_floor=due_floor, batch=batch, hashes=hashes)
    return list(map(Waiting._make, rows))


async def backfill_listener(store: Store, *, batch: int, run: int) -> Backfilling:
    """Give one listener that is behind the next stretch of the log; one whose row is locked has its turn later."""
    row = await store.fetch_one("backfill_listener", batch=batch, run=run, work_channel=store.work_channel)
    return Backfilling(listener_id=row["listener_id"], were_behind=row["were_behind"])


async def find_locked_events(store: Store, ids: Sequence[int]) -> set[int]:
    """Those of these outbox rows that someone else holds locked."""
    return {row["id"] for row in await store.fetch("find_locked_events", ids=list(ids))}


async def find_last_id(store: Store) -> int:
    """The last outbox id that was handed out."""
    last_id: int = (await store.fetch_one("find_last_id"))["last_id"]
    return last_id


async def mend_last_id(store: Store) -> bool:
    """Set the outbox's sequence forward to the highest id there is; false when it was not behind that."""
    return bool(await store.fetch("mend_last_id"))


async def find_log_end(store: Store) -> LogEnd:
    """Return the position after the last event, and the highest partition."""
    row = await store.fetch_one("find_log_end")
    return LogEnd(next_position=row["next_position"], last_partition=row["last_partition"])


async def try_sleep(store: Store) -> WakeSlot:
    """Take the current wake slot, unless a publisher that shares it may still commit without a NOTIFY."""
    row = await store.fetch_one("try_sleep")
    return WakeSlot(slot=row["slot"], armed=row["armed"])


async def wake_up(store: Store, *, slot: int) -> None:
    """Let publishers share the slot again."""
    await store.fetch("wake_up", slot=slot)


async def advance_wake_slot(store: Store) -> int:
    """Have publishers use the next slot, and return that; transactions that share the old one keep it."""
    slot: int = (await store.fetch_one("advance_wake_slot"))["slot"]
    return slot


async def find_held_slots(store: Store) -> set[int]:
    """The slots that open transactions share."""
    return {row["slot"] for row in await store.fetch("find_held_slots")}


def names_to_lead() -> tuple[str, ...]:
    """The names of all statements that run on the session of a leader."""
    others = ("free_claims", "free_schedules", "find_own_claims", "return_claims")
    return (*names_in("sequencer"), *names_in("maintenance"), *others)


async def try_lead(store: Store) -> bool:
    """Become the leader, unless another session is; whether this session leads now."""
    leads: bool = (await store.fetch_one("try_lead", namespace=store.namespace))["leads"]
    return leads


async def find_leader(store: Store) -> LeaderLock:
    """Return whether no session holds the leader's lock, and whether the bus sleeps."""
    return LeaderLock(*await store.fetch_one("find_leader", namespace=store.namespace))


async def find_owed(store: Store) -> Owed:
    """Find what keeps the bus awake, besides the outbox, which the leader knows."""
    return Owed(*await store.fetch_one("find_owed"))


async def lie_down(store: Store) -> int:
    """Announce that the bus is about to sleep, and have every publisher notify from now on; returns the slot."""
    slot: int = (await store.fetch_one("lie_down", work_channel=store.work_channel))["slot"]
    return slot


async def fall_asleep(store: Store, *, held_slot: int, seconds: float) -> None:
    """Give the lead up, after `lie_down`: the bus sleeps, for `seconds` at most. `held_slot` was the one before."""
    await store.fetch(
        "fall_asleep",
        namespace=store.namespace,
        held_slot=held_slot,
        seconds=seconds,
        work_channel=store.work_channel,
    )


async def rise(store: Store, *, slot: int, silence: str) -> bool:
    """Lead again after a sleep that began with this slot; false if another session leads now, or has led meanwhile.

    From then on the server ends a session that is silent for `silence`, as text.
    """
    risen = await store.fetch_one(
        "rise", namespace=store.namespace, slot=slot, silence=silence, work_channel=store.work_channel
    )
    return bool(risen["slot"])


async def is_asleep(store: Store) -> bool:
    """Return whether the bus sleeps."""
    asleep: bool = (await store.fetch_one("is_asleep"))["is_asleep"]
    return asleep


async def may_close(store: Store) -> bool:
    """Return whether the bus sleeps, and no open transaction may still commit what wakes it."""
    may_close: bool = (await store.fetch_one("may_close"))["may_close"]
    return may_close


async def beat(store: Store) -> None:
    """Break the silence of the leader's session."""
    await store.fetch("beat")


async def note_leader(store: Store, *, worker_id: int) -> bool:
    """Write down that this worker leads, and no other; False when a row was locked, and is still to be written."""
    is_noted: bool = (await store.fetch_one("note_leader", worker_id=worker_id))["is_noted"]
    return is_noted


async def find_ready_listeners(store: Store, listener_ids: Iterable[int]) -> list[int]:
    """Those of these listeners that have something to claim."""
    return [row["id"] for row in await store.fetch("find_ready_listeners", listener_ids=list(listener_ids))]
