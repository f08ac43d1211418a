"""The contract of all adapters and transactional listeners: the rows equal the committed events, whatever is killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
from collections.abc import Iterator
from typing import Any

import asyncpg
import psycopg
import pytest

from pgbus import inbox
from pgbus.testing.databases import DatabaseServer
from tests.chaos.stage import SOAK, Stage
from tests.support import ROOT, eventually

STACKS = ("asyncpg", "psycopg-async", "async-session", "async-connection", "psycopg", "session", "connection", "django")
POINTS = ("before the handler", "in it", "before commit", "after commit")
# A publisher has no handler, and one that writes elsewhere has its commit for itself.
PUBLISHING = POINTS[1:]
ELSEWHERE = (POINTS[3], POINTS[1], POINTS[0])

# Seconds that a process may take to start and to come to its point: many start at once, on a machine that others use.
PATIENCE = 240.0

TABLE = "CREATE TABLE effects_of (n integer NOT NULL, stack text NOT NULL)"


@pytest.fixture
def elsewhere(server: DatabaseServer) -> Iterator[str]:
    """Another database, with an inbox."""
    with server.temporary_database() as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        for statement in (*inbox.ddl(), TABLE):
            connection.execute(statement.encode())
        yield dsn


async def publish(stage: Stage, elsewhere: str, stack: str, *, first: int, point: str, after: int) -> None:
    """A publisher that dies at its so many-th pass of a point, among 30 events."""
    environment = {
        **os.environ, "PGBUS_DSN": stage.dsn, "CHAOS_DSN": stage.dsn, "CHAOS_OTHER_DSN": elsewhere,
        "CHAOS_POINT": point, "CHAOS_AFTER": str(after), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.stacks", stack, str(first), str(first + 30), cwd=ROOT, env=environment
    )
    assert await process.wait() == -signal.SIGKILL


@pytest.mark.timeout(600 + 3_000 * SOAK)
async def test_the_rows_equal_the_committed_events_on_every_stack(stage: Stage, elsewhere: str) -> None:
    rounds = 4 * SOAK or 1
    chance = random.Random(rounds)
    firsts = itertools.count(0, 30)
    at_once = asyncio.Semaphore(4)
    await stage.connection.execute(f"{TABLE}; CREATE TABLE orders (LIKE effects_of)")

    async def publish_until_killed(stack: str, point: str, after: int) -> None:
        async with at_once:
            await publish(stage, elsewhere, stack, first=next(firsts), point=point, after=after)

    async def work_until_killed(listener: str, point: str, after: int) -> None:
        settings: dict[str, Any] = {"CHAOS_OTHER_DSN": elsewhere, "CHAOS_POINT": point, "CHAOS_AFTER": after}
        async with at_once:
            worker = await stage.start(listener, module="tests.chaos.stacks", **settings)
            assert await worker.ended(PATIENCE) == -signal.SIGKILL, worker.log

    for turn in range(rounds):
        numbered = list(enumerate(STACKS, turn))
        await asyncio.gather(
            *(publish_until_killed(stack, PUBLISHING[n % 3], chance.randint(8, 20)) for n, stack in numbered)
        )
        await asyncio.gather(
            *(work_until_killed(stack, POINTS[n % 4], chance.randint(5, 30)) for n, stack in numbered),
            *(
                work_until_killed(f"{stack}-elsewhere", ELSEWHERE[n % 3], chance.randint(5, 30))
                for n, stack in numbered
                if SOAK or n % 3 == 0
            ),
        )

    numbers = [row["n"] for row in await stage.connection.fetch("SELECT n FROM orders ORDER BY n")]
    last = await stage.start(
        *(name for stack in STACKS for name in (stack, f"{stack}-elsewhere")),
        module="tests.chaos.stacks", CHAOS_OTHER_DSN=elsewhere,
    )  # fmt: skip
    names = "SELECT count(*) = $1 FROM pgbus.listeners WHERE cursor IS NULL"
    await eventually(lambda: stage.value(names, 2 * len(STACKS)), PATIENCE)
    await stage.settled(PATIENCE + len(numbers))
    assert last.lives, last.log

    assert len(numbers) > 40 * rounds
    published = "SELECT (payload ->> 'n')::integer AS n FROM pgbus.events WHERE topic = 'crash.placed' ORDER BY 1"
    assert [row["n"] for row in await stage.connection.fetch(published)] == numbers
    assert await stage.dead_letters() == []
    other = await asyncpg.connect(elsewhere)
    try:
        for stack in STACKS:
            for connection in (stage.connection, other):
                rows = await connection.fetch("SELECT n FROM effects_of WHERE stack = $1 ORDER BY n", stack)
                assert [row["n"] for row in rows] == numbers, stack
    finally:
        await other.close()
