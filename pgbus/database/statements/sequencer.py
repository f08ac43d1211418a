"""The leader's statements: sequencing, waking and sleeping, and who leads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pgbus.database.statements.deliveries import Claim
from pgbus.database.statements.rows import event_of
from pgbus.database.store import Store


@dataclass(frozen=True, slots=True)
class Sequencing:
    """What one call of `sequence_outbox` did and saw.

    `stopped_at` is an outbox id beyond which there may be more, else None. `has_more`: look again at once; `too_big`:
    with fewer rows, as these were too many bytes. `next_due` is in seconds from then; None: nothing is scheduled.
    `listener_ids` have something to claim; `handed` were given a claim, by listener id.
    """

    moved: int
    stopped_at: int | None
    has_more: bool
    too_big: bool
    listener_ids: Sequence[int]
    xmin: int
    xid: int | None
    last_id: int
    looked_at: float
    next_due: float | None
    handed: Mapping[int, Claim]


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
    """The current wake slot; `armed`: it is ours alone now, so whoever publishes next will notify."""

    slot: int
    armed: bool


async def sequence_outbox(
    store: Store,
    *,
    floor: int,
    wants_xid: bool,
    due_floor: float,
    base: int,
    batch: int,
    batch_bytes: int,
    avoid: Collection[int],
    run: int,
    tell_others: bool,
    idle_listener_ids: Sequence[int],
    token: UUID,
    worker_id: int,
    lease: float,
) -> Sequencing:
    """Move up to `batch` rows (and as many scheduled ones that are due) into the log from position `base` on.

    More than one only if they are not more than `batch_bytes`, and none of the ids to `avoid`. A lone event is
    claimed at once for those of the idle listeners that hear it.
    """
    row = await store.fetch_one(
        "sequence_outbox",
        floor=floor,
        wants_xid=wants_xid,
        due_floor=due_floor,
        base=base,
        batch=batch,
        batch_bytes=batch_bytes,
        avoid=list(avoid),
        run=run,
        tell_others=tell_others,
        work_channel=store.work_channel,
        idle_listener_ids=idle_listener_ids,
        claim_token=token,
        worker_id=worker_id,
        lease=lease,
    )
    stops = [id_ - 1 for id_ in avoid] + ([] if row["stopped_at"] is None else [row["stopped_at"]])
    return Sequencing(
        moved=row["moved"],
        stopped_at=min(stops) if stops else None,
        has_more=row["is_full"] or row["too_big"],
        too_big=row["too_big"],
        listener_ids=row["listener_ids"] or [],
        xmin=row["xmin"],
        xid=row["xid"],
        last_id=row["last_id"],
        looked_at=row["looked_at"],
        next_due=row["next_due"],
        handed=_handed(row, token=token) if row["handed_ids"] else {},
    )


def _handed(row: Any, *, token: UUID) -> dict[int, Claim]:
    """The claims that `sequence_outbox` made of its lone event; each listener gets an event of its own."""
    return {
        listener_id: Claim(
            id=id_,
            token=token,
            attempt=1,
            lane=None,
            suspect=False,
            fresh=True,
            last=row["position"],
            claimed_at=row["looked_at"],
            size=1,
            events=[event_of(row)],
        )
        for id_, listener_id in zip(row["handed_ids"], row["handed_to"], strict=True)
    }


async def backfill_listener(store: Store, *, batch: int, run: int) -> Backfilling:
    """Give one listener that is behind the next stretch of the log; one whose row is locked has its turn later."""
    row = await store.fetch_one("backfill_listener", batch=batch, run=run, work_channel=store.work_channel)
    return Backfilling(listener_id=row["listener_id"], were_behind=row["were_behind"])


async def find_locked_events(store: Store, *, floor: int, batch: int) -> list[int]:
    """The outbox ids that `sequence_outbox` would take and someone holds locked."""
    return [row["id"] for row in await store.fetch("find_locked_events", floor=floor, batch=batch)]


async def find_log_end(store: Store) -> LogEnd:
    """Where the log ends."""
    row = await store.fetch_one("find_log_end")
    return LogEnd(next_position=row["next_position"], last_partition=row["last_partition"])


async def try_sleep(store: Store) -> WakeSlot:
    """Take the current wake slot, unless a publisher that shares it may still commit without a NOTIFY."""
    row = await store.fetch_one("try_sleep", namespace=store.namespace)
    return WakeSlot(slot=row["slot"], armed=row["armed"])


async def wake_up(store: Store, *, slot: int) -> None:
    """Let publishers share the slot again."""
    await store.fetch("wake_up", namespace=store.namespace, slot=slot)


async def advance_wake_slot(store: Store) -> int:
    """Have publishers use the next slot, and return that; transactions that share the old one keep it."""
    slot: int = (await store.fetch_one("advance_wake_slot"))["slot"]
    return slot


async def find_held_slots(store: Store) -> set[int]:
    """The slots that open transactions share."""
    return {row["slot"] for row in await store.fetch("find_held_slots", namespace=store.namespace)}


async def try_lead(store: Store) -> bool:
    """Become the leader, unless another session is; whether this session leads now."""
    leads: bool = (await store.fetch_one("try_lead", namespace=store.namespace))["leads"]
    return leads


async def is_leaderless(store: Store) -> bool:
    """Whether no session leads."""
    leaderless: bool = (await store.fetch_one("is_leaderless", namespace=store.namespace))["leaderless"]
    return leaderless


async def end_leader(store: Store, *, backend_pid: int) -> None:
    """End the session of this server process, if it leads."""
    await store.fetch("end_leader", namespace=store.namespace, pid=backend_pid)


async def note_leader(store: Store, *, worker_id: int) -> None:
    """Write down that this worker leads, and no other."""
    await store.fetch("note_leader", worker_id=worker_id)


async def find_ready_listeners(store: Store, listener_ids: Iterable[int]) -> list[int]:
    """Those of these listeners that have something to claim."""
    return [row["id"] for row in await store.fetch("find_ready_listeners", listener_ids=list(listener_ids))]


async def notify(store: Store, *, channel: str, payload: str) -> None:
    """Send a notification when the transaction commits."""
    await store.fetch("notify", channel=channel, payload=payload)


async def notify_workers(store: Store, payload: str) -> None:
    """Wake every worker: the payload is ids of listeners, joined by commas, or one word."""
    await notify(store, channel=store.work_channel, payload=payload)
