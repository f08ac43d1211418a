"""What the loops of a worker share: how they try again, how one that broke off is found, whose a cancellation is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

# Seconds between tries when the database does not answer.
LINK_PAUSE = 0.2
LINK_PAUSE_LIMIT = 5.0


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
