"""Schedules: registered by the workers that declare them, claimed when they are due, and what became of their runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from pgbus.database.store import Store


class Registered(msgspec.Struct, frozen=True):
    """Whether a schedule is new, and the rule that it had until now."""

    is_new: bool
    old_rule: str | None


class Namesake(msgspec.Struct, frozen=True):
    """A live worker of a service of the same name, whose folder `home` is another one."""

    worker: str
    home: str


class ScheduleClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A run that this worker has claimed, for the `attempt`-th time."""

    token: UUID
    attempt: int


class FoundSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule's row at the instant `now`, and our claim of its run, if it was due and free.

    `next_run_at` is None where someone is to work it out. `was_claimed`: someone had claimed it before.
    """

    name: str
    rule: str
    missed: Literal["once", "skip", "all"]
    is_active: bool
    next_run_at: datetime | None
    now: datetime
    was_claimed: bool
    claim: ScheduleClaim | None


class FreedSchedules(msgspec.Struct, frozen=True, kw_only=True):
    """The schedules whose runs were taken back. `absent`: workers that have claimed runs and no session."""

    names: list[str]
    absent: frozenset[int]


async def register_schedule(
    store: Store, *, schedule_name: str, rule: str, missed: str, service: str, run_immediately: bool
) -> Registered:
    """Make a schedule known; a new one is due at once if it is to `run_immediately`."""
    row = await store.fetch_one(
        "register_schedule",
        schedule_name=schedule_name,
        rule=rule,
        missed=missed,
        service=service,
        run_immediately=run_immediately,
    )
    return Registered(is_new=row["is_new"], old_rule=row["old_rule"])


async def find_namesake(store: Store, *, service: str, home: str | None) -> Namesake | None:
    """A worker whose schedules have the same names as ours, though its service is another one."""
    rows = await store.fetch("find_namesake", service=service, home=home)
    return Namesake(worker=rows[0]["worker"], home=rows[0]["home"]) if rows else None


async def set_next_run(store: Store, *, schedule_name: str, rule: str, next_run_at: datetime) -> None:
    """Say when a schedule is due for which that was to be worked out, if its rule is still this one."""
    await store.fetch("set_next_run", schedule_name=schedule_name, rule=rule, next_run_at=next_run_at)


async def claim_schedules(
    store: Store,
    *,
    worker_id: int,
    worker: str,
    names: Sequence[str],
    tokens: Sequence[UUID],
    running: Collection[UUID],
    lease: float,
) -> list[FoundSchedule]:
    """Claim those of these schedules that are due, each by the token in its place; the rows of all of them.

    `running` are the tokens of the runs that the worker knows of: one of its runs that is not among them is nobody's.
    """
    rows = await store.fetch(
        "claim_schedules",
        worker_id=worker_id,
        worker=worker,
        schedule_names=names,
        tokens=tokens,
        running=list(running),
        lease=lease,
    )
    return [
        FoundSchedule(
            name=row["schedule_name"],
            rule=row["rule"],
            missed=row["missed"],
            is_active=row["state"] == "active",
            next_run_at=row["next_run_at"],
            now=row["now"],
            was_claimed=row["was_claimed"],
            claim=ScheduleClaim(token=row["claim_token"], attempt=row["attempt"]) if row["claim_token"] else None,
        )
        for row in rows
    ]


async def free_schedules(store: Store, *, absent: Collection[int]) -> FreedSchedules:
    """Take back the runs whose leases have expired, and those of `absent` workers that still have no session.

    These are workers that the look before this one found without a session.
    """
    row = await store.fetch_one("free_schedules", absent=list(absent), work_channel=store.work_channel)
    return FreedSchedules(names=row["schedule_names"] or [], absent=frozenset(row["absent"] or ()))


async def finish_schedule_run(
    store: Store,
    *,
    schedule_name: str,
    token: UUID,
    rule: str,
    outcome: str,
    error: str | None,
    due_at: datetime,
    next_run_at: datetime,
) -> bool:
    """Write what became of a run, and when the next one is due; false when the claim is no longer ours."""
    rows = await store.fetch(
        "finish_schedule_run",
        schedule_name=schedule_name,
        token=token,
        rule=rule,
        outcome=outcome,
        error=error,
        due_at=due_at,
        next_run_at=next_run_at,
    )
    return bool(rows)


async def extend_schedule_leases(
    store: Store, *, schedule_names: Sequence[str], running: Sequence[UUID], lease: float
) -> set[UUID]:
    """Keep runs for `lease` seconds from now; the tokens of those that are still ours."""
    rows = await store.fetch("extend_schedule_leases", schedule_names=schedule_names, running=running, lease=lease)
    return {row["claim_token"] for row in rows}


async def touch_schedules(store: Store, *, schedule_names: Sequence[str]) -> None:
    """Note that a live worker declares these schedules."""
    await store.fetch("touch_schedules", schedule_names=schedule_names)
