"""The faults of a chaos run, grouped by what fails.

To add one, write an async generator with `@fault` in the module that fits: what comes before its `yield` breaks
something, what comes after mends it. A run imports every module of this package.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from tests.chaos.world import World

Script = Callable[[World], AsyncIterator[None]]
Since = Literal["injected", "healed"]

DOWN = 5.0
"""Seconds after which the bus must go on once its server is back."""
DIED = 2.0
"""The same after the death of a process, and where nothing that the bus needs is away."""
VANISHED = 20.0
"""The same after a host has vanished without closing its connections."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break something: `goal` is in seconds, from where it is broken or, if `since` says so, mended."""

    name: str
    kind: str
    goal: float
    since: Since
    inject: Callable[[World], AbstractAsyncContextManager[None]]
    """Breaks something, and mends it where the context ends."""
    lacks: Callable[[], str | None]
    """Why it cannot be injected on this machine, or None."""


_faults: list[Fault] = []


def fault(
    name: str, *, goal: float, since: Since = "injected", lacks: Callable[[], str | None] = lambda: None
) -> Callable[[Script], Script]:
    """Declare a fault."""

    def declare(script: Script) -> Script:
        kind = script.__module__.rpartition(".")[2]
        _faults.append(Fault(name, kind, goal, since, asynccontextmanager(script), lacks))
        return script

    return declare


def all_faults() -> list[Fault]:
    """Every fault of every module, in the order of modules and lines."""
    for module in sorted(one.name for one in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")
    return list(_faults)
