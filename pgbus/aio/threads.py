"""Plain functions in threads: what one returns or raises comes back to the event loop as a value."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor as Threads
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from pgbus.aio.returned import check, finish, is_awaitable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt(Generic[T]):
    """The result of a function, or the error that it raised."""

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


class Visit:
    """A plain function in a thread. What user code returns there, and is awaitable, the event loop awaits meanwhile.

    So whatever is around that code in the thread, such as middleware, is around all of it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Set by the thread, and read by the loop's `leave`. `_is_left` the other way round. Each side sets its own and
        # then looks at the other's, so that one of the two cancels, and no lock is needed.
        self._awaited: Future[Any] | None = None
        self._is_left = False

    def run(self, work: Callable[[Visit], T]) -> T:
        """Do the work in this thread, unless its caller has already stopped waiting for it."""
        if self._is_left:
            raise asyncio.CancelledError("left before it began")
        return work(self)

    def finish(self, value: Any, what: str) -> Any:
        """`returned.finish` for the thread, which waits for it."""
        if not is_awaitable(value):
            return check(value, what)
        self._awaited = asyncio.run_coroutine_threadsafe(finish(value, what), self._loop)
        if self._is_left:
            self._awaited.cancel()
        return self._awaited.result()

    def leave(self) -> None:
        """Cancel the awaitables of the thread, whose result nobody waits for any more; the thread cannot be stopped."""
        self._is_left = True
        if self._awaited:
            self._awaited.cancel()


def is_loop_running() -> bool:
    """Whether this thread runs an event loop, which nothing may block."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
