"""Who holds a data directory: a lock that the server's processes inherit, and PostgreSQL's own postmaster.pid."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

from pgbus.errors import EmbeddedPostgresError

_READY_LINE = 8  # of postmaster.pid, counted from 1
_POLL = 0.02


def lock_datadir(datadir: Path, *, deadline: float) -> int:
    """Lock the directory and return the descriptor that holds the lock.

    The server inherits the descriptor, and so does every process that it forks: the lock is free when the last of
    them is gone, also after a SIGKILL of the postmaster. Waits until `deadline` (monotonic seconds) for such
    stragglers; raises EmbeddedPostgresError at once if a postmaster is alive, and when the time is up.
    """
    descriptor = os.open(datadir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while not _try_lock(descriptor):
            pid = postmaster_pid(datadir)
            if pid is not None and _is_postgres(pid):
                raise EmbeddedPostgresError(
                    f"{datadir} is in use by a running PostgreSQL, pid {pid}: stop that one, connect to it, or choose "
                    "another data directory"
                )
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"{datadir} is still held by processes of a PostgreSQL that died: end them, then start again"
                )
            time.sleep(_POLL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def remove_stale_pidfile(datadir: Path) -> None:
    """Remove a postmaster.pid whose process is not a PostgreSQL; call it with the lock held.

    PostgreSQL itself refuses to start whenever some process has that pid, and in a container, where pids are few, it
    is often somebody else's.
    """
    pid = postmaster_pid(datadir)
    if pid is not None and not _is_postgres(pid):
        (datadir / "postmaster.pid").unlink(missing_ok=True)


def postmaster_pid(datadir: Path) -> int | None:
    """The process that postmaster.pid names, alive or not; None without such a file."""
    first = _pidfile_line(datadir, 1)
    return int(first) if first and first.isdigit() else None


def postmaster_ready(datadir: Path) -> bool:
    """Whether the postmaster says in postmaster.pid that it accepts connections."""
    return _pidfile_line(datadir, _READY_LINE) == "ready"


def _pidfile_line(datadir: Path, number: int) -> str | None:
    try:
        lines = (datadir / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    return lines[number - 1].strip() if len(lines) >= number else None


def _is_postgres(pid: int) -> bool:
    """Whether a live process with this pid is PostgreSQL's; a zombie is not alive, and has no command line."""
    return "postgres" in (_command_line_linux(pid) if sys.platform == "linux" else _command_line_macos(pid))


def _command_line_linux(pid: int) -> str:
    # Not `ps`, which slim images lack.
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _command_line_macos(pid: int) -> str:
    command = ["ps", "-p", str(pid), "-o", "command="]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
