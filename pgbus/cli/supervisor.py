"""Runs several copies of a command on one host, and restarts them until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress

from pgbus.cli.exits import FAILED, SCHEMA, UNREACHABLE, USAGE
from pgbus.cli.signals import heed_signals

_NUMBER = "PGBUS_SUPERVISED"

_HOPELESS = frozenset({FAILED, USAGE, SCHEMA})  # a restart cannot help: the copy has printed the reason
_FIRST_DELAY = 1.0
_MAX_DELAY = 30.0
_STEADY = 60.0  # seconds after which a copy's death has a new cause

_log = logging.getLogger("pgbus.supervisor")


def supervise(command: Sequence[str], *, processes: int) -> int:
    """Run copies of `command` until all have ended; returns the exit code.

    SIGTERM and SIGINT are passed on to every copy as SIGTERM, each time, and SIGHUP once. A copy that died is restarted
    after a delay that doubles from 1 s to 30 s while it keeps dying. A copy that failed for a reason that a restart
    cannot remove stops all copies, and so does one that never reached the database.
    """
    return asyncio.run(_Supervisor(command).run(processes))


async def start_copy(command: Sequence[str], *, number: int = 1) -> Process:
    """Start `command` with its number in its environment and a pipe as stdin that ends when we do."""
    # In its own session: the terminal's Ctrl-C reaches only this process, so that it counts once.
    return await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, start_new_session=True, env={**os.environ, _NUMBER: str(number)}
    )


def ask_to_end(child: Process) -> None:
    """Send it SIGTERM, if it has not ended."""
    # Not by its own method: before Python 3.13 that polls, and may so take the exit code from the loop that waits for
    # it, which then reports 255.
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)


def copy_number() -> int:
    """Return the number of this copy, from 1 on; 0 if there is no supervisor."""
    return int(os.environ.get(_NUMBER, 0))


def watch_supervisor(stop: Callable[[], None]) -> None:
    """Call `stop` when the supervisor, if there is one, has ended: it holds the other end of our stdin open."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(0)
        stop()

    if copy_number():
        loop.add_reader(0, ended)


class _Supervisor:
    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._children: set[Process] = set()
        self._stopping = asyncio.Event()
        self._code = 0

    async def run(self, processes: int) -> int:
        heed_signals(self._stop)
        watch_supervisor(self._stop)
        async with asyncio.TaskGroup() as tasks:
            for number in range(1, processes + 1):
                tasks.create_task(self._keep_one(number))
        return self._code

    def _stop(self) -> None:
        self._stopping.set()
        for child in self._children:
            ask_to_end(child)

    async def _keep_one(self, number: int) -> None:
        delay = _FIRST_DELAY
        hopeless = _HOPELESS | {UNREACHABLE}
        while not self._stopping.is_set():
            started_at = asyncio.get_running_loop().time()
            code = await self._run_one(number)
            if code == 0 or self._stopping.is_set():
                self._note(code)
                return
            if code in hopeless:
                self._note(code)
                self._stop()
                return
            if asyncio.get_running_loop().time() - started_at > _STEADY:
                delay = _FIRST_DELAY
            _log.warning("a worker %s; starting another in %.0f s", _describe_end(code), delay)
            await self._pause(delay)
            delay = min(2 * delay, _MAX_DELAY)
            hopeless = _HOPELESS  # it has worked before: the database may come back

    async def _run_one(self, number: int) -> int:
        child = await start_copy(self._command, number=number)
        self._children.add(child)
        try:
            if self._stopping.is_set():
                ask_to_end(child)
            return await child.wait()
        finally:
            self._children.discard(child)

    def _note(self, code: int) -> None:
        # A copy that a signal ended before it could handle the signal counts as stopped.
        self._code = self._code or max(0, code)

    async def _pause(self, delay: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay)


def _describe_end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
