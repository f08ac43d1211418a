"""The standard streams of the program: there from the start, and written to the end or said to be lost."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

_MODES = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)


def open_streams() -> None:
    """Open what the caller closed, and have characters that an encoding lacks escaped instead of refused.

    A descriptor that is closed would be given to the next connection, and what is printed would go to the server.
    """
    for descriptor, mode in enumerate(_MODES):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free, which is this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115 - for the whole program
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_streams() -> OSError | None:
    """Write what is still buffered; returns the error if stdout cannot be written.

    What cannot be written is dropped: Python would try once more at its end, and complain.
    """
    lost = _flush(1)
    _flush(2)
    return lost


def say(line: str) -> None:
    """A line on stderr, if anybody can read it: a terminal may be gone, a disk full."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def explain_loss(error: OSError) -> str:
    """What to say where stdout cannot be written; nothing of a pipe's reader that has seen enough."""
    return "" if isinstance(error, BrokenPipeError) else f"cannot write to stdout: {reason_of(error)}"


def reason_of(error: BaseException) -> str:
    """The error in words, without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _flush(descriptor: int) -> OSError | None:
    stream = sys.stdout if descriptor == 1 else sys.stderr
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        return error
    return None
