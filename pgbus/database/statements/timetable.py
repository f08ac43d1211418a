"""Schedules as operators see them, and what they change of them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from pgbus.database.store import Store


class ScheduleStatus(msgspec.Struct, frozen=True):
    """A schedule: its next run, and the outcome of its newest run.

    `next_run_at` is None while it runs, and until a worker that declares it has worked it out. `last_outcome` is None
    before its first run, `running` while it runs; `last_duration` is in seconds. It was `last_seen_at` in the code of
    a live worker.
    """

    schedule_name: str
    rule: str
    missed: Literal["once", "skip", "all"]
    state: Literal["active", "paused"]
    service: str
    next_run_at: datetime | None
    running: bool
    running_on: str | None
    last_started_at: datetime | None
    last_outcome: str | None
    last_duration: float | None
    last_error: str | None
    registered_at: datetime
    last_seen_at: datetime


class ScheduleRun(msgspec.Struct, frozen=True):
    """One run of a schedule; `duration` is in seconds, None while it runs."""

    run_id: UUID
    schedule_name: str
    due_at: datetime
    attempt: int
    worker: str
    started_at: datetime
    finished_at: datetime | None
    duration: float | None
    outcome: Literal["running", "done", "failed", "skipped", "lost", "cancelled"]
    error: str | None


async def list_schedules(store: Store) -> tuple[ScheduleStatus, ...]:
    """Return every registered schedule, sorted by name."""
    return tuple(ScheduleStatus(**row) for row in await store.fetch("list_schedules"))


async def list_schedule_runs(
    store: Store,
    *,
    schedule_name: str,
    error: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> tuple[ScheduleRun, ...]:
    """At most `limit` runs of a schedule, the newest first."""
    rows = await store.fetch(
        "list_schedule_runs", schedule_name=schedule_name, error=error, since=since, until=until, limit=limit
    )
    return tuple(ScheduleRun(**row) for row in rows)
