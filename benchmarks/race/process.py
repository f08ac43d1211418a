"""A peer's program as a process that is given commands."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

TIMEOUT = 60.0


class PeerError(Exception):
    """The program of a peer has failed, hangs, or has done something else than it was asked for."""


class PeerProcess:
    """One process of a peer: `ask` gives it a command and returns the answer."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def ask(self, do: str, *, timeout: float = TIMEOUT, **fields: object) -> dict[str, Any]:
        """Raises PeerError if the program fails, ends, or does not answer in `timeout` seconds."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        except TimeoutError:
            raise PeerError(f"{do}: no answer in {timeout:.0f} s") from None
        if not line:
            raise PeerError(f"{do}: the program has ended")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise PeerError(f"{do}: {line[:200]!r} is not an answer") from None
        if "error" in answer:
            raise PeerError(f"{do}: {answer['error']}")
        return answer


@asynccontextmanager
async def started(
    command: Sequence[str], arguments: Sequence[str], *, environ: dict[str, str], directory: Path, log: str
) -> AsyncIterator[PeerProcess]:
    """Start a program; at the end its stdin is closed, and it is killed if that does not end it in two seconds."""
    with open(log, "ab") as errors:  # noqa: PTH123, ASYNC230 - a local file
        process = await asyncio.create_subprocess_exec(
            *command, *arguments, stdin=PIPE, stdout=PIPE, stderr=errors, cwd=directory, env=environ,
            limit=16 * 1024 * 1024,
        )  # fmt: skip
        try:
            yield PeerProcess(process)
        finally:
            assert process.stdin
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 2)
            except TimeoutError:
                process.kill()
                await process.wait()
