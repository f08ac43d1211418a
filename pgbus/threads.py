"""Plain functions in threads: what one returns or raises comes back to the event loop as a value."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor as Threads
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt(Generic[T]):
    """What a function returned, or raised."""

    value: T | None
    error: BaseException | None

    def result(self) -> T:
        """Return it, or raise it."""
        if self.error is not None:
            raise self.error
        return cast("T", self.value)


def start(threads: Threads, work: Callable[[], T]) -> asyncio.Future[Attempt[T]]:
    """Run a function in one of these threads, in a copy of the caller's context. It cannot be stopped, only left."""
    context = contextvars.copy_context()
    return asyncio.get_running_loop().run_in_executor(threads, context.run, _attempt, work)


def _attempt(work: Callable[[], T]) -> Attempt[T]:
    # A StopIteration cannot pass through a future, and a SystemExit must not end the event loop.
    try:
        return Attempt(work(), None)
    except BaseException as error:
        return Attempt(None, error)


def is_loop_running() -> bool:
    """Whether this thread runs an event loop, which nothing may block."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
