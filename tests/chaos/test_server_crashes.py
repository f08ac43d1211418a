"""The database crashes under load: whatever a publisher was told is published is handled, by the same worker."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from pgbus import migrate
from pgbus.embedded import EmbeddedPostgres
from tests.chaos.publishers import Load
from tests.chaos.stage import SOAK, Stage


@pytest.fixture
async def own_stage(own_server: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Stage]:
    migrate.upgrade(own_server.dsn(), namespace="pgbus")
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(Stage(own_server.dsn(), logs=tmp_path))


@pytest.mark.parametrize(("topic", "listener", "table"), [
    ("chaos.recorded", "record", "handled"), ("chaos.effect", "effect", "effects"),
])  # fmt: skip
async def test_a_worker_outlives_a_crashed_server_and_delivers_all_that_was_published(
    own_server: EmbeddedPostgres, own_stage: Stage, topic: str, listener: str, table: str
) -> None:
    stage = own_stage
    worker = await stage.start(listener)
    load = Load(stage, topic, table, publishers=4)
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
