"""What operators see of schedules, and the changes they make to them: `admin.schedules`."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pgbus.errors import ScheduleInUseError, UnknownScheduleError


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """A schedule: when it is due next, and what became of its newest run.

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


@dataclass(frozen=True, slots=True)
class ScheduleRun:
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


class ScheduleVerbs:
    """Operators' verbs for schedules. Each that names a schedule raises UnknownScheduleError where there is none."""

    def __init__(
        self,
        *,
        fetch: Callable[..., Awaitable[Sequence[Any]]],
        change: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._fetch = fetch
        self._change = change

    async def list(self) -> tuple[ScheduleStatus, ...]:
        """Every schedule, by name."""
        return tuple(ScheduleStatus(**row) for row in await self._fetch("list_schedules"))

    async def history(self, schedule_name: str, *, limit: int = 100) -> tuple[ScheduleRun, ...]:
        """At most `limit` runs of a schedule, the newest first; also of one that was removed."""
        rows = await self._fetch("list_schedule_runs", schedule_name=schedule_name, limit=limit)
        if not rows:
            await self._check(schedule_name)
        return tuple(ScheduleRun(**row) for row in rows)

    async def pause(self, schedule_name: str) -> None:
        """Begin no more runs of it, on any worker; one that runs goes on."""
        async with self._change():
            await self._lock(schedule_name)
            await self._fetch("set_schedule_state", schedule_name=schedule_name, state="paused")

    async def resume(self, schedule_name: str) -> None:
        """Let a paused one go on; what was due meanwhile is not made up for."""
        async with self._change():
            if (await self._lock(schedule_name))["state"] == "paused":
                await self._fetch("set_schedule_state", schedule_name=schedule_name, state="active")

    async def run(self, schedule_name: str) -> None:
        """Have it run now; the next run is an interval from now, or at its next time of the calendar.

        Raises ScheduleInUseError while it is paused or runs.
        """
        async with self._change():
            row = await self._lock(schedule_name)
            if row["state"] == "paused":
                raise ScheduleInUseError(schedule_name, "is paused; resume it first")
            if row["running"]:
                raise ScheduleInUseError(schedule_name, "runs at this moment; its runs never overlap")
            await self._fetch("make_schedule_due", schedule_name=schedule_name)

    async def remove(self, schedule_name: str, *, force: bool = False) -> None:
        """Forget it; its history stays until it is pruned.

        Raises ScheduleInUseError while a live worker declares it, unless `force`.
        """
        async with self._change():
            if (await self._lock(schedule_name))["declared"] and not force:
                raise ScheduleInUseError(
                    schedule_name,
                    "was declared by a live worker within the last minute, which would register it again; deploy the "
                    "workers without it, and remove it a minute later",
                )
            await self._fetch("delete_schedule", schedule_name=schedule_name)

    async def _lock(self, schedule_name: str) -> Any:
        rows = await self._fetch("lock_schedule", schedule_name=schedule_name)
        if not rows:
            await self._check(schedule_name)
        return rows[0]

    async def _check(self, schedule_name: str) -> None:
        names = [one.schedule_name for one in await self.list()]
        if schedule_name not in names:
            raise UnknownScheduleError(schedule_name, difflib.get_close_matches(schedule_name, names))
