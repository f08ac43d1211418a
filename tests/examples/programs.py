"""Programs of the examples and the documents, run as their readers would run them."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support import ROOT
from tests.support.waiting import PATIENCE


class Program:
    """A process whose output, stderr included, is kept as it comes."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.output = ""
        self._grown = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.output += line.decode()
            self._grown.set()
        self._grown.set()

    async def wait_for(self, text: str, *, timeout: float = PATIENCE) -> None:
        """Wait until `text` is in the output."""
        try:
            async with asyncio.timeout(timeout):
                while text not in self.output:
                    assert not self._reader.done(), f"ended without {text!r}:\n{self.output}"
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            raise AssertionError(f"no {text!r} in:\n{self.output}") from None

    async def wait(self, *, timeout: float = 2 * PATIENCE) -> int:
        """Wait for the end; returns the exit code."""
        async with asyncio.timeout(timeout):
            await self._reader
            return await self.process.wait()


@asynccontextmanager
async def run(
    *command: str, dsn: str | None, cwd: Path = ROOT, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Program]:
    """Run a command until it ends or the block does; then it gets SIGTERM and must end with exit code 0."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PGBUS_", "PYTHON"))}
    kept = {name: os.environ[name] for name in ("PGBUS_PG_BINDIR",) if name in os.environ}
    given = {} if dsn is None else {"PGBUS_DSN": dsn}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True,
        env={**inherited, **kept, **given, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **(environ or {})},
    )  # fmt: skip
    program = Program(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            code = await program.wait()
        except TimeoutError:
            process.kill()
            raise
    assert code in (0, 1, 130), program.output


def python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, *arguments)


def pgbus(*arguments: str) -> tuple[str, ...]:
    return (str(Path(sys.executable).with_name("pgbus")), *arguments)
