"""Services in directories of their own, each with a `bus.py`, on one database: run as their users would run them."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from tests.support import ROOT
from tests.support.programs import PROGRAM, Talking, program_environ, program_of, works
from tests.support.waiting import PATIENCE, eventually

TUTORIAL = ROOT / "examples" / "lightbus_tutorial"


class Service(Talking):
    """A process of a service, and what it says."""

    def __init__(self, child: Process) -> None:
        super().__init__(child)
        self._read = 0

    async def line(self) -> str:
        """The next line on stdout."""
        await eventually(lambda: len(self.out) > self._read or self.said_all)
        assert len(self.out) > self._read, f"it ended: {self!r}"
        self._read += 1
        return self.out[self._read - 1]

    async def address(self) -> str:
        """The URL that a web server says it is at."""
        [said, *_] = await self.says(r"http://127\.0\.0\.1:\d+")
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found
        return found[0]


class Services:
    """`connection` is the test's own, to the database that all services share."""

    def __init__(self, directory: Path, dsn: str, connection: asyncpg.Connection) -> None:
        self.directory = directory
        self.dsn = dsn
        self.connection = connection
        self.environ = {"PGBUS_DSN": dsn, "PYTHONUNBUFFERED": "1"}

    def write(self, service: str, source: str, **others: str) -> Path:
        """A service of this `bus.py`, and of other modules by their names."""
        directory = self.directory / service
        directory.mkdir(exist_ok=True)
        for name, text in {"bus": source, **others}.items():
            (directory / f"{name}.py").write_text(textwrap.dedent(text))
        return directory

    def copy(self, example: str) -> Path:
        """An example's service, in a directory of its own."""
        return Path(shutil.copytree(TUTORIAL / example, self.directory / example))

    def python(self, cwd: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program of a service that is no worker."""
        return self._program(sys.executable, *arguments, cwd=cwd, stdin=stdin)

    def command(self, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of pgbus to its end."""
        return self._program(PROGRAM, *arguments, cwd=cwd)

    def execute(self, cwd: Path, code: str) -> subprocess.CompletedProcess[str]:
        """Run code of a service that is no worker."""
        return self.python(cwd, "-c", textwrap.dedent(code))

    def run(self, cwd: Path, script: str, *arguments: str) -> str:
        """Run a script beside a `bus.py`, which has to succeed in silence; its output."""
        return self._succeeding(self.python(cwd, script, *arguments))

    def run_code(self, cwd: Path, code: str) -> str:
        """The same of code."""
        return self._succeeding(self.execute(cwd, code))

    def pgbus(self, cwd: Path, *arguments: str) -> str:
        """Run a command of pgbus, which has to succeed; its output."""
        return self._succeeding(self.command(cwd, *arguments))

    @asynccontextmanager
    async def worker(self, cwd: Path, *options: str, **environ: str) -> AsyncIterator[Service]:
        """`pgbus run`, at work; Ctrl-C ends it with exit code 0."""
        async with self.process(PROGRAM, "run", *options, cwd=cwd, **environ) as service:
            await self.at_work(service)
            yield service
            if service.child.returncode is None:
                service.child.send_signal(signal.SIGINT)
            assert await service.ends() == 0

    @asynccontextmanager
    async def process(self, *command: str, cwd: Path, **environ: str) -> AsyncIterator[Service]:
        """Any other process, killed at the end if it still runs; what it said goes with an error."""
        async with program_of(*command, cwd=cwd, environ={**self.environ, **environ}) as child:
            service = Service(child)
            listening = asyncio.create_task(service.listen())
            try:
                yield service
            except BaseException as error:
                error.add_note(f"{cwd.name}: {service!r}")
                raise
            finally:
                if child.returncode is None:
                    child.kill()
                    await child.wait()
                await listening

    async def at_work(self, service: Service) -> None:
        """Wait until a worker's listeners claim."""
        await eventually(lambda: self._works(service))

    async def _works(self, service: Service) -> bool:
        assert service.child.returncode is None, f"ended: {service!r}"
        return await works(self.connection, pid=service.child.pid)

    async def settled(self) -> None:
        """Wait until nothing is owed to any listener."""

        async def nothing_owed() -> bool:
            query = """SELECT NOT EXISTS (SELECT FROM pgbus.outbox) AND NOT EXISTS (SELECT FROM pgbus.deliveries)
                       AND NOT EXISTS (SELECT FROM pgbus.listeners WHERE cursor IS NOT NULL)"""
            return bool(await self.connection.fetchval(query))

        await eventually(nothing_owed, PATIENCE, message="something is still owed")

    async def dead_errors(self) -> list[str]:
        """Why events were given up."""
        return [row["error"] for row in await self.connection.fetch("SELECT error FROM pgbus.dead_letters")]

    def _program(self, *command: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            input=stdin,
            cwd=cwd,
            env=program_environ(self.environ),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def _succeeding(self, done: subprocess.CompletedProcess[str]) -> str:
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout
