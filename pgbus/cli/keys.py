"""Keys that a person presses while a screen is shown."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import termios
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Keys that terminals send as several characters.
_NAMES = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down",
    "\r": "enter", "\n": "enter", "\x1b": "escape", "\x7f": "escape", "\x1b[D": "escape", "\x1b[C": "enter",
}  # fmt: skip


# What arrives at once may be several keys: of a person who types fast, or of a paste.
_KEY = re.compile(r"\x1b[\[O][A-Z]|.", re.DOTALL)


def names_of(pressed: str) -> list[str]:
    """The names of the keys that were pressed; see `name_of`."""
    return [name_of(sequence) for sequence in _KEY.findall(pressed)]


def name_of(sequence: str) -> str:
    """The name of a key: `up`, `down`, `enter`, `escape` (also for backspace and left), or its character."""
    return _NAMES.get(sequence, sequence)


@asynccontextmanager
async def pressed_keys() -> AsyncIterator[asyncio.Queue[str]]:
    """The keys that are pressed on the terminal at stdin, which echoes nothing meanwhile; Ctrl-C interrupts as ever."""
    keys: asyncio.Queue[str] = asyncio.Queue()
    if not sys.stdin.isatty():
        yield keys
        return
    terminal, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(terminal)

    def read() -> None:
        if pressed := os.read(terminal, 64):
            for name in names_of(pressed.decode(errors="replace")):
                keys.put_nowait(name)
        else:  # the terminal is closed
            loop.remove_reader(terminal)

    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    try:
        yield keys
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
