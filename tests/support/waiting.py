"""Waiting for something that gives no signal."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar, overload

T = TypeVar("T")

PATIENCE = 50.0
"""Seconds: only a test that fails waits as long, and a busy machine is slow. What waits for a lease, of 60, fails."""
_INTERVAL = 0.01


def widening(seconds: float) -> Iterator[float]:
    """That time, and then twice as much each time, until more than `PATIENCE`.

    For what must begin before a limit of the test's own is over, and is tried again with more of it where a busy
    machine did not get there. Whoever takes the last of them without having got there has failed.
    """
    while seconds < PATIENCE:
        yield seconds
        seconds *= 2
    raise AssertionError(f"this did not begin within {PATIENCE} s")


@overload
async def eventually(
    predicate: Callable[[], Awaitable[T]], timeout: float = PATIENCE, *, message: str | None = None
) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], timeout: float = PATIENCE, *, message: str | None = None) -> T: ...
async def eventually(
    predicate: Callable[[], object], timeout: float = PATIENCE, *, message: str | None = None
) -> object:
    """Ask `predicate` (a plain or async function) until its answer is true, and return that answer.

    Fails the test after `timeout` seconds with `message`, or else with the predicate's name, and its last answer.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        answer = predicate()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if loop.time() >= deadline:
            what = message or f"{getattr(predicate, '__qualname__', predicate)} did not come true"
            raise AssertionError(f"{what} within {timeout} s; its last answer was {value!r}")
        await asyncio.sleep(_INTERVAL)
