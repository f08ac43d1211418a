"""Tasks: how one that ended by itself is found, and whose a cancellation is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


def failure_of(tasks: Iterable[asyncio.Task[None]]) -> BaseException | None:
    """What ended one of these, which should never end by themselves."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()):
            return error
    return None


def is_being_cancelled() -> bool:
    """Whether it is this very task that is being cancelled, and not something within what it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
