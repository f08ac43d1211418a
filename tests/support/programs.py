"""The `pgbus` program as a child process."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg

from tests.support.waiting import PATIENCE, eventually

PROGRAM = str(Path(sys.executable).with_name("pgbus"))


def program_environ(environ: dict[str, str] | None = None) -> dict[str, str]:
    """Our own environment without what would configure pgbus, and with what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGBUS_", "PG"))}
    return {**kept, **(environ or {})}


def run_program(*arguments: str, cwd: Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [PROGRAM, *arguments],
        cwd=cwd,
        env=program_environ(environ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@asynccontextmanager
async def program_of(*command: str, cwd: Path, environ: dict[str, str] | None = None) -> AsyncIterator[Process]:
    """A child with pipes, killed at the end if it still runs."""
    child = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=program_environ(environ), stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


def program(*arguments: str, cwd: Path, environ: dict[str, str] | None = None) -> AbstractAsyncContextManager[Process]:
    """`pgbus` as such a child."""
    return program_of(PROGRAM, *arguments, cwd=cwd, environ=environ)


async def works(connection: asyncpg.Connection, *, pid: int | None = None) -> bool:
    """Whether the listeners of a worker, of any or of that process, are registered and claim."""
    # A worker says that it was seen as soon as its listeners claim.
    query = "SELECT EXISTS (SELECT FROM pgbus.workers WHERE last_seen_at > started_at AND pid = COALESCE($1, pid))"
    return bool(await connection.fetchval(query, pid))


async def at_work(connection: asyncpg.Connection) -> None:
    """Wait until the listeners of a worker are registered and claim.

    That it says "leading" does not mean that: where its listeners take a second to register, it leads before, and
    what is published meanwhile is not theirs.
    """
    await eventually(lambda: works(connection))


class Talking:
    """A child whose lines on stdout and stderr are kept as they come."""

    def __init__(self, child: Process) -> None:
        self.child = child
        self.out: list[str] = []
        self.err: list[str] = []
        self.said_all = False
        """Whether both streams have ended: the end of the process may be known before its last lines are read."""

    async def listen(self) -> None:
        """Keep lines until both streams end."""
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        await asyncio.gather(_keep(self.child.stdout, self.out), _keep(self.child.stderr, self.err))
        self.said_all = True

    async def says(self, pattern: str, *, times: int = 1) -> list[str]:
        """Wait until so many lines of either stream contain the pattern; they are returned."""

        def found() -> list[str]:
            lines = [line for line in [*self.out, *self.err] if re.search(pattern, line)]
            assert len(lines) >= times or not self.said_all, f"ended without {pattern!r}: {self}"
            return lines if len(lines) >= times else []

        try:
            return await eventually(found)
        except AssertionError as error:
            raise AssertionError(f"did not say {pattern!r}: {self}") from error

    async def ends(self, *, within: float = PATIENCE) -> int:
        """Wait for its end, and for all that it said; the exit code."""
        code = await asyncio.wait_for(self.child.wait(), within)
        await eventually(lambda: self.said_all)
        return code

    def __repr__(self) -> str:
        return "\n".join(["", "stdout:", *self.out, "stderr:", *self.err])


@asynccontextmanager
async def talking(*arguments: str, cwd: Path, environ: dict[str, str] | None = None) -> AsyncIterator[Talking]:
    """The program as a child to which one listens; it is killed at the end if it still runs."""
    async with program(*arguments, cwd=cwd, environ=environ) as child:
        one = Talking(child)
        listening = asyncio.create_task(one.listen())
        try:
            yield one
        finally:
            if child.returncode is None:
                child.kill()
            await listening


async def _keep(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode().rstrip("\n"))
