"""Calling a task: an async one on the loop, a plain one in a thread of its own; what it raises is returned."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor

from pgbus.aio.tasks import is_being_cancelled
from pgbus.aio.threads import start
from pgbus.handlers.contexts import TaskContext
from pgbus.schedules.schedule import Task


async def attempt(task: Task, context: TaskContext | None = None) -> BaseException | None:
    """Call a task; returns the exception that it raised, SystemExit included, or None."""
    if task.is_async:
        return await error_of(_call(task, context))
    threads = ThreadPoolExecutor(1, thread_name_prefix="pgbus-task")
    future = start(threads, lambda: task.call(context))
    threads.shutdown(wait=False)  # its one thread ends with the function
    # Shielded: a thread goes on when nobody waits for it any more, and what it returns then is for no one.
    returned = await asyncio.shield(future)
    return await error_of(task.finish(returned.value)) if returned.error is None else returned.error


async def _call(task: Task, context: TaskContext | None) -> None:
    await task.finish(task.call(context))


async def error_of(awaitable: Awaitable[object]) -> BaseException | None:
    """Await it; what it raised. Our own cancellation comes through, and not one from within what is awaited."""
    try:
        await awaitable
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
            raise
        return error
    return None
