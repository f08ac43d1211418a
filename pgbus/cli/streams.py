"""The program's standard streams: opened at the start if they are closed, and flushed at the end."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

_MODES = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)


def open_streams() -> None:
    """Open streams that the caller closed, and escape characters that the encoding of a stream lacks.

    The next connection would get a closed descriptor's number, and output would be sent to the server.
    """
    for descriptor, mode in enumerate(_MODES):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free number, which is this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115 - for the whole program
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_streams() -> OSError | None:
    """Flush the buffers; returns the error if stdout cannot be written.

    Output that cannot be written is dropped: Python would try again when it exits, and print an error.
    """
    lost = _flush(1)
    _flush(2)
    return lost


def say(line: str) -> None:
    """Print a line on stderr; ignores errors, because the terminal may be closed or the disk full."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def explain_loss(error: OSError) -> str:
    """Return the message if stdout cannot be written; empty if the reader has closed the pipe."""
    return "" if isinstance(error, BrokenPipeError) else f"cannot write to stdout: {reason_of(error)}"


def reason_of(error: BaseException) -> str:
    """Return the error's text, without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _flush(descriptor: int) -> OSError | None:
    stream = sys.stdout if descriptor == 1 else sys.stderr
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        return error
    return None
