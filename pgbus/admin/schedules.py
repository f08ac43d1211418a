"""Operators' verbs for schedules: `admin.schedules`."""

from __future__ import annotations

import difflib
from datetime import datetime

from pgbus.admin.changes import Change
from pgbus.database.statements import timetable
from pgbus.database.statements.timetable import LockedSchedule, ScheduleRun, ScheduleStatus
from pgbus.database.store import Store
from pgbus.errors import InUseError, NotRegisteredError


class ScheduleVerbs:
    """Operators' verbs for schedules. Each that names a schedule raises NotRegisteredError where there is none."""

    def __init__(self, *, store: Store, change: Change) -> None:
        self._store = store
        self._change = change

    async def list(self) -> tuple[ScheduleStatus, ...]:
        """Return every schedule, sorted by name."""
        return await timetable.list_schedules(self._store)

    async def history(
        self,
        schedule_name: str,
        *,
        error: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> tuple[ScheduleRun, ...]:
        """At most `limit` runs of a schedule, the newest first; also of one that was removed.

        `error` is a part of the error, in any case; `since` (inclusive) and `until` (exclusive) are compared with the
        instant at which a run began. None does not restrict.
        """
        runs = await timetable.list_schedule_runs(
            self._store, schedule_name=schedule_name, error=error, since=since, until=until, limit=limit
        )
        if not runs:
            names = [one.schedule_name for one in await self.list()]
            if schedule_name not in names:
                raise _unknown_schedule(schedule_name, names)
        return runs

    async def pause(self, schedule_name: str) -> None:
        """Begin no more runs of it, on any worker; one that runs goes on."""
        async with self._change():
            await self._lock(schedule_name)
            await timetable.set_schedule_state(self._store, schedule_name=schedule_name, state="paused")

    async def resume(self, schedule_name: str) -> None:
        """Let a paused one continue; what was due meanwhile is not made up for."""
        async with self._change():
            if (await self._lock(schedule_name)).state == "paused":
                await timetable.set_schedule_state(self._store, schedule_name=schedule_name, state="active")

    async def run(self, schedule_name: str) -> None:
        """Have it run now; the next run is an interval from now, or at its next time of the calendar.

        Raises InUseError while it is paused or runs.
        """
        async with self._change():
            schedule = await self._lock(schedule_name)
            if schedule.state == "paused":
                raise InUseError(schedule_name, "is paused; resume it first")
            if schedule.running:
                raise InUseError(schedule_name, "runs at this moment; its runs never overlap")
            await timetable.make_schedule_due(self._store, schedule_name=schedule_name)

    async def remove(self, schedule_name: str, *, force: bool = False) -> None:
        """Forget it; its history stays until it is pruned.

        Raises InUseError while a live worker declares it, unless `force`.
        """
        async with self._change():
            if (await self._lock(schedule_name)).declared and not force:
                raise InUseError(
                    schedule_name,
                    "was declared by a live worker within the last minute, which would register it again; deploy the "
                    "workers without it, and remove it a minute later",
                )
            await timetable.delete_schedule(self._store, schedule_name=schedule_name)

    async def _lock(self, schedule_name: str) -> LockedSchedule:
        schedule = await timetable.lock_schedule(self._store, schedule_name=schedule_name)
        if schedule is None:
            raise _unknown_schedule(schedule_name, [one.schedule_name for one in await self.list()])
        return schedule


def _unknown_schedule(schedule_name: str, names: list[str]) -> NotRegisteredError:
    return NotRegisteredError("schedule", schedule_name, difflib.get_close_matches(schedule_name, names))
