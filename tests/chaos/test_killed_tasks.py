"""Workers that are killed at any moment, while a schedule runs that may miss nothing."""

from __future__ import annotations

import itertools
import random
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg

from tests.chaos.stage import SOAK
from tests.support import eventually
from tests.support.programs import PROGRAM
from tests.support.services import Service, Services
from tests.support.waiting import PATIENCE

INTERVAL = timedelta(milliseconds=400)

COUNTING = """
import asyncio

import pgbus

bus = pgbus.create()


@bus.client.every(milliseconds=400, missed="all", name="count")
async def count(run: pgbus.TaskContext):
    await asyncio.sleep(0.05)  # so that one in four kills hits a run
"""


async def test_no_run_is_missed_and_none_overlap_whatever_is_killed(services: Services) -> None:
    kills = 20 * SOAK or 4
    chance = random.Random(kills)
    directory = services.write("counting", COUNTING)

    async def runs() -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await services.connection.fetch(
            "SELECT * FROM pgbus.schedule_history ORDER BY started_at, attempt"
        )
        return rows

    async def until(count: int) -> None:
        async def done() -> bool:
            return len([run for run in await runs() if run["outcome"] == "done"]) >= count

        await eventually(done, PATIENCE)

    async with AsyncExitStack() as stack:

        async def start() -> Service:
            process = services.process(PROGRAM, "run", cwd=directory, PGBUS_POLL_INTERVAL="0.3", PGBUS_GRACE="0")
            return await stack.enter_async_context(process)

        team = [await start(), await start()]
        for goal in range(1, kills + 1):
            await until(5 * goal)
            place = chance.randrange(2)
            team[place].child.kill()
            team[place] = await start()
        await until(5 * kills + 5)
        team[0].child.kill()
        team[1].child.kill()
    found = await runs()
    # Those that are still under way have no end.
    ended = [run for run in found if run["finished_at"] is not None]
    assert {run["outcome"] for run in ended} <= {"done", "lost"}
    for before, after in itertools.pairwise(ended):
        assert before["finished_at"] <= after["started_at"]
    due = sorted({run["due_at"] for run in found})
    assert [after - before for before, after in itertools.pairwise(due)] == [INTERVAL] * (len(due) - 1)
    done = [run["due_at"] for run in found if run["outcome"] == "done"]
    assert done == due[: len(done)]  # each once, and in order
    for run in found:
        earlier = [one for one in found if one["due_at"] == run["due_at"] and one["outcome"] == "lost"]
        assert run["attempt"] == 1 + len([one for one in earlier if one["started_at"] < run["started_at"]])
