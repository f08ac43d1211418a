"""Tasks: how one that ended by itself is found, whose a cancellation is, and how to end one for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any


def failure_of(tasks: Iterable[asyncio.Task[None]]) -> BaseException | None:
    """Return the error that ended one of these tasks, which should never end by themselves."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()):
            return error
    return None


def call_on_failure(task: asyncio.Task[None], told: Callable[[], None]) -> None:
    """Call `told` when an error ends the task, but not when it is cancelled."""

    def look(ended: asyncio.Task[None]) -> None:
        if failure_of([ended]):
            told()

    task.add_done_callback(look)


def is_being_cancelled() -> bool:
    """Whether it is this very task that is being cancelled, and not something within what it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel these tasks until all have ended.

    Once is not enough: what ends at the same moment, a link that fails say, may swallow a cancellation, and on Python
    3.11 `asyncio.timeout` and `asyncio.wait_for` did.
    """
    for task in tasks:
        # By a callback, as we may be cancelled ourselves while we wait.
        task.add_done_callback(_look_at)
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=1.0)


async def run_until(work: Coroutine[Any, Any, None], ended: asyncio.Event, *, name: str) -> asyncio.Task[None]:
    """Do the work until it is done, or the event is set, which cancels it; its task, which has come to its end."""
    task = asyncio.create_task(work, name=name)
    end = asyncio.create_task(ended.wait())
    # Both end here in any case, also when we are cancelled: work that went on would, say, lead without anyone who
    # knows.
    try:
        await asyncio.wait([task, end], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(task, end)
    return task


async def wait_for_first(*events: asyncio.Event, limit: float | None = None) -> None:
    """Wait until one of these events is set, for at most `limit` seconds."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _look_at(task: asyncio.Task[Any]) -> None:
    """Retrieve the error of a task; otherwise asyncio logs it as never retrieved."""
    if not task.cancelled():
        task.exception()
