"""The server's life: initialise, start, wait until it answers, stop, crash on purpose, start again."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from pgbus.embedded.binaries import Binaries, find_binaries
from pgbus.embedded.datadir import lock_datadir, postmaster_pid, postmaster_ready, remove_stale_pidfile
from pgbus.embedded.privileges import Privileges, find_privileges
from pgbus.embedded.watchdog import Watchdog
from pgbus.errors import EmbeddedPostgresError

StopMode = Literal["fast", "immediate"]
_SIGNALS: Mapping[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

SUPERUSER = "postgres"
_SOCKET_PORT = 5432  # only names the socket: its directory is ours alone
_SOCKET_PATH_LIMIT = 100  # bytes; the kernel's own limit is 107 on Linux, 103 on macOS
_POLL = 0.01


class EmbeddedPostgres:
    """One PostgreSQL server that this process owns. A context manager; may be stopped and started at will.

    `datadir` keeps its data from one run to the next; without it the data lives in a temporary directory until
    `close`. `settings` are PostgreSQL's own, such as `{"fsync": "off"}`. The server listens on a unix socket in a
    private directory; with `listen` also on 127.0.0.1 at `port` (default: a free one), where a password, which `dsn`
    includes, is asked for. However this process ends, the server makes a fast shutdown right after it.
    """

    def __init__(
        self,
        datadir: Path | str | None = None,
        *,
        bindir: Path | str | None = None,
        settings: Mapping[str, str | int] | None = None,
        port: int | None = None,
        listen: bool = False,
    ) -> None:
        self._given_datadir = None if datadir is None else Path(datadir).expanduser().absolute()
        self._bindir = bindir
        self._settings = dict(settings or {})
        self._listen = listen
        self._port = port
        self._owner = os.getpid()
        self._scratch: Path | None = None
        self._watchdog: Watchdog | None = None
        self._privileges = Privileges()
        self._binaries: Binaries | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the server (its postmaster), None while it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    @property
    def datadir(self) -> Path:
        """The data directory. Raises EmbeddedPostgresError if it is temporary and not there (yet)."""
        return self._given_datadir or self._opened / "data"

    @property
    def log_path(self) -> Path:
        """The server's log, inside the data directory, appended to by every run."""
        return self.datadir / "server.log"

    def dsn(self, database: str = "postgres") -> str:
        """URL of a database on this server, for the superuser; stays the same over restarts until `close`.

        Raises EmbeddedPostgresError before the first `start` and after `close`.
        """
        name = quote(database, safe="")
        if self._listen:
            return f"postgresql://{SUPERUSER}{self._password()}@127.0.0.1:{self._port}/{name}"
        return f"postgresql://{SUPERUSER}@/{name}?host={quote(str(self._opened), safe='')}&port={_SOCKET_PORT}"

    def start(self, *, timeout: float = 60.0) -> Self:
        """Start the server, if it does not run, and return when it accepts connections.

        A new data directory is initialised first (about half a second). After a crash this waits until the last
        process of the old server is gone. `timeout` in seconds covers it all, crash recovery included. Raises
        EmbeddedPostgresError if the programs are not found, the directory is in use, or the server does not come up.
        """
        if self.pid is not None:
            return self
        first = self._scratch is None
        try:
            self._start(deadline=time.monotonic() + timeout)
        except BaseException:
            self.stop("immediate", timeout=5.0)
            if first:
                self.close()
            raise
        return self

    def stop(self, mode: StopMode = "fast", *, timeout: float = 60.0) -> None:
        """Stop the server and wait until all its processes are gone; nothing happens if it does not run.

        "fast" disconnects clients and writes a checkpoint; "immediate" writes nothing, so that the next start goes
        through recovery. A server that has not stopped after `timeout` seconds is stopped harder, up to SIGKILL.
        """
        if self.pid is None or not self._is_owner():
            return
        for number in (_SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL):
            if self._stopped_by(number, timeout=timeout):
                return

    def kill(self) -> None:
        """Crash the server: SIGKILL for its postmaster, as the kernel would when memory runs out.

        Its other processes notice within moments; the next `start` waits for them.
        """
        if self.pid is not None and self._is_owner():
            self._stopped_by(signal.SIGKILL, timeout=None)

    def restart(self, mode: StopMode = "fast", *, timeout: float = 60.0) -> Self:
        """Stop and start; `timeout` in seconds holds for each of the two."""
        self.stop(mode, timeout=timeout)
        return self.start(timeout=timeout)

    def close(self) -> None:
        """Stop the server, then remove its socket and, if the data directory was a temporary one, its data."""
        self.stop()
        if self._watchdog is not None and self._is_owner():
            self._watchdog.close()
            self._watchdog = self._scratch = self._binaries = None

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` if one is named, and return its DSN.

        Raises EmbeddedPostgresError with the server's reason if it refuses.
        """
        options = ["--host", str(self._opened), "--port", str(self._socket_port), "--username", SUPERUSER]
        if template is not None:
            options += ["--template", template]
        # No privileges are dropped: to the socket in our private directory we are the ones who connect.
        self._run("createdb", *options, "--", name, purpose=f"database {name!r} was not created")
        return self.dsn(name)

    @property
    def _opened(self) -> Path:
        if self._scratch is None:
            raise EmbeddedPostgresError("this server has no address or temporary data yet: call `start` first")
        return self._scratch

    @property
    def _guard(self) -> Watchdog:
        assert self._watchdog is not None
        return self._watchdog

    @property
    def _socket_port(self) -> int:
        return self._port or _SOCKET_PORT

    def _is_owner(self) -> bool:
        """A forked child inherits this object, but neither the server nor the right to stop it."""
        return os.getpid() == self._owner

    def _start(self, *, deadline: float) -> None:
        self._open()
        self.datadir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = lock_datadir(self.datadir, deadline=deadline)
        try:
            self._initialise(lock)
            remove_stale_pidfile(self.datadir)
            self._launch(lock)
        finally:
            os.close(lock)
        self._wait_until_ready(deadline=deadline)

    def _open(self) -> None:
        """Find out how to run which programs, and make the private directory; done once until `close`."""
        if self._scratch is not None:
            return
        found = find_binaries(self._bindir)
        self._privileges = find_privileges()
        self._scratch = _scratch_directory()
        self._watchdog = Watchdog(datadir=self.datadir, scratch=self._scratch)
        self._privileges.give(self._scratch)
        self._binaries = self._privileges.runnable(found, copies=self._scratch / "programs")
        if self._listen and self._port is None:
            self._port = _free_port()

    def _initialise(self, lock: int) -> None:
        """Run initdb on a directory that holds no cluster. The lock is passed on: should we die, initdb keeps it."""
        if (self.datadir / "PG_VERSION").exists():
            return
        self._privileges.give(self.datadir)
        password = self._opened / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(18))
        self._privileges.give(password)
        options = ["--username", SUPERUSER, "--encoding", "UTF8", "--no-locale", "--pwfile", str(password)]
        options += ["--auth-local", "trust", "--auth-host", "scram-sha-256"]
        if self._given_datadir is None or self._settings.get("fsync") == "off":
            options.append("--no-sync")
        self._run(
            "initdb",
            *options,
            "--pgdata",
            str(self.datadir),
            purpose=f"{self.datadir} was not initialised",
            privileges=self._privileges,
            keep=(lock,),
        )
        shutil.move(password, self.datadir / "pgbus.password")

    def _launch(self, lock: int) -> None:
        """Start the postmaster. It and all its children keep the lock for as long as any of them lives."""
        command = [*self._privileges.prefix, self._program("postgres"), "-D", str(self.datadir)]
        for name, value in self._all_settings().items():
            command += ["-c", f"{name}={value}"]
        with self.log_path.open("ab") as log:
            self._log_offset = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self._environment(),
                pass_fds=(lock,),
                start_new_session=True,  # a Ctrl-C in our terminal is ours to handle
            )
        self._guard.watch(self._process.pid)

    def _all_settings(self) -> dict[str, str | int]:
        quoted = str(self._opened).replace('"', '""')
        return {
            "listen_addresses": "127.0.0.1" if self._listen else "",
            "port": self._socket_port,
            "unix_socket_directories": f'"{quoted}"',
            **self._settings,
        }

    def _wait_until_ready(self, *, deadline: float) -> None:
        while not (postmaster_ready(self.datadir) and postmaster_pid(self.datadir) == self.pid):
            if self.pid is None:
                raise EmbeddedPostgresError(f"PostgreSQL did not start. Its log says:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    "PostgreSQL was not ready in time: give `start` a longer timeout if it is recovering. "
                    f"Its log says:\n{self._log_tail()}"
                )
            time.sleep(_POLL)

    def _stopped_by(self, number: signal.Signals, *, timeout: float | None) -> bool:
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._guard.watch(None)
        return True

    def _run(
        self,
        program: str,
        *arguments: str,
        purpose: str,
        privileges: Privileges | None = None,
        keep: tuple[int, ...] = (),
    ) -> None:
        prefix = privileges.prefix if privileges else ()
        answer = subprocess.run(
            [*prefix, self._program(program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            env=self._environment(),
            pass_fds=keep,
            start_new_session=True,
            check=False,
        )
        if answer.returncode != 0:
            raise EmbeddedPostgresError(f"{purpose}: {answer.stderr.strip() or answer.stdout.strip()}")

    def _program(self, name: str) -> str:
        assert self._binaries is not None
        return self._binaries.program(name)

    def _environment(self) -> dict[str, str]:
        """Ours, without the variables by which PostgreSQL's programs would address another server."""
        assert self._binaries is not None
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {**inherited, "LC_ALL": "C", **self._binaries.environment()}

    def _password(self) -> str:
        kept = self.datadir / "pgbus.password"
        return f":{kept.read_text()}" if kept.exists() else ""

    def _log_tail(self, limit: int = 2000) -> str:
        with self.log_path.open("rb") as log:
            log.seek(self._log_offset)
            return log.read().decode(errors="replace")[-limit:].strip()


def _scratch_directory() -> Path:
    """A private directory whose path is short enough for a unix socket in it."""
    scratch = Path(tempfile.mkdtemp(prefix="pgbus-"))
    if len(os.fsencode(scratch / ".s.PGSQL.65535")) <= _SOCKET_PATH_LIMIT:
        return scratch
    scratch.rmdir()
    return Path(tempfile.mkdtemp(prefix="pgbus-", dir="/tmp"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
