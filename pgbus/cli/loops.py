"""Chooses the event loop of a worker: uvloop's if it is installed, else asyncio's."""

from __future__ import annotations

import asyncio
import gc
from typing import Literal

from pgbus.cli.group import fail

Loop = Literal["auto", "asyncio", "uvloop"]


def open_runner(loop: Loop) -> asyncio.Runner:
    """Return a runner of coroutines in a loop of that kind; `auto` is uvloop if it is installed.

    Ends the program with code 1 if `uvloop` is given and is not installed.
    """
    # What is imported by now stays. Otherwise the garbage collector goes through all of it again and again while claims
    # bring events.
    gc.freeze()
    if loop == "asyncio":
        return asyncio.Runner()
    try:
        import uvloop
    except ModuleNotFoundError:
        if loop == "uvloop":
            fail("--loop uvloop needs uvloop: pip install 'pgbus[uvloop]'")
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)
