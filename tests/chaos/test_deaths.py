"""A process of the engine dies at each of its statements, and the laws of the checker hold.

For every change at the statements of the six steps; with PGBUS_SOAK=1 at every statement that a process has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.chaos.checker import UNHANDLED, come_to_rest, judge
from tests.chaos.deaths import COMMIT, Death, Reaper, living
from tests.chaos.load import keys_of
from tests.chaos.stage import SOAK
from tests.chaos.workload import LISTENERS, TABLES

STEPS = {
    "publish": ("insert_event", "insert_events", COMMIT),
    "sequence": ("read_and_log_event", "log_event", "log_events"),
    "claim": ("claim_ready", "claim_lanes", "claim_deliveries", "lock_delivery"),
    "settle": ("settle_done", "settle_deliveries"),
    "answer": ("post_requests", "claim_requests", "answer_requests", "answer_and_claim", "fetch_responses"),
    "schedule": ("claim_schedules", "finish_schedule_run"),
}
"""The statements of each step; those that no process comes to within a moment are left out, but not all of a step."""
SURVEY = 4.0
PATIENCE = 60.0
DEATHS = 1 if SOAK else 3
"""How many processes die before another one mends what they left; a claim that died five times is a dead letter."""


class Ground:
    """The database that processes live and die on."""

    def __init__(self, dsn: str, connection: asyncpg.Connection, directory: Path) -> None:
        self.dsn = dsn
        self.directory = directory
        self._connection = connection

    async def sql(self, query: str, *values: object) -> list[Any]:
        return list(await self._connection.fetch(query, *values))

    def calls_files(self) -> list[Path]:
        return []  # callers die, too

    async def prepare(self, processes: int) -> None:
        for statement in TABLES.strip().split(";\n")[:-1]:  # the last is for a role of the runs
            await self.sql(statement)
        for number in range(processes):
            await self.sql("INSERT INTO accounts (key) SELECT unnest($1::text[])", keys_of(number))

    async def survey(self) -> Reaper:
        """A process that is not disturbed, until it has come to all that it soon comes to."""
        reaper = Reaper()
        async with living(self.dsn, number=0, directory=self.directory, reaper=reaper):
            deadline = time.monotonic() + PATIENCE
            while not all(any(reaper.seen[name] for name in names) for names in STEPS.values()):
                assert time.monotonic() < deadline, reaper.seen
                await asyncio.sleep(0.1)
            await asyncio.sleep(SURVEY if SOAK else 1)
        return reaper

    async def die(self, death: Death, number: int) -> bool:
        """Whether a process came to that point; it is dead in any case, and another has done its work."""
        reaper = Reaper(death)
        async with living(self.dsn, number=number, directory=self.directory, reaper=reaper):
            try:
                async with asyncio.timeout(PATIENCE / 2):
                    await reaper.died.wait()
            except TimeoutError:
                return False
        return True

    async def mend(self, death: Death) -> None:
        async with living(self.dsn, number=None, directory=self.directory):
            await come_to_rest(self, timeout=PATIENCE)
        left = await self.sql(f"{UNHANDLED} LIMIT 3", LISTENERS)
        assert left == [], f"stuck after a death {death}"


def points(reaper: Reaper) -> Iterator[Death]:
    """Where to die, of all the statements that a process comes to."""
    wanted = {name for names in STEPS.values() for name in names}
    for name in sorted(reaper.seen):
        if SOAK or name in wanted:
            nth = 2 if reaper.seen[name] > 2 else 1  # so that there is something to lose
            yield Death(name, "before", nth)
            yield Death(name, "after", nth)


@pytest.mark.timeout(3600 if SOAK else 600)
async def test_a_process_may_die_at_each_statement(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    ground = Ground(database, connection, tmp_path)
    await ground.prepare(400)
    chosen = list(points(await ground.survey()))
    reached = []
    for number, death in enumerate(chosen, start=1):
        if await ground.die(death, number):
            reached.append(death)
        if number % DEATHS == 0 or number == len(chosen):
            await ground.mend(death)
    verdict = await judge(ground)
    print(*reached, f"{len(reached)} of {len(chosen)} points reached", verdict, sep="\n")  # noqa: T201
    assert verdict.broken == {}
    died_at = {death.statement for death in reached}
    assert [step for step, names in STEPS.items() if not died_at.intersection(names)] == []
