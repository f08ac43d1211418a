"""The API `auth`, workers that run its listeners, and what those were called with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

import pgbus
from pgbus import Api, Event, Parameter, WildcardParameter
from pgbus.bus import make_worker
from pgbus.worker.worker import Worker
from tests.support import eventually


class AuthApi(Api):
    user_created = Event(parameters=("username", "email"))
    user_deleted = Event(parameters=("username"))
    seen = Event(parameters=("name", Parameter("note", str | None), Parameter("is_admin", bool, default=False)))
    anything = Event(parameters=(WildcardParameter(),))

    class Meta:
        name = "auth"
        version = 3


@asynccontextmanager
async def working(bus: pgbus.Bus) -> AsyncIterator[Worker]:
    worker = make_worker(bus)
    task = asyncio.create_task(worker.run())
    ready = asyncio.create_task(worker.ready.wait())
    try:
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        assert not task.done(), task.exception()
        yield worker
    finally:
        ready.cancel()
        worker.request_stop()
        await task


class Heard:
    """What handlers were called with, to be waited for."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, call: Any) -> None:
        self.calls.append(call)

    async def wait(self, count: int) -> list[Any]:
        await eventually(lambda: len(self.calls) >= count, message=f"{count} calls; got {self.calls}")
        return self.calls


async def outcomes(connection: asyncpg.Connection, listener_name: str) -> list[str]:
    rows = await connection.fetch(
        """
        SELECT outcome FROM pgbus.attempts
        WHERE listener_name = $1 ORDER BY position, attempt
        """,
        listener_name,
    )
    return [row["outcome"] for row in rows]


async def dead_errors(connection: asyncpg.Connection) -> list[str]:
    return [row["error"] for row in await connection.fetch("SELECT error FROM pgbus.dead_letters ORDER BY position")]


async def is_settled(connection: asyncpg.Connection, count: int) -> bool:
    return bool(await connection.fetchval("SELECT count(*) = $1 FROM pgbus.attempts", count))
