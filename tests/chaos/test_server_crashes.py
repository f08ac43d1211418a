"""The database crashes under load: whatever a publisher was told is published is handled, by the same worker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from pgbus import migrate
from pgbus.embedded import EmbeddedPostgres
from tests.chaos.stage import SOAK, Stage

# Events that are published and not yet handled, at the most.
AHEAD = 300


@pytest.fixture
async def own_stage(own_server: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Stage]:
    migrate.upgrade(own_server.dsn(), namespace="pgbus")
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(Stage(own_server.dsn(), logs=tmp_path))


class Load:
    """Concurrent publishers that go on when the server is away, and remember what they were told is published.

    They stay a bit ahead of what is told in the table, so that it does not take minutes to handle the rest.
    """

    def __init__(self, stage: Stage, topic: str, table: str) -> None:
        self._stage = stage
        self._topic = topic
        self._numbers = itertools.count()
        self._stopping = asyncio.Event()
        self._told = 0
        self.published: set[int] = set()
        self._tasks = [asyncio.create_task(one) for one in (self._count(table), *(self._publish() for _ in range(4)))]

    async def _count(self, table: str) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(Exception):  # the server is away: again
                connection = await asyncpg.connect(self._stage.dsn)
                try:
                    while not self._stopping.is_set():
                        self._told = await connection.fetchval(f"SELECT count(*) FROM {table}")
                        await asyncio.sleep(0.02)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.02)

    async def _publish(self) -> None:
        while not self._stopping.is_set():
            if len(self.published) > self._told + AHEAD:
                await asyncio.sleep(0.01)
                continue
            number = next(self._numbers)
            try:
                await self._stage.bus.publish({"n": number}, topic=self._topic)
            except Exception:  # whatever it is: the publisher does not know, and goes on with another event
                await asyncio.sleep(0.02)
            else:
                self.published.add(number)

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)


@pytest.mark.parametrize(("topic", "listener", "table"), [
    ("chaos.recorded", "record", "handled"), ("chaos.effect", "effect", "effects"),
])  # fmt: skip
async def test_a_worker_outlives_a_crashed_server_and_delivers_all_that_was_published(
    own_server: EmbeddedPostgres, own_stage: Stage, topic: str, listener: str, table: str
) -> None:
    stage = own_stage
    worker = await stage.start(listener)
    load = Load(stage, topic, table)
    for crash in range(2 * (SOAK or 1)):
        await stage.wait_for(table, await stage.count(table) + 100)
        if crash % 2:
            await asyncio.to_thread(own_server.kill)
            await asyncio.to_thread(own_server.start)
        else:
            await asyncio.to_thread(own_server.restart, "immediate")
        await stage.connect()
    await stage.wait_for(table, await stage.count(table) + 100)
    await load.stop()

    await stage.settled()
    assert worker.lives
    told = await stage.numbers(table)
    assert load.published <= set(told)
    assert await stage.dead_letters() == []
    if listener == "effect":
        assert len(told) == len(set(told)), "a transactional handler took effect twice"
    assert worker.log.count("lost the connection") <= 2 * (SOAK or 1), "one line for each time it is lost"
    # The handler's own connections break, too, and its first failure comes with its traceback; ours come with none.
    records = re.split(r"^(?=\d{4}-\d\d-\d\dT)", worker.log, flags=re.MULTILINE)
    assert [record for record in records if "Traceback" in record and "failed on event" not in record] == []
