"""Operators' verbs for schedules: `admin.schedules`."""

from __future__ import annotations

from datetime import datetime
from typing import Unpack

from pgbus.admin.operations import OperationVerbs
from pgbus.database.statements import timetable
from pgbus.database.statements.operations import Operation, Verb, Why
from pgbus.database.statements.timetable import ScheduleRun, ScheduleStatus
from pgbus.database.store import Store
from pgbus.errors import NotRegisteredError
from pgbus.errors.spelling import find_close


class ScheduleVerbs:
    """Operators' verbs for schedules. Each that names a schedule raises NotRegisteredError for an unknown one."""

    def __init__(self, *, store: Store, operations: OperationVerbs) -> None:
        self._store = store
        self._operations = operations

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

    async def pause(self, schedule_name: str, **why: Unpack[Why]) -> Operation:
        """Begin no more runs of a schedule, on any worker; a current run continues."""
        return await self._operate("pause_schedule", schedule_name, why)

    async def resume(self, schedule_name: str, **why: Unpack[Why]) -> Operation:
        """Let a paused schedule continue; runs that were due meanwhile are not made up for."""
        return await self._operate("resume_schedule", schedule_name, why)

    async def run(self, schedule_name: str, **why: Unpack[Why]) -> Operation:
        """Have it run now; the next run is an interval from now, or at its next time of the calendar.

        Raises InUseError while it is paused or runs.
        """
        return await self._operate("run_schedule", schedule_name, why)

    async def remove(self, schedule_name: str, *, force: bool = False, **why: Unpack[Why]) -> Operation:
        """Forget it; its history stays until it is pruned.

        Raises InUseError while a live worker declares it, unless `force`.
        """
        return await self._operate("remove_schedule", schedule_name, why, force=force)

    async def check(self, schedule_name: str) -> None:
        """Raise NotRegisteredError unless there is such a schedule."""
        names = [one.schedule_name for one in await self.list()]
        if schedule_name not in names:
            raise _unknown_schedule(schedule_name, names)

    async def _operate(self, verb: Verb, schedule_name: str, why: Why, **options: bool) -> Operation:
        await self.check(schedule_name)
        return await self._operations.run(verb, {"schedule": schedule_name, **options}, **why)


def _unknown_schedule(schedule_name: str, names: list[str]) -> NotRegisteredError:
    return NotRegisteredError("schedule", schedule_name, find_close(schedule_name, names))
