"""A Redis of its own for each run of a peer that needs one."""

from __future__ import annotations

import asyncio
import socket
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory

from benchmarks.race.process import PeerError

# Redis appends to its log at once and calls fsync once a second, as it advises; without it, nothing is durable.
SETTINGS = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
ATTEMPTS = 200


@asynccontextmanager
async def running_redis(program: str) -> AsyncIterator[tuple[str, int]]:
    """Start the server; its URL and its process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with TemporaryDirectory() as directory:
        process = await asyncio.create_subprocess_exec(
            program, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, *SETTINGS,
            stdout=DEVNULL, stderr=DEVNULL,
        )  # fmt: skip
        try:
            await _answers(port)
            yield f"redis://127.0.0.1:{port}/0", process.pid
        finally:
            process.kill()
            await process.wait()


async def _answers(port: int) -> None:
    for _ in range(ATTEMPTS):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        return
    raise PeerError("Redis does not answer")
