"""A worker's tasks: what is on a schedule, and what runs in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from pgbus.aio.clock import now
from pgbus.aio.tasks import call_on_failure, end_tasks, failure_of
from pgbus.config import Config
from pgbus.database.store import Store
from pgbus.database.tries import LINK_PAUSE_LIMIT
from pgbus.schedules.background import BackgroundTasks
from pgbus.schedules.claimer import Claimer
from pgbus.schedules.runs import Run, Runs
from pgbus.schedules.schedule import Background, Schedule
from pgbus.telemetry import Instruments, Telemetry


class Tasks:
    """Runs schedules and background tasks in one worker.

    `worker_id` is 0 while the worker has no session: without it a worker counts as dead, and its runs as broken off.
    `is_asleep` tells whether the bus sleeps: then nothing is asked before a run is due.
    `failed` is called when an error ends the loop, and `failure` tells which.
    """

    def __init__(
        self,
        store: Store,
        *,
        config: Config,
        telemetry: Telemetry,
        instruments: Instruments,
        worker_id: Callable[[], int],
        is_asleep: Callable[[], bool],
        failed: Callable[[], None],
    ) -> None:
        self._failed = failed
        self._runs = Runs(store, telemetry=telemetry, instruments=instruments, ended=self.wake)
        self._claimer = Claimer(store, config=config, worker_id=worker_id, is_asleep=is_asleep, runs=self._runs)
        self._background = BackgroundTasks()
        self._loop: asyncio.Task[None] | None = None
        self._started_at = 0.0
        self._is_stopping = False

    async def start(self, schedules: Iterable[Schedule], background: Iterable[Background]) -> None:
        """Run these, too, once they are registered; called again when the worker has a new session."""
        if self._is_stopping:
            return
        self._claimer.add(schedules)
        self._background.start(background)
        self._claimer.check_leases()
        if self._claimer.has_schedules:
            if self._loop is None:
                await self._claimer.warn_of_namesake()
            if self._loop is None:  # still: the session and the upkeep may both have waited here
                self._started_at = now()
                self._loop = asyncio.create_task(self._claimer.run(), name="pgbus tasks")
                call_on_failure(self._loop, self._failed)
            await self._claimer.register()
        self.wake()

    def wake(self) -> None:
        """Look at the schedules: an operator may have changed something."""
        self._claimer.wake()

    def failure(self) -> BaseException | None:
        """The error that ended the loop, which should never end by itself."""
        return failure_of([self._loop] if self._loop else [])

    @property
    def runs(self) -> Sequence[Run]:
        """The runs of schedules that are not written down yet."""
        return self._runs.under_way

    @property
    def age(self) -> float:
        """Seconds since the loop began."""
        return now() - self._started_at

    async def break_off(self) -> None:
        """End the loop after a failure; `start` begins it again. What runs goes on."""
        loop, self._loop = self._loop, None
        if loop:
            await end_tasks(loop)

    async def stop(self, *, grace: float) -> None:
        """Begin no more runs, cancel the background, let runs finish for `grace` seconds; the rest is broken off."""
        # All three before the first `await`: a claim under way may still bring a run, which `Runs` then gives back.
        self._is_stopping = True
        self._claimer.stop()
        self._runs.stop()
        self._background.cancel()
        await self._claimer.finish_claim(LINK_PAUSE_LIMIT)
        # The loop goes on meanwhile, as it extends the leases of what still runs.
        await self._runs.wait(grace)
        self._runs.abandon()
        await self._runs.wait(LINK_PAUSE_LIMIT)
        if self._loop:
            await end_tasks(self._loop)
        left = [*self._runs.cancel(), *self._background.cancel()]
        if left:  # what the user wrote may take its time, or swallow the cancellation
            await asyncio.wait(left, timeout=LINK_PAUSE_LIMIT)

    def abandon(self) -> None:
        """Do not wait for running tasks any longer."""
        self._runs.abandon()
