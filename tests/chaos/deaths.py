"""The engine's own crash points: a process of everything is killed before or after a statement, and another mends it.

The process is a fork that runs a worker, publishers and callers over one tapped connection string; so each of its
statements is known before the server gets it, and before the process knows of its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from pgbus.bus import make_worker
from pgbus.testing.crashes.killer import engine_statements
from pgbus.testing.crashes.wire import ProcessKilled, Session, tapped
from tests.chaos import load, workload

When = Literal["before", "after"]
COMMIT = "commit"
RATE = 60.0
"""Transactions per second of a process, about: it should meet all of its statements soon."""


@dataclass(frozen=True, slots=True)
class Death:
    """Where a process dies: at the nth time that it comes to a statement."""

    statement: str
    when: When
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.when} {self.statement} ({self.nth})"


class Reaper:
    """Counts the statements of one process, and kills it at one of them, if there is one."""

    def __init__(self, death: Death | None = None) -> None:
        self.seen: Counter[str] = Counter()
        self.pid: int | None = None
        self.died = asyncio.Event()
        self._death = death
        self._passed = 0
        self._names = engine_statements("pgbus")

    def before(self, session: Session, statement: str) -> None:
        if name := self._name(statement):
            self.seen[name] += 1
            self._pass(name, "before")

    def after(self, session: Session, statement: str) -> None:
        if name := self._name(statement):
            self._pass(name, "after")

    def _name(self, statement: str) -> str | None:
        words = " ".join(statement.split())
        return COMMIT if words.rstrip(";").upper() == "COMMIT" else self._names.get(words)

    def _pass(self, name: str, when: When) -> None:
        if self.died.is_set():
            raise ProcessKilled  # what it had sent before it died, and the server has not got
        if self._death and (name, when) == (self._death.statement, self._death.when):
            self._passed += 1
            if self._passed == self._death.nth and self.pid:
                os.kill(self.pid, signal.SIGKILL)
                self.died.set()
                raise ProcessKilled


@asynccontextmanager
async def living(dsn: str, *, number: int | None, directory: Path, reaper: Reaper | None = None) -> AsyncIterator[None]:
    """A process that works; the number is that of its publishers and callers, None: it has none."""
    watch = reaper or Reaper()
    async with tapped(dsn, watch) as through:
        with warnings.catch_warnings():
            # Of threads at a fork: the child uses nothing of theirs, and ends without running anything of ours.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _live(dsn, through, number, directory)
        watch.pid = pid
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _live(dsn: str, through: str, number: int | None, directory: Path) -> NoReturn:
    """The process itself: what its handlers write goes past the tap."""
    try:
        os.environ.update(
            PGBUS_DSN=through, CHAOS_DSN=dsn, LOAD_DSN=through, LOAD_POOLED_DSN=through, PGBUS_POLL_INTERVAL="1"
        )
        importlib.reload(workload)
        importlib.reload(load)
        asyncio.run(_work(number, directory))
    except BaseException:
        with (directory / "deaths.log").open("a") as log:
            traceback.print_exc(file=log)
    finally:
        os._exit(0)  # nothing of the test's own is flushed, closed or removed here


async def _work(number: int | None, directory: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(make_worker(workload.bus).run())
        if number is not None:
            calls = (directory / f"dying-{number}.jsonl").open("w")
            tasks.create_task(load.Load(number, rate=RATE, calls=calls).run())
