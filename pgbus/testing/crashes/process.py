"""The process that is killed: a fork of the test's own, in which a real worker runs one listener.

It tells the test of what happens in it over a socket, and goes on when the test has answered; so the test knows the
order of all that happens, and can kill it in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import traceback
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pgbus.aio.returned import finish, is_awaitable
from pgbus.bus import Bus
from pgbus.errors import PgbusError
from pgbus.testing.buses import point_at
from pgbus.testing.committed import deliver_committed
from pgbus.testing.crashes.killer import Killer
from pgbus.testing.crashes.wire import ProcessKilled

# Seconds that an undisturbed process gives the tasks that a handler has left behind: what they do is compared, too.
LEFT_TASKS_TIME = 2.0

_told_to: Line | None = None


class HandlerProcessFailed(PgbusError):
    """The process of a crash test ended with an error of its own, without having been killed."""


class Line:
    """The process's end of the socket; it blocks, because the sender must wait until its message is read."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = threading.Lock()

    def tell(self, kind: str, text: str = "") -> None:
        """Tell the test something, and wait for its answer."""
        with self._lock:
            self._end.sendall(json.dumps([kind, text]).encode() + b"\n")
            self._end.recv(1)


class Effect:
    """Stands for something that a handler does outside of the database: mail, a call over HTTP, a file.

    Called, in the process of a crash test, it is noted and is a point to be killed at; elsewhere it does nothing. It
    returns None, and may be awaited.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> _Nothing:
        """Do it, that is: have it noted with these arguments."""
        if _told_to is not None:
            given = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
            _told_to.tell("effect begins", f"{self.name}({given})")
            _told_to.tell("effect ends", f"{self.name}({given})")
        return _Nothing()


class _Nothing:
    """None, for code that awaits it."""

    def __await__(self) -> Any:
        return iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The listener under test: the same in each run.

    - `bus`: the one of the application's `buses` that has the listener.
    - `configure`: is called in each process with the DSN of its database; may be async.
    - `timeout`: seconds that one process gets.
    """

    buses: Sequence[Bus]
    bus: Bus
    listener_name: str
    configure: Callable[[str], object] | None
    timeout: float


async def run_in_fork(subject: Subject, *, dsn: str, killer: Killer) -> None:
    """Run the listener in a fork until its events are settled, or `killer` kills it.

    Raises TimeoutError when the process takes longer than it may, and HandlerProcessFailed.
    """
    ours, theirs = socket.socketpair()
    with warnings.catch_warnings():
        # Of threads at a fork: the child uses nothing of theirs, and ends without running anything of the parent's.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        ours.close()
        _be_the_process(subject, Line(theirs), dsn)
    theirs.close()
    killer.pid = pid
    try:
        async with asyncio.timeout(subject.timeout):
            await _listen(ours, killer)
    finally:
        ours.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it has ended, or was killed just now


async def _listen(end: socket.socket, killer: Killer) -> None:
    """Answer the process until it ends or is killed."""
    end.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=end)
    notes = {
        "handler begins": lambda _: killer.handler_begins(),
        "handler ends": lambda _: killer.handler_ends(),
        "effect begins": killer.effect_begins,
        "effect ends": killer.effect_ends,
    }
    is_over = False
    try:
        with contextlib.suppress(ProcessKilled, ConnectionError):
            while line := await reader.readline():
                kind, text = json.loads(line)
                if kind == "failed":
                    raise HandlerProcessFailed(f"the process of a crash test failed:\n{text}")
                is_over = kind == "over"
                if kind in notes:
                    notes[kind](text)
                writer.write(b"\n")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if not is_over and not killer.killed_at:
        raise HandlerProcessFailed("the process of a crash test died by itself: did the handler end it?")


# ------------------------------------------------------------------------------------------------------ in the process


def _be_the_process(subject: Subject, line: Line, dsn: str) -> NoReturn:
    global _told_to
    _told_to = line
    try:
        asyncio.run(_deliver(subject, line, dsn))
        line.tell("over")
    except BaseException:
        with contextlib.suppress(OSError):
            line.tell("failed", traceback.format_exc())
    finally:
        os._exit(0)  # nothing of the test's own is flushed, closed or removed here


async def _deliver(subject: Subject, line: Line, dsn: str) -> None:
    os.environ["PGBUS_DSN"] = dsn
    for bus in subject.buses:
        point_at(bus, dsn)
    if subject.configure:
        result = subject.configure(dsn)
        if is_awaitable(result):
            await finish(result, "configure")

    async def tell(_: object, call_next: Callable[[], Awaitable[Any]]) -> Any:
        line.tell("handler begins")
        try:
            return await call_next()
        finally:
            line.tell("handler ends")

    subject.bus.registry.middleware.add(tell)
    await deliver_committed([subject.bus], only=[subject.listener_name], raise_errors=False, timeout=subject.timeout)
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left, timeout=LEFT_TASKS_TIME)
