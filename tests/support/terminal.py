"""A program on a terminal: what it shows is kept as a screen, so that a test reads what a person would."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import struct
import sys
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pyte

from tests.support.programs import program_environ
from tests.support.waiting import PATIENCE

# Makes the terminal the one that Ctrl-C comes from, and becomes the program.
_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Screen(pyte.Screen):
    """A screen that answers the program's questions, as where the cursor is."""

    def __init__(self, columns: int, lines: int, *, terminal: int) -> None:
        super().__init__(columns, lines)
        self._terminal = terminal

    def write_process_input(self, data: str) -> None:
        os.write(self._terminal, data.encode())


class Terminal:
    """The program's side is `child`; ours is to type, and to wait for what is shown."""

    def __init__(self, child: Process, fd: int, *, columns: int, lines: int) -> None:
        self.child = child
        self._fd = fd
        self._screen = Screen(columns, lines, terminal=fd)
        self._stream = pyte.ByteStream(self._screen)
        self._changed = asyncio.Event()
        self._ended = False
        self.closed = False

    @property
    def text(self) -> str:
        """The screen without its empty lines."""
        return "\n".join(line.rstrip() for line in self._screen.display if line.strip())

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._fd, text.encode())

    def hang_up(self) -> None:
        """Close the terminal: its program gets SIGHUP, and can write no more."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self.closed = True

    async def shows(self, pattern: str) -> str:
        """Wait until the pattern is on the screen, which is returned."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not re.search(pattern, self.text, re.MULTILINE):
                    assert not self._ended, f"ended without {pattern!r}:\n{self.text}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"does not show {pattern!r}, but:\n{self.text}") from None
        return self.text

    async def ends(self) -> int:
        """Wait for its end; the exit code."""
        return await asyncio.wait_for(self.child.wait(), PATIENCE)

    def read(self) -> None:
        """Take in what the program wrote."""
        try:
            self._stream.feed(os.read(self._fd, 65_536))
        except OSError:  # the program is gone
            self._ended = True
            asyncio.get_running_loop().remove_reader(self._fd)
        self._changed.set()


@asynccontextmanager
async def terminal(
    *command: str, cwd: Path, environ: Mapping[str, str] | None = None, columns: int = 100, lines: int = 60
) -> AsyncIterator[Terminal]:
    """Run a program on a terminal of this size; it is killed at the end if it still runs."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _TAKE_TERMINAL,
        *command,
        cwd=cwd,
        env=program_environ({"TERM": "xterm-256color", **(environ or {})}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    made = Terminal(child, ours, columns=columns, lines=lines)
    asyncio.get_running_loop().add_reader(ours, made.read)
    try:
        yield made
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        if not made.closed:
            made.hang_up()
