"""Waiting for something that gives no signal."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

PROCESS_PATIENCE = 60.0
"""Seconds to wait for what a new process does: only a test that fails waits as long, and a busy machine is slow."""
PATIENCE = 40.0
"""Seconds to wait within this process: less than a test may take, so that the failure says what is missing."""
_INTERVAL = 0.01


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
