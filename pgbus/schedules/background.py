"""Background tasks, which run from a worker's start to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from pgbus.aio.backoff import RestartBackoff
from pgbus.aio.clock import now
from pgbus.aio.returned import finish
from pgbus.schedules.calling import attempt, error_of
from pgbus.schedules.schedule import Background, Task
from pgbus.telemetry.figures import duration

logger = logging.getLogger("pgbus")


class BackgroundTasks:
    """The background tasks of one worker; a function that fails is called again, after a pause that grows."""

    def __init__(self) -> None:
        self._tasks: dict[Background, asyncio.Task[None]] = {}

    def start(self, background: Iterable[Background]) -> None:
        """Run these, too, each once."""
        # Called again with each new session. What has ended stays in here, so that it is not started a second time.
        for one in background:
            if one not in self._tasks:
                self._tasks[one] = asyncio.create_task(_run(one), name=f"pgbus {one.name}")

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel all background tasks; returns them. They end when the user's code lets them."""
        for task in self._tasks.values():
            task.cancel()
        return list(self._tasks.values())


async def _run(background: Background) -> None:
    if task := background.task:
        await _keep_up(background.name, task)
    elif (awaitable := background.take()) and (error := await error_of(finish(awaitable, background.name))):
        logger.error("background task %s failed, and is not restarted", background.name, exc_info=error)


async def _keep_up(name: str, task: Task) -> None:
    backoff = RestartBackoff()
    while True:
        started = now()
        error = await attempt(task)
        if error is None:
            return
        pause = backoff.next_after(age=now() - started)
        logger.error("background task %s failed, and restarts in %s", name, duration(pause), exc_info=error)
        await asyncio.sleep(pause)
