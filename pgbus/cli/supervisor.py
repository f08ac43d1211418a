"""Several workers on one host: copies of a command, kept running until they are told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress

from pgbus.cli.exits import FAILED, SCHEMA, USAGE

SUPERVISED = "PGBUS_SUPERVISED"

_HOPELESS = frozenset({FAILED, USAGE, SCHEMA})  # the copy said in one line what a person has to change
_FIRST_DELAY = 1.0
_MAX_DELAY = 30.0
_STEADY = 60.0  # a copy that ran for so many seconds died of something new

_log = logging.getLogger("pgbus.supervisor")


def supervise(command: Sequence[str], *, processes: int) -> int:
    """Run copies of `command` until all have ended; returns the exit code.

    SIGTERM and SIGINT are passed on to every copy as SIGTERM, each time. A copy that died is started again, after a
    delay that doubles from 1 s to 30 s while it keeps dying; one that failed for a reason that only a person can
    remove stops all.
    """
    return asyncio.run(_Supervisor(command).run(processes))


async def start_copy(command: Sequence[str]) -> Process:
    """Start `command` with PGBUS_SUPERVISED in its environment and a pipe as stdin that ends when we do."""
    # A session of its own: the terminal's Ctrl-C reaches only us, so that it counts once.
    return await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, start_new_session=True, env={**os.environ, SUPERVISED: "1"}
    )


class _Supervisor:
    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._children: set[Process] = set()
        self._stopping = asyncio.Event()
        self._code = 0

    async def run(self, processes: int) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(processes):
                tasks.create_task(self._keep_one())
        return self._code

    def _stop(self) -> None:
        self._stopping.set()
        for child in self._children:
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)

    async def _keep_one(self) -> None:
        delay = _FIRST_DELAY
        while not self._stopping.is_set():
            started_at = asyncio.get_running_loop().time()
            code = await self._run_one()
            if code == 0 or self._stopping.is_set():
                self._note(code)
                return
            if code in _HOPELESS:
                self._note(code)
                self._stop()
                return
            if asyncio.get_running_loop().time() - started_at > _STEADY:
                delay = _FIRST_DELAY
            _log.warning("a worker ended with exit code %s; starting another in %.0f s", code, delay)
            await self._pause(delay)
            delay = min(2 * delay, _MAX_DELAY)

    async def _run_one(self) -> int:
        child = await start_copy(self._command)
        self._children.add(child)
        try:
            if self._stopping.is_set():
                child.terminate()
            return await child.wait()
        finally:
            self._children.discard(child)

    def _note(self, code: int) -> None:
        # A copy that a signal ended, before it could heed it, did what it was told.
        self._code = self._code or max(0, code)

    async def _pause(self, delay: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay)
