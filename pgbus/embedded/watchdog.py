"""A shell that outlives us by a moment: it stops the server and removes temporary files when this process is gone.

It waits at the far end of a pipe that only we hold, so it notices every kind of death, SIGKILL included, on Linux and
macOS alike. (Linux's parent-death signal would be simpler, but fires when the *thread* that forked ends.)
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# Each line names the server's pid, 0 for none; the end of the input means that the owner is gone. A fast shutdown
# removes postmaster.pid last; a temporary directory is removed even if a minute was not enough for it.
_SCRIPT = """
last=0
while read -r pid; do last=$pid; done
if [ "$last" != 0 ] && kill -INT "$last"; then
    rounds=0
    while [ -e "$1/postmaster.pid" ] && [ "$rounds" -lt 600 ]; do sleep 0.1; rounds=$((rounds + 1)); done
fi
rm -rf -- "$2"
"""

_pipes: set[int] = set()


class Watchdog:
    """Guards one server at a time: `watch` says which, and everything under `scratch` goes when its owner does."""

    def __init__(self, *, datadir: Path, scratch: Path) -> None:
        read_end, self._write_end = os.pipe()
        _pipes.add(self._write_end)
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "pgbus-watchdog", str(datadir), str(scratch)],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # a Ctrl-C in our terminal is ours to handle
            )
        finally:
            os.close(read_end)

    def watch(self, pid: int | None) -> None:
        """Name the server to stop when we are gone; None: stop no server."""
        os.write(self._write_end, f"{pid or 0}\n".encode())

    def close(self) -> None:
        """Let the watchdog remove the scratch directory and end, and wait for that; the server must be gone."""
        self.watch(None)
        _pipes.discard(self._write_end)
        os.close(self._write_end)
        self._process.wait()


def _close_pipes_of_parent() -> None:
    """A forked child must not hold its parent's pipes, or the parent's death would go unnoticed."""
    for descriptor in _pipes:
        os.close(descriptor)
    _pipes.clear()


os.register_at_fork(after_in_child=_close_pipes_of_parent)
